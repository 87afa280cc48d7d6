"""Contradictions: rows that give the same two answers to the same prompt in opposite order.

At most one side can be right, and no rule can tell which without reading: by default all rows of such a group go. ``majority`` keeps
the order that more rows have and drops the group only when both are equally common.
"""

from typing import Literal

import polars as pl

from assay.curate.kernels.features import features
from assay.curate.step import Context, StepConfig, verdicts


class Config(StepConfig):
    """Drop rows that contradict each other."""

    kind: Literal["contradictions"] = "contradictions"
    resolve: Literal["drop", "majority"] = "drop"
    """`drop`: all rows of the group go. `majority`: the commoner order stays; if both are equally common, all go."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """Drop the rows on the losing side of each contradiction, naming a row that says the opposite."""
    keyed = context.map(features, rows).with_columns(
        low_key=pl.min_horizontal("chosen_key", "rejected_key"),
        high_key=pl.max_horizontal("chosen_key", "rejected_key"),
        low_wins=pl.col("chosen_key") <= pl.col("rejected_key"),
    )
    group = ["prompt_key", "low_key", "high_key"]
    for_low = pl.col("low_wins").sum().over(group)
    sides = keyed.with_columns(size=pl.len().over(group), for_low=for_low).filter(
        (pl.col("for_low") > 0) & (pl.col("for_low") < pl.col("size"))
    )
    mine = pl.when(pl.col("low_wins")).then(pl.col("for_low")).otherwise(pl.col("size") - pl.col("for_low"))
    against = pl.when(pl.col("low_wins")).then(pl.col("id").filter(~pl.col("low_wins")).min().over(group)).otherwise(
        pl.col("id").filter(pl.col("low_wins")).min().over(group)
    )
    stays = (mine * 2 > pl.col("size")) if config.resolve == "majority" else pl.lit(False)
    reason = pl.format("{} of {} rows say the opposite", pl.col("size") - mine, pl.col("size"))
    return verdicts(sides, keep=stays, reason=reason, score=mine / pl.col("size"), because_of=against)
