"""Reading what a curation wrote down: why a row stayed or went, and how two curated sets differ."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.runner import FLIPPED, KEPT
from assay.errors import AssayError
from assay.files import MANIFEST, read_json, read_parquet


@dataclass(frozen=True, slots=True)
class Why:
    """One row's whole path."""

    row: dict[str, Any]
    """The row as it came in: prompt, chosen, rejected, source and so on."""
    outcome: str
    """`kept`, `kept, flipped`, or the step that dropped it."""
    path: list[dict[str, Any]]
    """For each step: step, judged, keep, reason, score, because_of, flip."""
    twins: dict[str, dict[str, Any]]
    """Other rows that a verdict names, by id."""


def open_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a finished curation.

    Raises:
        AssayError: ``folder`` is not one.
    """
    if not (folder / MANIFEST).is_file():
        inner = folder / "curate"
        hint = f" Did you mean {inner}?" if (inner / MANIFEST).is_file() else " Is it the folder `assay curate -o` wrote, and did it finish?"
        raise AssayError(f"{folder}: not a finished curation (no {MANIFEST}).{hint}")
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    if "accounts" not in manifest:
        raise AssayError(f"{folder}: holds a {MANIFEST}, but not of a curation")
    return manifest


def rows_of(folder: Path) -> pl.DataFrame:
    """All rows a curation read, kept and dropped, as they came in; ``now_id`` is the id a kept row has since a flip."""
    kept = read_parquet(folder / "kept.parquet").drop("now_id", strict=False).rename({"id": "now_id", "row_id": "id", "row_copy": "copy"})
    rows = pl.concat([kept, read_parquet(folder / "dropped.parquet")], how="diagonal_relaxed").sort("id", "copy")
    if "flipped" not in rows.columns:
        return rows
    turned = pl.col("flipped").fill_null(False)
    return rows.with_columns(chosen=pl.when(turned).then("rejected").otherwise("chosen"), rejected=pl.when(turned).then("chosen").otherwise("rejected"))


def why(folder: Path, id_: str) -> list[Why]:
    """The path of the row whose id, as it came in or as it is now, begins with ``id_``; one for each of its copies.

    Raises:
        AssayError: no row, or rows of more than one id, begin so.
    """
    open_folder(folder)
    rows = rows_of(folder)
    found = rows.filter(pl.col("id") == id_.lower())
    if found.height == 0:
        begins = pl.col("id").str.starts_with(id_.lower()) | pl.col("now_id").str.starts_with(id_.lower()).fill_null(False)
        found = rows.filter(begins)
    if found.height == 0:
        raise AssayError(f"{folder}: no row has an id that begins with {id_}; ids are in ledger.parquet")
    if found["id"].n_unique() > 1:
        some = ", ".join(found["id"].unique().sort().head(3))
        raise AssayError(f"{folder}: {found['id'].n_unique()} rows have an id that begins with {id_}: {some} ...; give more of it")
    ledger = read_parquet(folder / "ledger.parquet")
    return [_path(folder, row, rows, ledger) for row in found.iter_rows(named=True)]


def _path(folder: Path, row: dict[str, Any], rows: pl.DataFrame, ledger: pl.DataFrame) -> Why:
    me = (pl.col("id") == row["id"]) & (pl.col("copy") == row["copy"])
    outcome = ledger.filter(me)["step"][0]
    path = []
    for step in sorted(p.parent for p in folder.glob(f"steps/*/{MANIFEST}")):
        verdict = read_parquet(step / "verdicts.parquet").filter(me)
        path.append({"step": step.name, "judged": verdict.height == 1, **(verdict.row(0, named=True) if verdict.height else {})})
        if step.name == outcome:
            break
    named = {p["because_of"] for p in path if p.get("because_of")}
    twins = rows.filter(pl.col("id").is_in(named)).unique("id", keep="first", maintain_order=True)
    return Why(row, outcome, path, {twin["id"]: twin for twin in twins.iter_rows(named=True)})


def diff(a: Path, b: Path) -> pl.DataFrame:
    """Rows that one curated set has and the other has not.

    Columns: id, in_a, in_b (what each ledger says of the row: `kept`, `kept, flipped`, a step, or `not read`), reason, source.
    """
    ledgers = []
    for folder in (a, b):
        open_folder(folder)
        kept_first = read_parquet(folder / "ledger.parquet").sort(~pl.col("step").is_in([KEPT, FLIPPED]), "id", "copy")
        ledgers.append(kept_first.unique("id", keep="first", maintain_order=True).select("id", "step", "reason", "source"))
    both = ledgers[0].join(ledgers[1], on="id", how="full", coalesce=True, suffix="_b")
    table = both.select(
        "id",
        in_a=pl.col("step").fill_null("not read"),
        in_b=pl.col("step_b").fill_null("not read"),
        reason=pl.coalesce("reason", "reason_b"),
        source=pl.coalesce("source", "source_b"),
    )
    either_kept = pl.any_horizontal(pl.col("in_a", "in_b").is_in([KEPT, FLIPPED]))
    return table.filter(either_kept & (pl.col("in_a") != pl.col("in_b"))).sort("in_a", "in_b", "id")
