"""Exact duplicates: of the rows with the same key, the best one stays.

Texts are compared up to spacing, prompts also up to case. With the key ``unordered`` two rows that give the
same two answers in opposite order are twins as well: run ``contradictions`` first if such rows are to be judged as what they are.
"""

from typing import Literal

import polars as pl

from assay.curate.kernels.features import features
from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError, did_you_mean


class Config(StepConfig):
    """Drop exact duplicates, keep the best of each group."""

    kind: Literal["duplicates"] = "duplicates"
    key: Literal["pair", "unordered", "prompt"] = "pair"
    """What makes two rows the same: prompt, chosen and rejected (`pair`); the prompt and the same two answers in either order
    (`unordered`); the prompt alone (`prompt`)."""
    best: str | None = None
    """A numeric column: the row with the highest value stays. Without it, and among equals, the smallest id stays."""


KEYS = {
    "pair": ["prompt_key", "chosen_key", "rejected_key"],
    "unordered": ["prompt_key", "low_key", "high_key"],
    "prompt": ["prompt_key"],
}


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """Drop all but the best row of each group of equal keys, naming the one that stays."""
    valued = rows.select("id", "copy", _best=_value(rows, config.best))
    keyed = valued.join(context.map(features, rows), on=["id", "copy"]).with_columns(
        low_key=pl.min_horizontal("chosen_key", "rejected_key"), high_key=pl.max_horizontal("chosen_key", "rejected_key")
    )
    key = KEYS[config.key]
    ranked = keyed.sort(
        [*key, "_best", "id", "copy"], descending=[False] * len(key) + [True, False, False], nulls_last=True
    )
    first = ranked.with_columns(
        _place=pl.int_range(pl.len()).over(key),
        _kept=pl.col("id").first().over(key),
        _opposite=pl.col("chosen_key") != pl.col("chosen_key").first().over(key),
    )
    opposite = " in the opposite order" if config.key == "unordered" else ""
    twins = first.filter(pl.col("_place") > 0)
    reason = pl.format("duplicate {}{}", pl.lit(config.key), pl.when(pl.col("_opposite")).then(pl.lit(opposite)).otherwise(pl.lit("")))
    return verdicts(twins, keep=pl.lit(False), reason=reason, score=pl.col("_best"), because_of=pl.col("_kept"))


def _value(rows: pl.DataFrame, column: str | None) -> pl.Expr:
    if column is None:
        return pl.lit(None, dtype=pl.Float64)
    return numeric(rows, column, "duplicates")


def numeric(rows: pl.DataFrame, column: str, step: str) -> pl.Expr:
    """``column`` as float64; NaN becomes null.

    Raises:
        AssayError: there is no such column, or it does not hold numbers.
    """
    if column not in rows.columns:
        known = [n for n, t in rows.schema.items() if t.is_numeric() and n != "copy"]
        raise AssayError(f"step `{step}`: the rows have no column `{column}`.{did_you_mean(column, known)} Numeric columns: {', '.join(known) or 'none'}")
    if not (rows.schema[column].is_numeric() or rows.schema[column] == pl.Null):
        raise AssayError(f"step `{step}`: the column `{column}` holds {rows.schema[column]}, expected numbers")
    return pl.col(column).cast(pl.Float64).fill_nan(None)
