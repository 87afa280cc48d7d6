"""Plots as inline SVG that takes its colours from the page, so that one picture serves light and dark."""

import io
import re
from collections.abc import Callable, Sequence
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
    """Lines over a common axis as SVG; ``series`` is (name, xs, ys), as many are drawn as there are colours."""

    def draw(axes: Any) -> None:
        for (name, xs, ys), colour in zip(series, SERIES, strict=False):
            axes.plot(xs, ys, color=colour, linewidth=1.8, marker="o" if len(xs) < 12 else None, markersize=4, label=name)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=FAINT)

    return drawn(title, x_label, draw, percent)


def banded(title: str, series: Sequence[tuple[str, list[float], list[dict[str, float]]]], x_label: str, percent: bool = False, log: bool = False) -> str:
    """Lines with their intervals; ``series`` is (name, xs, points with ``value``, ``low``, ``high``). The first two in colour, the others thin."""

    def draw(axes: Any) -> None:
        for i, (name, xs, points) in enumerate(series):
            colour = SERIES[i] if i < len(SERIES) else FAINT
            axes.plot(xs, [p["value"] for p in points], color=colour, linewidth=1.8 if i < 2 else 1.0, linestyle=("-", "-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))[i % 6], marker="o" if i < 2 else None, markersize=3.5, label=name)
            if i < 2:
                axes.fill_between(xs, [p["low"] for p in points], [p["high"] for p in points], color=colour, alpha=0.15, linewidth=0)
        if log:
            axes.set_xscale("log", base=2)
            axes.set_xticks(series[0][1], [f"{x:g}" for x in series[0][1]])
            axes.minorticks_off()
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=FAINT)

    return drawn(title, x_label, draw, percent)


def reliability(title: str, points: Sequence[dict[str, Any]]) -> str:
    """How often the ranking is right against how sure the margin says it is; the line is what it should be, a point's area its share of the comparisons."""

    def draw(axes: Any) -> None:
        axes.plot([0.5, 1], [0.5, 1], color=LINE, linewidth=1.5)
        axes.scatter([p["confidence"] for p in points], [p["accuracy"] for p in points], s=[20 + 400 * p["weight"] for p in points], color=SERIES[0], alpha=0.75, linewidth=0)
        axes.set_xlim(0.48, 1.02)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")

    return drawn(title, "what sigmoid(margin / T) says", draw, percent=True)


def histograms(title: str, series: Sequence[tuple[str, Any]], x_label: str) -> str:
    """Outlines of how numbers are distributed, over common bins."""

    def draw(axes: Any) -> None:
        import numpy as np

        every = np.concatenate([values for _, values in series])
        low, high = np.quantile(every, [0.002, 0.998])
        edges = np.linspace(low, high if high > low else low + 1, 41)
        for (name, values), colour in zip(series, SERIES, strict=False):
            axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges, density=True, histtype="stepfilled", color=colour, alpha=0.22)
            axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges, density=True, histtype="step", color=colour, linewidth=1.5, label=name)
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=9, labelcolor=FAINT)

    return drawn(title, x_label, draw)


def columns(title: str, bars: Sequence[tuple[str, float, float, float]], x_label: str, level: float | None = None) -> str:
    """Columns with intervals, (label, value, low, high), in percent; ``level`` is a line across."""

    def draw(axes: Any) -> None:
        places = range(len(bars))
        axes.bar(places, [b[1] for b in bars], color=SERIES[0], alpha=0.75, width=0.7)
        axes.errorbar(places, [b[1] for b in bars], yerr=[[max(0.0, b[1] - b[2]) for b in bars], [max(0.0, b[3] - b[1]) for b in bars]], fmt="none", ecolor=INK, linewidth=1.2)
        axes.set_xticks(list(places), [b[0] for b in bars], fontsize=8)
        axes.set_ylim(0, 1.02)
        if level is not None:
            axes.axhline(level, color=SERIES[1], linewidth=1.2, linestyle="--")

    return drawn(title, x_label, draw, percent=True)


def drawn(title: str, x_label: str, draw: Callable[[Any], None], percent: bool = False) -> str:
    """What ``draw`` puts on axes, as SVG in the page's colours."""
    require()
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.labelcolor": FAINT}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6, 2.7))
        axes: Any = figure.subplots()
        draw(axes)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel(x_label)
        axes.tick_params(colors=FAINT, length=0)
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
        figure.tight_layout()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for stand_in, variable in COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
