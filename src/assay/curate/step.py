"""What a step is: a configuration, and a function from rows to verdicts.

A step is a module in ``curate/steps/`` with a ``Config`` (its fields are its documentation) and a function
``judge(rows, config, context)``. ``rows`` holds numbers and names, never texts: those stay on disk and are met shard by shard, through
``context.map``. A step returns one verdict for each row it has an opinion on, as a lazy frame, so that reasons are put into words a shard at a
time, and changes nothing: the runner removes, edits and writes the ledger. Rows without a verdict are kept.
"""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl
from pydantic import BaseModel, ConfigDict

from assay.curate.kernels.features import FEATURES
from assay.curate.pool import Kernel, Pool, load, map_files, map_rows, part_features
from assay.engine import Engine, Tick
from assay.errors import AssayError, did_you_mean
from assay.train.config import TrainConfig

VERDICT = {
    "row": pl.UInt32,
    "keep": pl.Boolean,
    "reason": pl.String,
    "score": pl.Float64,
    "because_of": pl.String,
    "flip": pl.Boolean,
    "trim": pl.String,
    "close": pl.Float64,
}
"""Columns of a verdict: which row, whether it stays, why (also for a row that stays), the number that decided, the twin or
benchmark item or scorer behind it, whether chosen and rejected are to change places, a text to cut out of both answers, and how far the
number was from the threshold. Columns beyond these are added to the row, so that later steps can use them."""


OURS = ("row", "flipped", "trim")
"""Names of columns that the runner keeps beside those of the rows."""


class StepConfig(BaseModel):
    """Fields that every step has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    only: list[str] | None = None
    """Sources the step judges, by the column `source`; rows of other sources pass it untouched. All by default."""


class Fit(Protocol):
    """Trains a reward model on some pairs and scores others; given to the curation by whoever can train."""

    def __call__(self, train: pl.DataFrame, judge: pl.DataFrame, config: TrainConfig, workdir: Path) -> pl.DataFrame:
        """Columns ``chosen_score`` and ``rejected_score`` for the rows of ``judge``, in their order."""
        ...


Score = Callable[[str, pl.DataFrame], pl.DataFrame]
"""A scorer's spec and pairs to ``chosen_score`` and ``rejected_score``; given to the curation by whoever can load a scorer."""


class Likelihood(Protocol):
    """Runs a causal language model over pairs; given to the curation by whoever can."""

    def __call__(self, model: str, pairs: pl.DataFrame, max_tokens: int, workdir: Path) -> pl.DataFrame:
        """Mean negative log likelihoods a token, in nats: ``chosen`` and ``rejected`` given the prompt, ``chosen_alone`` and ``rejected_alone`` without."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may use besides its rows."""

    pool: Pool
    """The rows as they came in."""
    alive: pl.DataFrame
    """Rows that are still in, those the step does not judge included: row, source, category, flipped, trim, and columns that steps added."""
    engine: Engine
    workdir: Path
    """Where the step may keep unfinished work."""
    data_root: Path | None = None
    fit: Fit | None = None
    score: Score | None = None
    likelihood: Likelihood | None = None
    say: Callable[[str], None] = lambda _: None
    notes: dict[str, Any] = field(default_factory=dict)
    """What the step wants to tell beside its verdicts: goes into its account and its manifest."""
    progress: Callable[[str], AbstractContextManager[Tick]] = lambda _: nullcontext(lambda *_: None)

    def map(self, kernel: Kernel, rows: pl.DataFrame, columns: list[str], name: str = "features") -> pl.DataFrame:
        """Run a kernel over the texts of ``rows``, a shard at a time; its features, in the order of the rows."""
        with self.progress(f"{self.workdir.parent.name}: {name}") as tick:
            return map_rows(self.pool, rows, kernel, columns, self.workdir / name, self.engine, tick)

    def map_files(self, kernel: Kernel, rows: pl.DataFrame, columns: list[str], name: str) -> list[Path]:
        """As ``map``, but leaves the features on disk."""
        with self.progress(f"{self.workdir.parent.name}: {name}") as tick:
            return map_files(self.pool, rows, kernel, columns, self.workdir / name, self.engine, tick)

    def features(self, rows: pl.DataFrame, what: Literal["key", "chars"]) -> pl.DataFrame:
        """Keys or lengths of the texts as they now stand, see ``current_features``."""
        return current_features(self.pool, rows, what, self.workdir, self.engine)

    def texts(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Whole pairs as they now stand, with ``row``, ``copy`` and ``prompt_id``: only for as many as fit in memory."""
        wanted = rows.sort("row")
        columns = [*(c for c in self.pool.columns if c != "row"), "copy"]
        first = self.pool.first()
        parts = []
        for i, (a, b) in enumerate(itertools.pairwise(first)):
            part = wanted.filter(pl.col("row").is_between(a, b, closed="left"))
            if part.height:
                parts.append(load(self.pool.shard(i), a, part, columns).insert_column(0, part["row"]))
        return pl.concat(parts) if parts else load(self.pool.shard(0), 0, wanted, columns).insert_column(0, wanted["row"])

    def ids(self, rows: pl.Series) -> pl.Series:
        """The ids of rows by their numbers."""
        return self.pool.at(rows, "id")["id"]

    def columns(self, rows: pl.DataFrame, *names: str, step: str) -> pl.DataFrame:
        """``rows`` with further columns of the input, or of earlier steps.

        Raises:
            AssayError: there is no such column.
        """
        known = [c for c in dict.fromkeys([*self.pool.columns, *rows.columns]) if c not in ("prompt_id", *OURS)]
        for name in names:
            if name in OURS:
                raise AssayError(f"step `{step}`: `{name}` is a name Assay uses itself; give the column another when it is read, `columns: {{{name}: OTHER}}`")
            if name not in self.pool.columns and name not in rows.columns:
                raise AssayError(f"step `{step}`: the rows have no column `{name}`.{did_you_mean(name, known)} Columns: {', '.join(known)}")
        missing = [n for n in dict.fromkeys(names) if n not in rows.columns]
        if not missing:
            return rows
        whole = rows.hstack(self.pool.at(rows["row"], *missing))
        if "margin" in missing and "flipped" in rows.columns:  # the margin of the labels as they were says nothing of the labels as they are
            whole = whole.with_columns(margin=pl.when(~pl.col("flipped").fill_null(False)).then("margin"))
        return whole

    def numeric(self, rows: pl.DataFrame, name: str, step: str) -> pl.DataFrame:
        """``rows`` with the column ``name`` as float64; NaN becomes null.

        Raises:
            AssayError: there is no such column, or it does not hold numbers.
        """
        if name not in rows.columns and name not in self.pool.columns and name not in OURS:
            types = pl.read_parquet_schema(self.pool.shard(0)) | dict(rows.schema)
            known = [n for n, t in types.items() if t.is_numeric() and n not in ("copy", "row")]
            raise AssayError(f"step `{step}`: the rows have no column `{name}`.{did_you_mean(name, known)} Numeric columns: {', '.join(known) or 'none'}")
        with_it = self.columns(rows, name, step=step)
        dtype = with_it.schema[name]
        if not (dtype.is_numeric() or dtype == pl.Null):
            raise AssayError(f"step `{step}`: the column `{name}` holds {dtype}, expected numbers")
        return with_it.with_columns(pl.col(name).cast(pl.Float64).fill_nan(None))


def current_features(pool: Pool, rows: pl.DataFrame, what: Literal["key", "chars"], workdir: Path, engine: Engine) -> pl.DataFrame:
    """Of rows, in their order, the keys of the texts (row, prompt_key, chosen_key, rejected_key) or the answers' lengths (row, chosen_chars, rejected_chars), with flips and trims accounted for."""
    marks = [c for c in ("flipped", "trim") if c in rows.columns]
    names = [name for name in FEATURES if name.endswith(what)]
    stored = rows.select("row", *marks).hstack(pool.features_at(rows["row"], *names))
    if "flipped" in marks:
        turn = pl.col("flipped").fill_null(False)
        other = {"chosen": "rejected", "rejected": "chosen"}
        stored = stored.with_columns(pl.when(turn).then(f"{other[side]}_{what}").otherwise(f"{side}_{what}").alias(f"{side}_{what}") for side in other)
    if "trim" in marks and stored["trim"].is_not_null().any():
        cut = stored.filter(pl.col("trim").is_not_null())
        anew = map_rows(pool, cut, part_features, ["prompt", "chosen", "rejected"], workdir / "trimmed", engine)
        stored = stored.update(anew.select("row", *names), on="row")
    return stored.drop(marks)


def verdicts(
    frame: pl.DataFrame | pl.LazyFrame,
    *,
    keep: pl.Expr,
    reason: pl.Expr | str,
    score: pl.Expr | None = None,
    because_of: pl.Expr | None = None,
    flip: pl.Expr | None = None,
    trim: pl.Expr | None = None,
    close: pl.Expr | None = None,
    more: dict[str, pl.Expr] | None = None,
) -> pl.LazyFrame:
    """Verdicts for the rows of ``frame`` (which has ``row``, a UInt32), from expressions over its columns."""
    whole = frame.rechunk().lazy() if isinstance(frame, pl.DataFrame) else frame  # polars 2.1 panics in `format` where a filter leaves the first of several chunks empty
    return whole.select(
        "row",
        keep.cast(pl.Boolean).alias("keep"),
        (pl.lit(reason) if isinstance(reason, str) else reason).cast(pl.String).alias("reason"),
        (pl.lit(None) if score is None else score).cast(pl.Float64).alias("score"),
        (pl.lit(None) if because_of is None else because_of).cast(pl.String).alias("because_of"),
        (pl.lit(False) if flip is None else flip).cast(pl.Boolean).alias("flip"),
        (pl.lit(None) if trim is None else trim).cast(pl.String).alias("trim"),
        (pl.lit(None) if close is None else close).cast(pl.Float64).alias("close"),
        **(more or {}),
    )


def named(frame: pl.DataFrame, column: str, context: Context) -> pl.DataFrame:
    """``frame`` with the row numbers in ``column`` replaced by the ids of those rows."""
    distinct = frame.select(pl.col(column).cast(pl.UInt32)).drop_nulls().unique()
    ids = distinct.with_columns(_id=context.ids(distinct[column]))
    return frame.with_columns(pl.col(column).cast(pl.UInt32)).join(ids, on=column, how="left", maintain_order="left").drop(column).rename({"_id": column})


