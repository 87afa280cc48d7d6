"""The runner: takes the verdicts of each step, removes what they say, and accounts for every row.

What it writes to its folder::

    kept.parquet      the curated set
    dropped.parquet   the rows that went, whole
    ledger.parquet    one line a row read: where it ended and why
    pool/             the rows as they came in, in shards
    steps/01-.../     the verdicts of each step; a step whose manifest exists is not run again
    manifest.json     inputs, steps, counts and hashes; written last

Rows are ordered and named by their content, so neither the order of the input, nor the number of shards or processes, nor the engine, nor an
interruption changes a byte of the result. Texts stay on disk; in memory is what decides, some hundred bytes a row.
"""

import itertools
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from assay import __version__
from assay import engine as engines
from assay.curate import kernels
from assay.curate.pool import SEPARATOR, Pool, ingest, load
from assay.curate.step import VERDICT, Context, Fit, Likelihood, Score, current_features
from assay.curate.steps import MODULES, AnyStep
from assay.engine import Engine, Tick
from assay.errors import AssayError, did_you_mean
from assay.files import (
    MANIFEST,
    ParquetStream,
    claim,
    fingerprint,
    is_done,
    read_json,
    read_parquet,
    sha256_file,
    start_over,
    write_json,
    write_parquet,
)
from assay.pairs.schema import answer_text, conform, pair_id

OUTPUTS = ("kept.parquet", "dropped.parquet", "ledger.parquet")
KEPT, FLIPPED, TRIMMED, BOTH = STAYED = ("kept", "kept, flipped", "kept, trimmed", "kept, flipped and trimmed")
"""What the ledger says of rows that no step dropped."""
SAID = ("reason", "score", "because_of", "close")
"""What a verdict tells a reader; the runner goes by the rest."""
SMALL = 64 << 20
"""Below this many bytes of pairs a process pool costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Curated:
    """A finished curation."""

    folder: Path
    manifest: dict[str, Any]

    def kept(self) -> pl.DataFrame:
        """The curated pairs."""
        return read_parquet(self.folder / "kept.parquet")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a curation is given to work with; none of it changes the result but by what it computes."""

    fit: Fit | None = None
    """Trains the models that ``agree`` judges with; ``assay.train.fit.fitter`` makes one."""
    score: Score | None = None
    """Scores pairs by a scorer's spec; ``assay.score.sides.sides`` does."""
    likelihood: Likelihood | None = None
    """Runs causal language models for ``perplexity``; ``assay.score.likelihood.measurer`` makes one."""
    data_root: Path | None = None
    """A folder with copies of hub data sets."""
    say: Callable[[str], None] = lambda _: None
    """Called with a line of progress."""
    tick: Callable[[str], AbstractContextManager[Tick]] = lambda _: nullcontext(lambda *_: None)
    """Shows how far a named piece of work is."""
    done: Callable[[dict[str, Any]], None] = lambda _: None
    """Called with the account of each step as it ends."""


def curate(
    pairs: pl.DataFrame | Path,
    steps: Sequence[AnyStep],
    folder: Path,
    *,
    shards: int | None = None,
    workers: int = 1,
    engine: engines.Name = "local",
    dry_run: bool = False,
    **tools: Any,
) -> Curated:
    """Run ``steps`` over ``pairs`` in order and write the result to ``folder``; resume what an earlier call left there.

    Work of another input is removed; after a change of the steps those before the first changed one are not run again.

    Args:
        pairs: a pair table, see ``assay.read``, or the Parquet file of one.
        steps: configurations of steps, see ``assay.curate.steps``.
        folder: where everything is written.
        shards: parts into which the rows are cut; by their size if not given. Does not change the result.
        workers: processes that share the shards. Does not change the result.
        engine: ``local`` or ``ray``. Does not change the result.
        dry_run: stop before anything is removed: verdicts and accounts are made, kept, dropped and ledger are not.
        tools: fields of ``Tools``.

    Raises:
        AssayError: a step's configuration does not fit the rows, or a benchmark file cannot be read.
    """
    given = Tools(**tools)
    if isinstance(pairs, Path) and not pairs.is_file():
        raise AssayError(f"{pairs}: no such file; expected a pair table, see `assay read`")
    _check_sources(steps, pairs)
    claim(folder)
    if isinstance(pairs, pl.DataFrame):
        file = folder / "input.parquet"
        write_parquet(file, conform(pairs))
    else:
        file = pairs
    if dry_run and (folder / MANIFEST).is_file():
        return _already(file, steps, folder, given)
    small = engine == "local" and file.stat().st_size < SMALL
    with engines.start(engine, 1 if small else workers) as running:
        with given.tick("sorting into shards") as tick:
            pool = ingest(file, folder / "pool", running, shards=shards, tick=tick)
        if isinstance(pairs, pl.DataFrame):
            file.unlink(missing_ok=True)
        inputs = [_inputs(step, given.data_root) for step in steps]
        print_ = fingerprint(pool.content, [s.model_dump() for s in steps], inputs, kernels.VERSION)
        if is_done(folder, print_) and all((folder / name).is_file() for name in OUTPUTS):
            return Curated(folder, read_json(folder / MANIFEST))
        alive = pl.concat(part.with_columns(pl.col("source", "category").cast(pl.Categorical)) for part in pool.by_shard("source", "category"))
        for name in (MANIFEST, *OUTPUTS):
            (folder / name).unlink(missing_ok=True)
        alive, accounts = _run_steps(pool, alive, steps, inputs, folder, running, given)
        about = {"fingerprint": print_, "assay": __version__, "input": pool.content, "steps": [s.model_dump() for s in steps], "read": pool.height, "accounts": accounts}
        if dry_run:
            return Curated(folder, about | {"kept": alive.height, "dropped": pool.height - alive.height, "dry_run": True})
        return _finish(folder, pool, alive, about)


def _already(file: Path, steps: Sequence[AnyStep], folder: Path, given: Tools) -> Curated:
    """The finished curation in ``folder``, if it is of these rows by these steps.

    Raises:
        AssayError: it is another; a dry run would undo it.
    """
    with TemporaryDirectory() as elsewhere:
        content = ingest(file, Path(elsewhere), engines.HERE).content
    if file.parent == folder:
        file.unlink()
    inputs = [_inputs(step, given.data_root) for step in steps]
    if is_done(folder, fingerprint(content, [s.model_dump() for s in steps], inputs, kernels.VERSION)):
        return Curated(folder, read_json(folder / MANIFEST))
    raise AssayError(f"{folder}: holds a curation by other steps or of other rows, which a dry run would undo; give another folder")


def _check_sources(steps: Sequence[AnyStep], pairs: pl.DataFrame | Path) -> None:
    """A source that a step names and no row has is a slip, and the step would silently do nothing."""
    if all(step.only is None for step in steps):
        return
    rows = pairs.lazy() if isinstance(pairs, pl.DataFrame) else pl.scan_parquet(pairs, glob=False)
    named = "source" in rows.collect_schema()
    there = sorted(rows.select(pl.col("source").cast(pl.String).unique()).collect()["source"].drop_nulls()) if named else []
    for step in steps:
        for name in step.only or []:
            if name not in there:
                raise AssayError(f"step `{step.kind}`: no row has the source `{name}`.{did_you_mean(name, there)} Sources: {', '.join(there) or 'none'}")


def _inputs(step: AnyStep, data_root: Path | None) -> str:
    reads = getattr(MODULES[step.kind], "inputs", None)
    return reads(step, data_root) if reads else ""


def _run_steps(pool: Pool, alive: pl.DataFrame, steps: Sequence[AnyStep], inputs: list[str], folder: Path, engine: Engine, tools: Tools) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """The rows that stay, with their marks and new columns, and what each step did."""
    names = [f"{number:02d}-{step.kind}" for number, step in enumerate(steps, start=1)]
    for old in (folder / "steps").glob("*"):
        if old.name not in names:
            shutil.rmtree(old)
    accounts = []
    chain = pool.content
    lengths = _lengths(pool, alive, folder / "pool" / "features", engine)
    for name, step, given in zip(names, steps, inputs, strict=True):
        chain = fingerprint(chain, step.model_dump(), given, kernels.VERSION)
        workdir = folder / "steps" / name
        context = Context(pool, alive, engine, workdir / "work", tools.data_root, tools.fit, tools.score, tools.likelihood, tools.say, {}, tools.tick)
        file, notes = judged(step, context, workdir, chain)
        alive, lengths, account = _taken(name, file, notes, context, lengths)
        accounts.append(account)
        tools.done(account)
    return alive, accounts


def _taken(name: str, file: Path, notes: dict[str, Any], context: Context, lengths: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """What stays by the verdicts in ``file``, the lengths of its answers, and the account of the step. Verdicts are held no longer than that."""
    verdicts = read_parquet(file, without=("id", "copy", *SAID))
    alive = _apply(context.alive, verdicts)
    after = lengths.join(alive.select("row"), on="row", how="semi")
    if verdicts["flip"].any() or verdicts["trim"].is_not_null().any():
        after = _lengths(context.pool, alive, file.parent / "features", context.engine)
    return alive, after, _account(name, context.alive, alive, verdicts, lengths, after, notes)


def _lengths(pool: Pool, alive: pl.DataFrame, workdir: Path, engine: Engine) -> pl.DataFrame:
    return current_features(pool, alive, "chars", workdir, engine)


def judged(step: AnyStep, context: Context, workdir: Path, print_: str) -> tuple[Path, dict[str, Any]]:
    """The file of a step's verdicts, in order of the rows, and its notes: from its folder if it is done there, otherwise by running it."""
    file = workdir / "verdicts.parquet"
    if not is_done(workdir, print_):
        start_over(workdir, print_)
        rows = context.alive if step.only is None else context.alive.filter(pl.col("source").is_in(step.only))
        verdicts = MODULES[step.kind].judge(rows, step, context) if rows.height else pl.LazyFrame(schema=VERDICT)
        with ParquetStream(file) as stream:
            for (first, end), ids in zip(itertools.pairwise(context.pool.first()), context.pool.by_shard("id", "copy"), strict=True):
                these = verdicts.filter(pl.col("row").is_between(first, end, closed="left")).collect()
                stream.write(ids.join(these, on="row", how="inner", maintain_order="left").select("id", "copy", *these.columns))
        write_json(workdir / MANIFEST, {"fingerprint": print_, "step": step.model_dump(), "notes": context.notes})
        shutil.rmtree(workdir / "work", ignore_errors=True)
    return file, read_json(workdir / MANIFEST)["notes"]


def _apply(alive: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """The rows that stay, with flips, trims and new columns of this step joined to those of earlier ones."""
    more = [c for c in verdicts.columns if c not in VERDICT]
    stay = alive.join(verdicts.filter(~pl.col("keep")), on="row", how="anti", maintain_order="left")
    marks = [c for c, there in (("flip", verdicts["flip"].any()), ("trim", verdicts["trim"].is_not_null().any())) if there]
    if not (marks or more):
        return stay
    fresh = verdicts.select("row", *marks, *more).rename({c: f"_new_{c}" for c in (*marks, *more)})
    stay = stay.join(fresh, on="row", how="left", maintain_order="left")
    for c in more:
        stay = stay.with_columns(pl.coalesce(f"_new_{c}", *([c] if c in alive.columns else [])).alias(c))
    if "flip" in marks:
        before = pl.col("flipped").fill_null(False) if "flipped" in alive.columns else pl.lit(False)
        stay = _turned(stay, [c for c in alive.columns if c not in more]).with_columns(flipped=before ^ pl.col("_new_flip").fill_null(False))
    if "trim" in marks:
        both = [c for c in ("trim", "_new_trim") if c in stay.columns]
        stay = stay.with_columns(trim=pl.concat_str(both, separator=SEPARATOR, ignore_nulls=True).replace("", None))
    return stay.drop([c for c in stay.columns if c.startswith("_new_")])


def _turned(rows: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Rows with what earlier steps said of their sides exchanged where they are flipped now: `x_chosen` with `x_rejected`, the sign of `x_gap` and `x_margin`."""
    flip, changed = pl.col("_new_flip").fill_null(False), []
    for name in columns:
        stem, _, what = name.rpartition("_")
        other = {"chosen": f"{stem}_rejected", "rejected": f"{stem}_chosen"}.get(what)
        if other in columns:
            changed.append(pl.when(flip).then(other).otherwise(name).alias(name))
        elif what in ("gap", "margin"):
            changed.append(pl.when(flip).then(-pl.col(name)).otherwise(name).alias(name))
    return rows.with_columns(changed)


def length_bias(lengths: pl.DataFrame) -> dict[str, float | int]:
    """What a set of pairs gives away by length: its rows, the share whose chosen answer is longer (ties half), the mean lengths."""
    if lengths.height == 0:
        return {"rows": 0}
    chosen, rejected = pl.col("chosen_chars").cast(pl.Int64), pl.col("rejected_chars").cast(pl.Int64)
    sums = lengths.select(longer=2 * (chosen > rejected).sum() + (chosen == rejected).sum(), chosen=chosen.sum(), rejected=rejected.sum()).row(0)
    return {
        "rows": lengths.height,
        "chosen_longer": sums[0] / 2 / lengths.height,
        "chosen_chars": sums[1] / lengths.height,
        "rejected_chars": sums[2] / lengths.height,
    }


def bias(rows: pl.DataFrame) -> dict[str, float | int]:
    """``length_bias`` of whole pairs."""
    chosen, rejected = ([len(answer_text(m)) for m in rows[side]] for side in ("chosen", "rejected"))
    return length_bias(pl.DataFrame({"chosen_chars": chosen, "rejected_chars": rejected}, schema={"chosen_chars": pl.UInt32, "rejected_chars": pl.UInt32}))


def _account(name: str, before: pl.DataFrame, after: pl.DataFrame, verdicts: pl.DataFrame, before_lengths: pl.DataFrame, after_lengths: pl.DataFrame, notes: dict[str, Any]) -> dict[str, Any]:
    gone = before.join(verdicts.filter(~pl.col("keep")), on="row", how="semi")
    return {
        "step": name,
        "judged": verdicts.height,
        "before": length_bias(before_lengths),
        "after": length_bias(after_lengths),
        "dropped": gone.height,
        "flipped": int((verdicts["flip"] & verdicts["keep"]).sum()),
        "trimmed": int((verdicts["trim"].is_not_null() & verdicts["keep"]).sum()),
        "dropped_by_source": _counts(gone, "source"),
        "dropped_by_category": _counts(gone, "category"),
        "kept_by_source": _counts(after, "source"),
        "notes": notes,
    }


def _counts(rows: pl.DataFrame, column: str) -> dict[str, int]:
    counted = rows.group_by(pl.col(column).fill_null("(none)")).len().sort("len", column, descending=[True, False])
    return dict(counted.iter_rows())


LEDGER = {"id": pl.String, "copy": pl.Int32, "source": pl.String, "category": pl.String, "step": pl.String, "reason": pl.String, "score": pl.Float64, "because_of": pl.String}


def _finish(folder: Path, pool: Pool, alive: pl.DataFrame, about: dict[str, Any]) -> Curated:
    """Write the result shard by shard, the manifest last; check that every row read is in it once."""
    added = [c for c in alive.columns if c not in ("row", "source", "category", "flipped", "trim")]
    marks = [c for c in ("flipped", "trim") if c in alive.columns]
    last = _last_lines(folder)
    counts = dict.fromkeys(OUTPUTS, 0)
    first = pool.first()
    with ParquetStream(folder / OUTPUTS[0]) as kept, ParquetStream(folder / OUTPUTS[1]) as dropped, ParquetStream(folder / OUTPUTS[2]) as ledger:
        for i, (a, b) in enumerate(itertools.pairwise(first)):
            rows = pl.DataFrame({"row": pl.arange(a, b, eager=True, dtype=pl.UInt32)})
            marked = rows.join(alive.select("row", *marks, *added), on="row", how="left", maintain_order="left").with_columns(stays=rows["row"].is_in(alive["row"].implode()))
            frame = load(pool.shard(i), a, marked, [*pool.columns, "copy"])
            lines = _lines(frame, marked, last)
            theirs = {c: frame[c].cast(marked.schema[c], strict=False) for c in added if c in frame.columns}  # rows that a step did not judge keep what they came with
            frame = frame.drop(added, strict=False).hstack(marked.select(*added, *(c for c in marks if c == "flipped"))).with_columns(pl.coalesce(c, values) for c, values in theirs.items())
            stays, gone = frame.filter(marked["stays"]), frame.filter(~marked["stays"]).drop("flipped", strict=False)
            for name, stream, table in zip(OUTPUTS, (kept, dropped, ledger), (_renamed(stays, marked), gone, lines), strict=True):
                stream.write(table)
                counts[name] += table.height
    if not (counts["kept.parquet"] + counts["dropped.parquet"] == about["read"] == counts["ledger.parquet"] and counts["kept.parquet"] == alive.height):
        raise RuntimeError(f"rows are lost: {about['read']} read, {counts}")
    hashes = {name: sha256_file(folder / name) for name in OUTPUTS}
    manifest = {**about, "kept": alive.height, "dropped": counts["dropped.parquet"], "sha256": hashes}
    write_json(folder / MANIFEST, manifest)
    return Curated(folder, manifest)


def _last_lines(folder: Path) -> pl.LazyFrame:
    """For every row that was dropped, flipped or trimmed, what the last step to do so said."""
    parts = []
    for step in sorted(p.parent for p in folder.glob(f"steps/*/{MANIFEST}")):
        did = ~pl.col("keep") | pl.col("flip") | pl.col("trim").is_not_null()
        parts.append(pl.scan_parquet(step / "verdicts.parquet").filter(did).select("row", "reason", "score", "because_of", gone=pl.when(~pl.col("keep")).then(pl.lit(step.name))))
    empty = pl.LazyFrame(schema={"row": pl.UInt32, "reason": pl.String, "score": pl.Float64, "because_of": pl.String, "gone": pl.String})
    return pl.concat([empty, *parts])


def _lines(frame: pl.DataFrame, marked: pl.DataFrame, last: pl.LazyFrame) -> pl.DataFrame:
    """The ledger of a shard."""
    numbers = marked["row"]
    said = last.filter(pl.col("row").is_between(numbers.min() or 0, numbers.max() or 0)).collect().unique("row", keep="last", maintain_order=True)
    none = pl.lit(False)
    flipped = marked["flipped"].fill_null(False) if "flipped" in marked.columns else none
    trimmed = marked["trim"].is_not_null() if "trim" in marked.columns else none
    lines = frame.select("id", "copy", "source", "category").with_columns(numbers, flipped_=flipped, trimmed_=trimmed).join(said, on="row", how="left", maintain_order="left")
    changed = pl.when("flipped_").then(pl.when("trimmed_").then(pl.lit(BOTH)).otherwise(pl.lit(FLIPPED))).when("trimmed_").then(pl.lit(TRIMMED)).otherwise(pl.lit(KEPT))
    lines = lines.with_columns(step=pl.coalesce("gone", changed))
    told = pl.col("step") != KEPT  # a row flipped and flipped back has nothing to tell
    return lines.select((pl.when(told).then(c) if c in ("reason", "score", "because_of") else pl.col(c)).cast(t).alias(c) for c, t in LEDGER.items())


def _renamed(kept: pl.DataFrame, marked: pl.DataFrame) -> pl.DataFrame:
    """Kept rows under the id of what they now say, with the id they came in under."""
    kept = kept.rename({"copy": "row_copy"}).with_columns(row_id="id")
    changed = [c for c in ("flipped", "trim") if c in marked.columns]
    if not changed:
        return kept
    touched = marked.filter("stays").select(pl.any_horizontal((pl.col(c) if c == "flipped" else pl.col(c).is_not_null()).fill_null(False) for c in changed)).to_series()
    ids = [pair_id(*row) if t else old for t, old, row in zip(touched, kept["id"], kept.select("prompt", "chosen", "rejected").iter_rows(), strict=True)]
    return kept.with_columns(pl.Series("id", ids, dtype=pl.String))

