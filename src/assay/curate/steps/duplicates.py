"""Exact duplicates: of the rows with the same key, the best one stays.

Texts are compared up to spacing, prompts also up to case. With the key ``unordered`` two rows that give the
same two answers in opposite order are twins as well: run ``contradictions`` first if such rows are to be judged as what they are.
"""

from typing import Literal

import numpy as np
import polars as pl

from assay.curate.step import Context, StepConfig, named, verdicts


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


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop all but the best row of each group of equal keys, naming the one that stays."""
    keyed = context.features(rows, "key").with_columns(low_key=pl.min_horizontal("chosen_key", "rejected_key"), high_key=pl.max_horizontal("chosen_key", "rejected_key"))
    key = KEYS[config.key]
    several = repeated(keyed, key).join(best_value(rows, config.best, "duplicates", context), on="row")
    ranked = several.sort([*key, "best", "row"], descending=[False] * len(key) + [True, False], nulls_last=True)
    first = ranked.with_columns(
        place=pl.int_range(pl.len()).over(key),
        kept=pl.col("row").first().over(key),
        opposite=pl.col("chosen_key") != pl.col("chosen_key").first().over(key),
    )
    opposite = " in the opposite order" if config.key == "unordered" else ""
    twins = named(first.filter(pl.col("place") > 0), "kept", context)
    reason = pl.format("duplicate {}{}", pl.lit(config.key), pl.when(pl.col("opposite")).then(pl.lit(opposite)).otherwise(pl.lit("")))
    return verdicts(twins, keep=pl.lit(False), reason=reason, score=pl.col("best"), because_of=pl.col("kept"))


def repeated(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The rows that have another of the same key. Sorting a hash of each takes a tenth of the memory of grouping them."""
    hashes = rows.select(key).hash_rows()
    ordered = np.sort(hashes.to_numpy())
    twice = pl.Series(ordered[1:][ordered[1:] == ordered[:-1]], dtype=pl.UInt64).unique()
    return rows.filter(hashes.is_in(twice.implode())).filter(pl.struct(key).is_duplicated())


def best_value(rows: pl.DataFrame, column: str | None, step: str, context: Context) -> pl.DataFrame:
    """``row`` and ``best``: the value by which the best of a group is kept, null without a column."""
    if column is None:
        return rows.select("row", best=pl.lit(None, dtype=pl.Float64))
    return context.numeric(rows, column, step).select("row", best=column)
