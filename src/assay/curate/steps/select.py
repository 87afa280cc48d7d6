"""Selection: the best rows of each category, by rank.

Rows are ranked by a score within their group of categories and the top share of each group stays, to an exact count: the share of
the rows rounded to the nearest whole (half up), ties in order of id. A source whose scores run high is put in its place by an offset.
This is the rule by which Skywork-Reward (arXiv 2410.18451, section 3) took 59,539 Magpie pairs from 344,000: 30% of the mathematics,
30% of the code and 10% of the rest by average answer score, with 0.10 off Magpie-Air and 0.05 off Magpie-Pro.
"""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from assay.curate.step import Context, StepConfig, verdicts
from assay.curate.steps.duplicates import numeric


class Group(BaseModel):
    """Categories that are ranked together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the group, for the ledger."""
    categories: list[str] = Field(min_length=1)
    """Values of the column `category`, compared without case."""
    keep: float = Field(ge=0.0, le=1.0)
    """Share of the group's rows that stays."""


class Config(StepConfig):
    """Keep the top share of each category by a score."""

    kind: Literal["select"] = "select"
    by: str
    """The numeric column to rank by, highest first. Rows without a value rank last."""
    groups: list[Group] = []
    """Groups of categories with their shares."""
    others: float = Field(1.0, ge=0.0, le=1.0)
    """Share that stays of every category in no group."""
    pool_others: bool = True
    """Whether the categories in no group are ranked together as one (or each by itself). The paper leaves this open."""
    offsets: dict[str, float] = {}
    """What to add to the score of a source before ranking, by the column `source`."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """Mark every row with its rank in its group; drop those beyond the group's share."""
    category = pl.col("category").fill_null("(no category)")
    group = pl.lit("other categories") if config.pool_others else pl.concat_str(pl.lit("category "), category.str.to_lowercase())
    share = pl.lit(config.others)
    for named in reversed(config.groups):
        member = category.str.to_lowercase().is_in([c.lower() for c in named.categories])
        group = pl.when(member).then(pl.lit(f"group {named.name}")).otherwise(group)
        share = pl.when(member).then(pl.lit(named.keep)).otherwise(share)
    offset = pl.col("source").replace_strict(config.offsets, default=0.0, return_dtype=pl.Float64) if config.offsets else pl.lit(0.0)
    scored = rows.select(
        "id", "copy", group=group, share=share, adjusted=numeric(rows, config.by, "select") + offset
    ).sort("group", "adjusted", "id", "copy", descending=[False, True, False, False], nulls_last=True)
    ranked = scored.with_columns(rank=pl.int_range(1, pl.len() + 1).over("group"), size=pl.len().over("group")).with_columns(
        quota=(pl.col("share") * pl.col("size") + 0.5 + 1e-9).floor().cast(pl.Int64)
    )
    reason = pl.format("rank {} of {} in {}, {} stay", "rank", "size", "group", "quota")
    return verdicts(ranked, keep=pl.col("rank") <= pl.col("quota"), reason=reason, score=pl.col("adjusted"))
