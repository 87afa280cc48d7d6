"""Plots as inline SVG that takes its colours from the page, so that one picture serves light and dark."""

import io
import re
from collections.abc import Sequence
from typing import Any

from assay.errors import MissingExtra

COLOURS = {"#010101": "var(--ink)", "#020202": "var(--faint)", "#030303": "var(--line)", "#040404": "var(--accent)", "#050505": "var(--second)"}
"""Stand-in colours that matplotlib draws with, and the page's variables that replace them."""
INK, FAINT, LINE, SERIES = "#010101", "#020202", "#030303", ("#040404", "#050505")


def require() -> None:
    """Check that plots can be drawn.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("drawing the report", "report") from None


def curves(title: str, series: Sequence[tuple[str, list[float], list[float]]], x_label: str, percent: bool = False) -> str:
    """Lines over a common axis as SVG; ``series`` is (name, xs, ys), the first two are drawn."""
    require()
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.labelcolor": FAINT}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6, 2.7))
        axes: Any = figure.subplots()
        for (name, xs, ys), colour in zip(series, SERIES, strict=False):
            axes.plot(xs, ys, color=colour, linewidth=1.8, marker="o" if len(xs) < 12 else None, markersize=4, label=name)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel(x_label)
        axes.tick_params(colors=FAINT, length=0)
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=FAINT)
        figure.tight_layout()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for stand_in, variable in COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
