"""Selection: the best rows of each category, by rank.

Rows are ranked by a score within their group of categories and the top share of each group stays, to an exact count: the share of
the rows rounded to the nearest whole (half up), ties in order of id. A source whose scores run high is put in its place by an offset.
This is the rule by which Skywork-Reward (arXiv 2410.18451, section 3) took 59,539 Magpie pairs from 344,000: 30% of the mathematics,
30% of the code and 10% of the rest by average answer score, with 0.10 off Magpie-Air and 0.05 off Magpie-Pro.

Beyond the paper: a group may have a ``count`` instead of a share, ``per_source`` ranks every source by itself, ``lowest`` turns the order, and
``clusters`` spreads the choice over kinds of prompts: the best row of every semantic cluster comes before the second best of any.
"""

from collections import Counter
from typing import Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from assay.curate.embeddings import STATIC, clusters
from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import did_you_mean


class Group(BaseModel):
    """Categories that are ranked together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the group, for the ledger."""
    categories: list[str] = Field(min_length=1)
    """Values of the column `category`, compared without case."""
    keep: float | None = Field(None, ge=0.0, le=1.0)
    """Share of the group's rows that stays."""
    count: int | None = Field(None, ge=0)
    """Number of the group's rows that stays, instead of a share."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.keep is None) == (self.count is None):
            raise ValueError("give either `keep` (a share) or `count` (a number of rows)")
        return self


class Config(StepConfig):
    """Keep the top share of each category by a score."""

    kind: Literal["select"] = "select"
    by: str
    """The numeric column to rank by, highest first. Rows without a value rank last. Scores of the chosen side, of the rejected side, their mean and
    their gap are columns too: `agree` and `perplexity` add them, and `margin` is the gap a source came with."""
    lowest: bool = False
    """Rank the lowest first."""
    groups: list[Group] = []
    """Groups of categories with their shares or counts, each of another name."""
    others: float = Field(1.0, ge=0.0, le=1.0)
    """Share that stays of every category in no group."""
    pool_others: bool = True
    """Whether the categories in no group are ranked together as one (or each by itself). The paper leaves this open."""
    per_source: bool = False
    """Rank every source by itself, with the shares and counts of the groups for each."""
    offsets: dict[str, float] = {}
    """What to add to the score of a source before ranking, by the column `source`."""
    clusters: int | None = Field(None, ge=2)
    """Number of semantic clusters of prompts to spread the choice over."""
    embedding: str = STATIC
    """What embeds the prompts for `clusters`; see `assay explain semantic_duplicates`."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        twice = [name for name, n in Counter(group.name for group in self.groups).items() if n > 1]
        if twice:
            raise ValueError(f"two groups are called `{twice[0]}`; give each a name of its own")
        return self


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Mark every row with its rank in its group; drop those beyond the group's share."""
    groups = _groups(rows, config)
    context.notes["names nobody has"] = _unknown(rows, config)
    offset = pl.col("source").replace_strict(config.offsets, default=0.0, return_dtype=pl.Float64) if config.offsets else pl.lit(0.0)
    place = ["source", "category"]
    needed = context.numeric(rows.select(c for c in rows.columns if c in ("row", "flipped", *place, config.by)), config.by, "select")
    ranked = needed.join(groups.select(*place, "group"), on=place, how="left", nulls_equal=True, maintain_order="left").select("row", "group", adjusted=pl.col(config.by) + offset)
    order = pl.col("adjusted") if config.lowest else -pl.col("adjusted")
    turn = []
    if config.clusters is not None:
        turn = ["turn"]
        ranked = ranked.join(clusters(rows, config.clusters, config.embedding, context), on="row", how="left", maintain_order="left")
        ranked = ranked.with_columns(turn=order.rank("ordinal").over("group", "cluster")).drop("cluster")
    ranked = ranked.sort("group", *turn, order, "row", nulls_last=True).drop(turn)
    ranked = ranked.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over("group")).sort("row")
    sizes = ranked.group_by("group").len("size").with_columns(pl.col("size").cast(pl.Int64))
    of = sizes.join(groups.unique("group"), on="group").with_columns(quota=pl.coalesce("count", (pl.col("share") * pl.col("size") + 0.5 + 1e-9).floor().cast(pl.Int64)))
    placed = ranked.lazy().join(of.lazy(), on="group", how="left")
    rank = pl.col("rank").cast(pl.Int64)
    reason = pl.format("rank {} of {} in {}, {} stay", "rank", "size", "name", pl.min_horizontal("quota", "size"))
    off = (rank - pl.col("quota") - 0.5).abs()
    return verdicts(placed, keep=rank <= pl.col("quota"), reason=reason, score=pl.col("adjusted"), close=off / pl.col("size"))


def _unknown(rows: pl.DataFrame, config: Config) -> list[str]:
    """Sources and categories that the configuration names and no row has, a line each."""
    sources, categories = ({str(v) for v in rows[c].drop_nulls().unique()} for c in ("source", "category"))
    low = {c.lower() for c in categories}
    lines = [f"offsets: no row has the source `{name}`.{did_you_mean(name, sorted(sources))}" for name in config.offsets if name not in sources]
    return lines + [f"groups: no row has the category `{name}`.{did_you_mean(name, sorted(categories))}" for group in config.groups for name in group.categories if name.lower() not in low]


def _groups(rows: pl.DataFrame, config: Config) -> pl.DataFrame:
    """What is ranked together: source, category, group (a number), its name, and the share or count of it that stays."""
    category = pl.col("category").fill_null("(no category)")
    name = pl.lit("other categories") if config.pool_others else pl.concat_str(pl.lit("category "), category.str.to_lowercase())
    share, count = pl.lit(config.others), pl.lit(None, pl.Int64)
    for one in reversed(config.groups):
        member = category.str.to_lowercase().is_in([c.lower() for c in one.categories])
        name = pl.when(member).then(pl.lit(f"group {one.name}")).otherwise(name)
        share = pl.when(member).then(pl.lit(one.keep)).otherwise(share)
        count = pl.when(member).then(pl.lit(one.count)).otherwise(count)
    if config.per_source:
        name = pl.concat_str(name, pl.lit(" of "), pl.col("source").fill_null("(no source)"))
    kinds = rows.select("source", "category").unique()
    said = kinds.cast(pl.String).with_columns(name=name, share=share, count=count).select("name", "share", "count")
    kinds = kinds.hstack(said)
    return kinds.with_columns(group=pl.col("name").rank("dense").cast(pl.UInt32))
