"""Reading what a curation wrote down: why a row stayed or went, and how two curated sets differ."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay.errors import AssayError
from assay.files import MANIFEST, read_json, read_parquet


@dataclass(frozen=True, slots=True)
class Why:
    """One row's whole path."""

    row: dict[str, Any]
    """The row as it came in: prompt, chosen, rejected, source and so on."""
    outcome: str
    """`kept`, or the step that dropped it."""
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
    """All rows a curation read, kept and dropped, named by the id they came in with."""
    kept = read_parquet(folder / "kept.parquet").with_columns(id="row_id").drop("row_id")
    return pl.concat([kept, read_parquet(folder / "dropped.parquet")], how="diagonal_relaxed").sort("id", "copy")


def why(folder: Path, id_: str) -> list[Why]:
    """The path of the row whose id begins with ``id_``; one for each of its copies.

    Raises:
        AssayError: no row, or rows of more than one id, begin so.
    """
    open_folder(folder)
    rows = rows_of(folder)
    found = rows.filter(pl.col("id").str.starts_with(id_.lower()))
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
    for step in sorted(p for p in (folder / "steps").iterdir() if (p / MANIFEST).is_file()):
        verdict = read_parquet(step / "verdicts.parquet").filter(me)
        path.append({"step": step.name, "judged": verdict.height == 1, **(verdict.row(0, named=True) if verdict.height else {})})
        if step.name == outcome:
            break
    named = {p["because_of"] for p in path if p.get("because_of")}
    twins = rows.filter(pl.col("id").is_in(named)).unique("id", keep="first", maintain_order=True)
    return Why(row, outcome, path, {twin["id"]: twin for twin in twins.iter_rows(named=True)})


def diff(a: Path, b: Path) -> pl.DataFrame:
    """Rows that one curated set has and the other has not.

    Columns: id, in_a, in_b (what the other folder's ledger says of the row: `kept`, a step, or `not read`), reason, source.
    """
    ledgers = []
    for folder in (a, b):
        open_folder(folder)
        kept_first = read_parquet(folder / "ledger.parquet").sort(pl.col("step") != "kept", "id", "copy")
        ledgers.append(kept_first.unique("id", keep="first", maintain_order=True).select("id", "step", "reason", "source"))
    both = ledgers[0].join(ledgers[1], on="id", how="full", coalesce=True, suffix="_b")
    table = both.select(
        "id",
        in_a=pl.col("step").fill_null("not read"),
        in_b=pl.col("step_b").fill_null("not read"),
        reason=pl.coalesce("reason", "reason_b"),
        source=pl.coalesce("source", "source_b"),
    )
    return table.filter((pl.col("in_a") == "kept") != (pl.col("in_b") == "kept")).sort("in_a", "in_b", "id")
