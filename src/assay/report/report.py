"""The report of a run: what came in, what each step removed and why, the training, and the results with their doubts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import markupsafe
import polars as pl

from assay import __version__
from assay.curate.runner import bias
from assay.curate.steps import MODULES
from assay.explain import first_sentence
from assay.files import read_parquet, write_text
from assay.recipes.recipe import Recipe
from assay.report.plots import curves
from assay.tables import figures, note_lines, percent

if TYPE_CHECKING:
    from assay.demo.demo import Found
    from assay.pipeline import Run

SAMPLES = 3
EXCERPT = 420


def write_report(run: "Run", recipe: Recipe, found: "Sequence[Found] | None" = None) -> Path:
    """Write ``report.html`` into the run's folder: one file, no other needed to look at it.

    Args:
        run: the finished run.
        recipe: what it ran.
        found: what the curation found of planted defects, where they are known.
    """
    curation = run.folder / "curate"
    template = templates().get_template("page.html.j2")
    dropped = read_parquet(curation / "dropped.parquet").join(
        read_parquet(curation / "ledger.parquet").select("id", "copy", "step", "reason", "because_of"), on=["id", "copy"]
    )
    page = template.render(
        recipe=recipe,
        version=__version__,
        reading=run.reading,
        curation=run.curation,
        steps=_steps(run.curation["accounts"], dropped),
        plots=[markupsafe.Markup(svg) for svg in _plots(run)],
        trainings=run.trainings,
        suites=_suites(run),
        found=found,
        folder=str(run.folder),
        headline=_headline(run),
        bias_before=bias(read_parquet(run.folder / "read" / "pairs.parquet")),
        bias_after=bias(read_parquet(curation / "kept.parquet")),
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path


def templates() -> jinja2.Environment:
    """The pages of this folder, with the filters they use."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("assay.report", "."), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, count=lambda n: f"{n:,}", place=_place)
    return environment


def _place(share: float) -> str:
    """A share as a length in CSS. What is no number has no place: it is not drawn, rather than drawn at the beginning."""
    return "0%;display:none" if share != share else f"{100 * share:.2f}%"


def _headline(run: "Run") -> list[tuple[str, str]]:
    curation = run.curation
    cards = [("rows read", f"{run.reading['rows_read']:,}"), ("pairs kept", f"{curation['kept']:,}"), ("kept of all", percent(curation["kept"] / max(1, curation["read"]), 0))]
    for arm, results in run.results.items():
        first = next(iter(results["suites"].values()))
        cards.append((f"accuracy, trained on {arm}", percent(first["overall"]["value"])))
    return cards


def _steps(accounts: list[dict[str, Any]], dropped: pl.DataFrame) -> list[dict[str, Any]]:
    """The steps as the page shows them; the first that dropped anything is open."""
    shown = [_step(account, dropped) for account in accounts]
    first = next((step["step"] for step in shown if step["dropped"]), None)
    return [{**step, "open": step["step"] == first} for step in shown]


def _step(account: dict[str, Any], dropped: pl.DataFrame) -> dict[str, Any]:
    kind = account["step"].split("-", 1)[1]
    gone = dropped.filter(pl.col("step") == account["step"])
    reasons = gone.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return {
        **account,
        "kind": kind,
        "lines": note_lines(account["notes"]),
        "about": first_sentence(MODULES[kind].__doc__ or ""),
        "reasons": list(reasons.head(4).iter_rows()) if reasons.height <= 12 else [],
        "samples": [_sample(row) for row in gone.head(SAMPLES).iter_rows(named=True)],
    }


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    texts = {what: "\n".join(m["content"] for m in row[what]) for what in ("prompt", "chosen", "rejected")}
    short = {what: text if len(text) <= EXCERPT else text[:EXCERPT] + " ..." for what, text in texts.items()}
    return {"id": row["id"], "reason": row["reason"], "because_of": row["because_of"], **short}


def _plots(run: "Run") -> list[str]:
    def series(key: str) -> list[tuple[str, list[float], list[float]]]:
        found = []
        for arm, training in run.trainings.items():
            lines = [line for line in training["metrics"] if key in line]
            if lines:
                found.append((arm, [line["step"] for line in lines], [line[key] for line in lines]))
        return found

    drawn = []
    if loss := series("loss"):
        drawn.append(curves("Training loss", loss, "step"))
    if accuracy := series("eval_accuracy"):
        drawn.append(curves("Accuracy on held-out training prompts", accuracy, "step", percent=True))
    return drawn


def _suites(run: "Run") -> list[dict[str, Any]]:
    """The suites with, for each figure, the arms beside each other."""
    shown = []
    arms = list(run.results)
    for name, suite in next(iter(run.results.values()), {"suites": {}})["suites"].items():
        by_arm = {arm: dict(figures(run.results[arm]["suites"][name])) for arm in arms}
        rows = [{"label": label.strip(), "indent": label.startswith(" "), "arms": [(arm, by_arm[arm][label]) for arm in arms]} for label, _ in figures(suite)]
        shown.append({"name": name, "rows": rows, "rule": suite["rule"], "truncated": suite["truncated"], "ties": suite["ties"], "warnings": suite["warnings"]})
    return shown
