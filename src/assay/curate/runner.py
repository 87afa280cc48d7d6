"""The runner: takes the verdicts of each step, removes what they say, and accounts for every row.

What it writes to its folder::

    kept.parquet      the curated set
    dropped.parquet   the rows that went, whole
    ledger.parquet    one line a row read: where it ended and why
    steps/01-.../     the verdicts of each step; a step whose manifest exists is not run again
    manifest.json     inputs, steps, counts and hashes; written last

Rows are ordered and named by their content, so neither the order of the input, nor the number of shards or processes, nor an interruption
changes a byte of the result.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay import __version__
from assay.curate import kernels
from assay.curate.step import VERDICT, Context, Fit, Kernel
from assay.curate.steps import MODULES, AnyStep
from assay.errors import AssayError, did_you_mean
from assay.files import (
    MANIFEST,
    fingerprint,
    is_done,
    read_json,
    read_parquet,
    sha256_file,
    start_over,
    write_json,
    write_parquet,
)
from assay.pairs.schema import answer_text, conform, number_copies

OUTPUTS = ("kept.parquet", "dropped.parquet", "ledger.parquet")
KEPT, FLIPPED = "kept", "kept, flipped"
"""What the ledger says of rows that no step dropped."""
SMALL = 5_000
"""Below this many rows a process pool costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Curated:
    """A finished curation."""

    folder: Path
    manifest: dict[str, Any]

    def kept(self) -> pl.DataFrame:
        """The curated pairs."""
        return read_parquet(self.folder / "kept.parquet")


def curate(
    pairs: pl.DataFrame,
    steps: Sequence[AnyStep],
    folder: Path,
    *,
    shards: int = 16,
    workers: int = 1,
    fit: Fit | None = None,
    data_root: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Curated:
    """Run ``steps`` over ``pairs`` in order and write the result to ``folder``; resume what an earlier call left there.

    Args:
        pairs: a pair table, see ``assay.read``.
        steps: configurations of steps, see ``assay.curate.steps``.
        folder: where everything is written. Work of another input or configuration that lies there is removed.
        shards: parts into which kernels split the rows. Does not change the result.
        workers: processes that share the shards. Does not change the result.
        fit: trains the models that ``agree`` judges with; ``assay.train.fit.fit`` does.
        data_root: a folder with copies of hub data sets.
        say: called with a line of progress.
        done: called with the account of each step as it ends.

    Raises:
        AssayError: a step's configuration does not fit the rows, or a benchmark file cannot be read.
    """
    pool = number_copies(conform(pairs))
    content = _content(pool)
    inputs = [_inputs(step, data_root) for step in steps]
    print_ = fingerprint(content, [s.model_dump() for s in steps], inputs, kernels.VERSION)
    if is_done(folder, print_) and all((folder / name).is_file() for name in OUTPUTS):
        return Curated(folder, read_json(folder / MANIFEST))
    _check_sources(steps, pool)
    start_over(folder, print_)
    mapper = _mapper(shards, workers)
    about = {"fingerprint": print_, "assay": __version__, "input": content, "steps": [s.model_dump() for s in steps], "read": pool.height}
    books = _Books([], [], [])
    chain = content
    for number, (step, given) in enumerate(zip(steps, inputs, strict=True), start=1):
        name = f"{number:02d}-{step.kind}"
        chain = fingerprint(chain, step.model_dump(), given, kernels.VERSION)
        workdir = folder / "steps" / name
        context = Context(pool, mapper, workdir / "work", data_root, fit, say)
        verdicts = _judged(step, context, workdir, chain)
        before = pool
        pool, gone, lines = _apply(pool, verdicts, name)
        books.dropped.append(gone)
        books.ledger.append(lines)
        books.accounts.append(_account(name, before, pool, gone, verdicts))
        done(books.accounts[-1])
    return _finish(folder, pool, books, about)


@dataclass(frozen=True, slots=True)
class _Books:
    """What each step did: the rows that went, their lines in the ledger, and the sums."""

    dropped: list[pl.DataFrame]
    ledger: list[pl.DataFrame]
    accounts: list[dict[str, Any]]


def _check_sources(steps: Sequence[AnyStep], pool: pl.DataFrame) -> None:
    """A source that a step names and no row has is a slip, and the step would silently do nothing."""
    there = sorted(set(pool["source"].drop_nulls()))
    for step in steps:
        for name in step.only or []:
            if name not in there:
                raise AssayError(f"step `{step.kind}`: no row has the source `{name}`.{did_you_mean(name, there)} Sources: {', '.join(there) or 'none'}")


def _content(pool: pl.DataFrame) -> str:
    columns = [pool.columns, [str(t) for t in pool.dtypes]]
    return fingerprint(columns, [fingerprint(row) for row in pool.iter_rows()])


def _inputs(step: AnyStep, data_root: Path | None) -> str:
    reads = getattr(MODULES[step.kind], "inputs", None)
    return reads(step, data_root) if reads else ""


def _mapper(shards: int, workers: int) -> Callable[[Kernel, pl.DataFrame], pl.DataFrame]:
    def run(kernel: Kernel, rows: pl.DataFrame) -> pl.DataFrame:
        shard = rows["id"].str.slice(0, 8).str.to_integer(base=16) % shards
        parts = [rows.filter(shard == i) for i in range(shards)]
        parts = [part for part in parts if part.height] or [rows]
        if workers == 1 or rows.height < SMALL:
            results = [kernel(part) for part in parts]
        else:
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as processes:
                results = list(processes.map(kernel, parts))
        return pl.concat(results).sort("id", "copy")

    return run


def _judged(step: AnyStep, context: Context, workdir: Path, print_: str) -> pl.DataFrame:
    """The verdicts of a step: from its folder if it is done there, otherwise by running it."""
    if is_done(workdir, print_):
        return read_parquet(workdir / "verdicts.parquet")
    workdir.mkdir(parents=True, exist_ok=True)
    rows = context.pool if step.only is None else context.pool.filter(pl.col("source").is_in(step.only))
    if rows.height == 0:
        verdicts = pl.DataFrame(schema=VERDICT)
    else:
        verdicts = MODULES[step.kind].judge(rows, step, context).sort("id", "copy")
    write_parquet(workdir / "verdicts.parquet", verdicts)
    write_json(workdir / MANIFEST, {"fingerprint": print_, "step": step.model_dump()})
    return verdicts


def _apply(pool: pl.DataFrame, verdicts: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """(rows that stay, rows that go, their lines in the ledger); flips and new columns are applied to both."""
    key = ["id", "copy"]
    more = [c for c in verdicts.columns if c not in VERDICT]
    fresh = verdicts.select(*key, "flip", *more).rename({"flip": "_flip", **{c: f"_new_{c}" for c in more}})
    marked = pool.join(fresh, on=key, how="left", maintain_order="left").with_columns(
        pl.coalesce(f"_new_{c}", *([c] if c in pool.columns else [])).alias(c) for c in more
    ).drop([f"_new_{c}" for c in more])
    flip = pl.col("_flip").fill_null(False)
    if verdicts["flip"].any():
        before = pl.col("flipped").fill_null(False) if "flipped" in pool.columns else pl.lit(False)
        marked = marked.with_columns(
            chosen=pl.when(flip).then("rejected").otherwise("chosen"),
            rejected=pl.when(flip).then("chosen").otherwise("rejected"),
            margin=pl.when(~flip).then("margin"),
            flipped=before ^ flip,
        )
    marked = marked.drop("_flip")
    against = verdicts.filter(~pl.col("keep"))
    gone = marked.join(against, on=key, how="semi", maintain_order="left")
    lines = gone.select(*key, "source", "category").join(against.select(*key, step=pl.lit(name), reason="reason", score="score", because_of="because_of"), on=key, how="left", maintain_order="left")
    return marked.join(against, on=key, how="anti", maintain_order="left"), gone, lines


def bias(rows: pl.DataFrame) -> dict[str, float | int]:
    """What a set of pairs gives away by length: its rows, the share whose chosen answer is longer (ties half), the mean lengths."""
    if rows.height == 0:
        return {"rows": 0}
    chosen = [len(answer_text(m)) for (m,) in rows.select("chosen").iter_rows()]
    rejected = [len(answer_text(m)) for (m,) in rows.select("rejected").iter_rows()]
    longer = sum(1.0 if c > r else 0.5 if c == r else 0.0 for c, r in zip(chosen, rejected, strict=True))
    return {
        "rows": rows.height,
        "chosen_longer": longer / rows.height,
        "chosen_chars": sum(chosen) / rows.height,
        "rejected_chars": sum(rejected) / rows.height,
    }


def _account(name: str, before: pl.DataFrame, after: pl.DataFrame, gone: pl.DataFrame, verdicts: pl.DataFrame) -> dict[str, Any]:
    return {
        "step": name,
        "judged": verdicts.height,
        "before": bias(before),
        "after": bias(after),
        "dropped": gone.height,
        "flipped": int((verdicts["flip"] & verdicts["keep"]).sum()),
        "dropped_by_source": _counts(gone, "source"),
        "dropped_by_category": _counts(gone, "category"),
        "kept_by_source": _counts(after, "source"),
    }


def _counts(rows: pl.DataFrame, column: str) -> dict[str, int]:
    counted = rows.group_by(pl.col(column).fill_null("(none)")).len().sort("len", column, descending=[True, False])
    return dict(counted.iter_rows())


def _finish(folder: Path, pool: pl.DataFrame, books: _Books, about: dict[str, Any]) -> Curated:
    """Write the result, the manifest last; check that every row read is in it once."""
    flipped = pl.col("flipped") if "flipped" in pool.columns else pl.lit(False)
    stayed = pool.select(
        "id",
        "copy",
        "source",
        "category",
        step=pl.when(flipped).then(pl.lit(FLIPPED)).otherwise(pl.lit(KEPT)),
        reason=pl.lit(None, pl.String),
        score=pl.lit(None, pl.Float64),
        because_of=pl.lit(None, pl.String),
    )
    dropped = pl.concat(books.dropped, how="diagonal_relaxed").sort("id", "copy") if books.dropped else pool.clear()
    ledger = pl.concat([*books.ledger, stayed]).sort("id", "copy")
    kept = pool.rename({"copy": "row_copy"}).with_columns(row_id="id")
    if not (pool.height + dropped.height == about["read"] == ledger.height == ledger.select("id", "copy").n_unique()):
        raise RuntimeError(f"rows are lost: {about['read']} read, {pool.height} kept, {dropped.height} dropped, {ledger.height} in the ledger")
    for name, table in zip(OUTPUTS, (conform(kept).sort("row_id", "row_copy"), dropped, ledger), strict=True):
        write_parquet(folder / name, table)
    hashes = {name: sha256_file(folder / name) for name in OUTPUTS}
    manifest = {**about, "kept": pool.height, "dropped": dropped.height, "accounts": books.accounts, "sha256": hashes}
    write_json(folder / MANIFEST, manifest)
    return Curated(folder, manifest)
