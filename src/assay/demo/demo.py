"""What the demo adds to an ordinary run: the planted truth, and how much of it the curation found."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from assay.files import read_json, read_parquet

FINDERS = {
    "copy": ("duplicates",),
    "marker": ("markers",),
    "benchmark prompt": ("decontaminate",),
    "flipped": ("agree", "contradictions"),
}
"""Which steps are to find which defect."""


@dataclass(frozen=True, slots=True)
class Found:
    """How one kind of planted defect fared."""

    defect: str
    planted: int
    found: int
    """Of the planted, how many were dropped by a step made for it (or by one before it)."""
    dropped: int
    """How many rows the steps made for it dropped."""
    true: int
    """Of those, how many carry a defect."""

    @property
    def recall(self) -> float:
        """Share of the planted that was found."""
        return self.found / self.planted

    @property
    def precision(self) -> float | None:
        """Share of the dropped that deserved it."""
        return self.true / self.dropped if self.dropped else None


def planted() -> dict[str, dict[str, Any]]:
    """The planted defects, by the sample's own row names."""
    truth: dict[str, dict[str, Any]] = read_json(Path(str(resources.files("assay.demo"))) / "truth.json")
    return truth


def what_was_found(curation: Path) -> list[Found]:
    """Recall and precision of the curation in ``curation`` for each planted defect.

    Of a row and its planted copy one has to go, whichever; so a copy counts as found if a row of its content was dropped as a duplicate.
    """
    truth = planted()
    dropped = read_parquet(curation / "dropped.parquet").select("id", "copy", "source_id")
    ledger = read_parquet(curation / "ledger.parquet").select("id", "copy", "step")
    gone = dropped.join(ledger, on=["id", "copy"]).with_columns(kind=pl.col("step").str.split("-").list.last())
    kept = read_parquet(curation / "kept.parquet").select("source_id")
    return [_fared(defect, kinds, truth, gone, set(kept["source_id"])) for defect, kinds in FINDERS.items()]


def _fared(defect: str, kinds: tuple[str, ...], truth: dict[str, dict[str, Any]], gone: pl.DataFrame, kept: set[str]) -> Found:
    names = [name for name, what in truth.items() if what["defect"] == defect]
    by_kind = gone.filter(pl.col("kind").is_in(kinds))
    if defect == "copy":  # one of each pair of equal rows has to go, whichever
        return Found(defect, len(names), min(by_kind.height, len(names)), by_kind.height, min(by_kind.height, len(names)))
    dropped = by_kind["source_id"].to_list()
    return Found(defect, len(names), sum(n not in kept for n in names), len(dropped), sum(n in truth for n in dropped))
