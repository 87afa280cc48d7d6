"""What a step is: a configuration, and a function from rows to verdicts.

A step is a module in ``curate/steps/`` with a ``Config`` (its fields are its documentation) and a function
``judge(rows, config, context)``. It returns one verdict for each row it has an opinion on and changes nothing: the
runner removes, edits and writes the ledger. Rows without a verdict are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl
from pydantic import BaseModel, ConfigDict

from assay.train.config import TrainConfig

Kernel = Callable[[pl.DataFrame], pl.DataFrame]

VERDICT = {
    "id": pl.String,
    "copy": pl.Int32,
    "keep": pl.Boolean,
    "reason": pl.String,
    "score": pl.Float64,
    "because_of": pl.String,
    "flip": pl.Boolean,
}
"""Columns of a verdict: which row, whether it stays, why (also for a row that stays), the number that decided, the twin or
benchmark item or scorer behind it, and whether chosen and rejected are to change places. Columns beyond these are added to the
row, so that later steps can use them."""


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


@dataclass(frozen=True, slots=True)
class Context:
    """What a step may use besides its rows."""

    pool: pl.DataFrame
    """All rows that are still in, those the step does not judge included."""
    map: Callable[[Kernel, pl.DataFrame], pl.DataFrame]
    """Runs a kernel over the shards of a table."""
    workdir: Path
    """Where the step may keep unfinished work."""
    data_root: Path | None
    fit: Fit | None
    say: Callable[[str], None]


def verdicts(frame: pl.DataFrame, *, keep: pl.Expr, reason: pl.Expr | str, score: pl.Expr | None = None, because_of: pl.Expr | None = None, flip: pl.Expr | None = None, more: list[str] | None = None) -> pl.DataFrame:
    """Verdicts for the rows of ``frame`` (which has ``id`` and ``copy``), from expressions over its columns."""
    return frame.select(
        "id",
        "copy",
        keep.cast(pl.Boolean).alias("keep"),
        (pl.lit(reason) if isinstance(reason, str) else reason).cast(pl.String).alias("reason"),
        (pl.lit(None) if score is None else score).cast(pl.Float64).alias("score"),
        (pl.lit(None) if because_of is None else because_of).cast(pl.String).alias("because_of"),
        (pl.lit(False) if flip is None else flip).cast(pl.Boolean).alias("flip"),
        *(more or []),
    )
