"""Balance: as many rows whose chosen answer is the longer as rows whose chosen answer is the shorter.

A reward model that sees the longer answer win three times in four learns to prefer length. Within each category the commoner direction gives up
rows until both are equal; those that stay are spread evenly over the ranks of the difference, so that large and small differences are matched and
not only the counts. The same for markdown, or for any column whose sign says which side has more of something (such as the position an answer was shown in).
"""

from typing import Literal

import polars as pl
from pydantic import Field

from assay.curate.kernels.surface import MARKDOWN
from assay.curate.step import Context, StepConfig, verdicts
from assay.pairs.schema import answer_text


class Config(StepConfig):
    """Drop rows until neither direction of a difference is the commoner."""

    kind: Literal["balance"] = "balance"
    by: str = "length"
    """`length` (characters), `markdown` (headings, list items, bold, fences, tables), or a numeric column that is above 0 where the chosen
    side has more of something, and below 0 where the rejected side has."""
    per: Literal["category", "source", "all"] = "category"
    """Within what the directions are balanced."""
    allow: float = Field(0.5, ge=0.5, le=1.0, allow_inf_nan=False)
    """Share of the commoner direction that is allowed, 0.5 to 1; rows without a difference do not count and stay."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Mark the rows of the commoner direction that have no match; they go."""
    group = pl.lit("all") if config.per == "all" else pl.col(config.per).fill_null("(none)")
    differing = rows.select("row", group=group).join(difference(rows, config.by, context), on="row").filter(pl.col("difference") != 0)
    ranked = differing.with_columns(size=pl.col("difference").abs(), side=pl.col("difference") > 0).sort("group", "side", "size", "row")
    ranked = ranked.with_columns(rank=pl.int_range(pl.len()).over("group", "side"), mine=pl.len().over("group", "side"), all=pl.len().over("group"))
    ranked = ranked.with_columns(other=pl.col("all") - pl.col("mine"))
    limit = (pl.col("other") * config.allow / (1 - config.allow) + 1e-9).floor().cast(pl.Int64) if config.allow < 1 else pl.col("mine")
    ranked = ranked.with_columns(quota=pl.min_horizontal("mine", limit))
    step = pl.col("rank") * pl.col("quota")
    stays = ((step + pl.col("quota")) // pl.col("mine")) > (step // pl.col("mine"))
    reason = pl.format("{} of {} differences in {} point this way, {} stay", "mine", "all", "group", "quota")
    return verdicts(ranked.with_columns(stays=stays), keep=pl.col("stays"), reason=reason, score=pl.col("difference"))


def difference(rows: pl.DataFrame, by: str, context: Context) -> pl.DataFrame:
    """``row`` and ``difference``: above 0 where the chosen side has more. Lengths are compared by the logarithm of their ratio."""
    if by == "length":
        sides = context.features(rows, "chars")
        return sides.select("row", difference=((pl.col("chosen_chars") + 1) / (pl.col("rejected_chars") + 1)).log())
    if by == "markdown":
        return context.map(markdown, rows, ["chosen", "rejected"], "markdown")
    turned = pl.col("flipped").fill_null(False) if "flipped" in rows.columns and by not in rows.columns else pl.lit(False)  # a column of the input speaks of the sides as they came
    return context.numeric(rows, by, "balance").select("row", difference=pl.when(turned).then(-pl.col(by)).otherwise(by)).drop_nulls()


def markdown(shard: pl.DataFrame) -> pl.DataFrame:
    """A kernel: by how many marks of markdown the chosen answer exceeds the rejected one."""
    found = [(row, float(len(MARKDOWN.findall(answer_text(better))) - len(MARKDOWN.findall(answer_text(worse))))) for row, better, worse in shard.select("row", "chosen", "rejected").iter_rows()]
    return pl.DataFrame(found, schema={"row": pl.UInt32, "difference": pl.Float64}, orient="row")
