"""Reading what a curation wrote down: why a row stayed or went, and how two curated sets differ."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.runner import STAYED
from assay.curate.steps.decontaminate import AND
from assay.errors import AssayError
from assay.files import MANIFEST, read_json, read_parquet

ID = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True, slots=True)
class Why:
    """One row's whole path."""

    row: dict[str, Any]
    """The row as it came in: prompt, chosen, rejected, source and so on."""
    outcome: str
    """`kept`, `kept, flipped`, `kept, trimmed`, or the step that dropped it."""
    path: list[dict[str, Any]]
    """For each step: step, judged, keep, reason, score, because_of, flip."""
    twins: dict[str, dict[str, Any]]
    """Other rows that a verdict names, by id."""
    now_id: str | None
    """The id of what the row says since a flip or a trim, if there was one."""
    benchmark_prompts: dict[str, str]
    """Prompts of benchmarks that a verdict names."""


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


def as_read(folder: Path) -> pl.LazyFrame:
    """All rows a curation read, as they came in: the columns of the input, ``prompt_id`` and ``copy``."""
    shards = [file for file in sorted((folder / "pool").glob("[0-9]*.parquet")) if not file.name.endswith(".features.parquet")]
    if not shards:
        raise AssayError(f"{folder}: the folder `pool`, which holds the rows as they were read, is gone; run the curation again")
    return pl.concat([pl.scan_parquet(file, glob=False) for file in shards])


def why(folder: Path, id_: str) -> list[Why]:
    """The path of the row whose id, as it came in or as it is now, begins with ``id_``; one for each of its copies.

    Raises:
        AssayError: no row, or rows of more than one id, begin so.
    """
    open_folder(folder)
    begins = id_.lower()
    all_ids = as_read(folder).select("id").filter(pl.col("id").str.starts_with(begins))
    renamed = pl.scan_parquet(folder / "kept.parquet", glob=False).filter(pl.col("id").str.starts_with(begins) & (pl.col("id") != pl.col("row_id"))).select(id="row_id")
    ids = pl.concat([all_ids, renamed]).unique().sort("id").collect()["id"].to_list()
    ids = [begins] if begins in ids else ids
    if not ids:
        raise AssayError(f"{folder}: no row has an id that begins with {id_}; ids are in ledger.parquet")
    if len(ids) > 1:
        raise AssayError(f"{folder}: {len(ids)} rows have an id that begins with {id_}: {', '.join(ids[:3])} ...; give more of it")
    rows = as_read(folder).filter(pl.col("id") == ids[0]).sort("copy").collect()
    return [_path(folder, row) for row in rows.iter_rows(named=True)]


def _path(folder: Path, row: dict[str, Any]) -> Why:
    me = (pl.col("id") == row["id"]) & (pl.col("copy") == row["copy"])
    outcome = pl.scan_parquet(folder / "ledger.parquet").filter(me).select("step").collect()["step"][0]
    path = []
    for step in sorted(p.parent for p in folder.glob(f"steps/*/{MANIFEST}")):
        verdict = pl.scan_parquet(step / "verdicts.parquet").filter(me).collect()
        path.append({"step": step.name, "judged": verdict.height == 1, **(verdict.drop("row").row(0, named=True) if verdict.height else {})})
        if step.name == outcome:
            break
    said = " ".join(f"{p.get('because_of') or ''} {p.get('reason') or ''}" for p in path)
    twins = as_read(folder).filter(pl.col("id").is_in(sorted(set(ID.findall(said)) - {row["id"]}))).unique("id", keep="first").sort("id").collect()
    kept = pl.scan_parquet(folder / "kept.parquet", glob=False).filter((pl.col("row_id") == row["id"]) & (pl.col("row_copy") == row["copy"])).select("id").collect()["id"]
    now_id = kept[0] if len(kept) and kept[0] != row["id"] else None
    return Why(row, outcome, path, {twin["id"]: twin for twin in twins.iter_rows(named=True)}, now_id, _benchmark_prompts(folder, path))


def _benchmark_prompts(folder: Path, path: list[dict[str, Any]]) -> dict[str, str]:
    """The prompts of benchmarks that verdicts name."""
    found = {}
    for step in path:
        for file in sorted((folder / "steps" / step["step"] / "references").glob("*.parquet")) if step.get("because_of") else []:
            named = pl.scan_parquet(file).filter(pl.format("{}:{}", "benchmark", "row") == step["because_of"].split(AND)[0]).collect()
            found.update(dict.fromkeys([step["because_of"]], named["text"][0]) if named.height else {})
    return found


def borderline(folder: Path, rows: int = 3) -> pl.DataFrame:
    """For every step with a threshold, the rows nearest to it, dropped and kept: step, keep, close, reason, because_of, id, copy. ``folder`` may be that of a dry run."""
    steps = sorted(p.parent for p in folder.glob(f"steps/*/{MANIFEST}"))
    if not steps:
        open_folder(folder)
    found = [pl.DataFrame(schema={"step": pl.String, "keep": pl.Boolean, "close": pl.Float64, "reason": pl.String, "because_of": pl.String, "id": pl.String, "copy": pl.Int32})]
    for step in steps:
        near = pl.scan_parquet(step / "verdicts.parquet").filter(pl.col("close").is_not_null()).with_columns(pl.col("close").abs())
        for keep in (False, True):
            nearest = near.filter(pl.col("keep") == keep).sort("close", "id", "copy").head(rows).collect()
            found.append(nearest.select(pl.lit(step.name).alias("step"), "keep", "close", "reason", "because_of", "id", "copy"))
    return pl.concat(found)


def diff(a: Path, b: Path) -> pl.DataFrame:
    """Rows that one curated set has and the other has not, or has the other way round. Copies of a row are told apart by their number alone: of three copies in one set and one in the other, two are missing.

    Columns: id, in_a, in_b (what each ledger says of the row: `kept`, `kept, flipped`, `kept, trimmed`, a step, or `not read`), reason, source.
    """
    ledgers = []
    for folder in (a, b):
        open_folder(folder)
        kept_first = read_parquet(folder / "ledger.parquet").sort("id", ~pl.col("step").is_in(STAYED), "copy")
        ledgers.append(kept_first.select("id", "step", "reason", "source", place=pl.int_range(pl.len()).over("id")))
    both = ledgers[0].join(ledgers[1], on=["id", "place"], how="full", coalesce=True, suffix="_b")
    table = both.select(
        "id",
        in_a=pl.col("step").fill_null("not read"),
        in_b=pl.col("step_b").fill_null("not read"),
        reason=pl.coalesce("reason", "reason_b"),
        source=pl.coalesce("source", "source_b"),
    )
    either_kept = pl.any_horizontal(pl.col("in_a", "in_b").is_in(STAYED))
    return table.filter(either_kept & (pl.col("in_a") != pl.col("in_b"))).sort("in_a", "in_b", "id")
