"""Perplexity and difficulty of the answers under a causal language model, as columns to select by, and a band of them to keep.

Perplexity is exp of the mean negative log likelihood of the answer's tokens given the prompt; POINTS (arXiv 2409.04828, section 1) keeps the lowest
fifth, other work the middle or the highest: the best band depends on the data, so none is the default, and ``random`` is the baseline to compare
with. Instruction-following difficulty (IFD) compares the likelihood with and without the prompt, in both published forms: ``ifd`` is the ratio of
perplexities (Superfiltering, arXiv 2402.00530; Star-Agents, arXiv 2411.14497, equation 4), ``ifd_loss`` the ratio of mean losses (Cherry LLM). Adds the columns
perplexity_chosen, perplexity_rejected, perplexity (their geometric mean), perplexity_gap (the difference of their logarithms), ifd_chosen, ifd_rejected, ifd_loss_chosen and ifd_loss_rejected.
Low perplexity goes with length and with set phrases: rank ``per`` source, and look at the length bias in the account.
"""

from typing import Literal

import polars as pl
from pydantic import Field

from assay.curate.step import Context, StepConfig, verdicts
from assay.curate.steps.mix import drawn
from assay.errors import AssayError

COLUMNS = ("perplexity_chosen", "perplexity_rejected", "perplexity", "perplexity_gap", "ifd_chosen", "ifd_rejected", "ifd_loss_chosen", "ifd_loss_rejected")


class Config(StepConfig):
    """Measure answers with a causal language model; keep a band of them."""

    kind: Literal["perplexity"] = "perplexity"
    model: str = "smollm2"
    """A shipped backbone, a folder or a hub id of a causal language model."""
    band: Literal["all", "lowest", "middle", "highest", "random"] = "all"
    """Which rows stay. `all`: only add the columns."""
    share: float = Field(0.2, gt=0.0, le=1.0)
    """Share of the rows in the band, rounded to the nearest whole."""
    by: Literal["perplexity_chosen", "perplexity_rejected", "perplexity", "perplexity_gap", "ifd_chosen", "ifd_rejected", "ifd_loss_chosen", "ifd_loss_rejected"] = "perplexity_chosen"
    """What the band is of."""
    per: Literal["source", "category", "all"] = "source"
    """Within what the rows are ranked."""
    max_tokens: int = Field(1024, ge=8)
    """Longer conversations lose the beginning of their prompt."""
    seed: int = Field(0, ge=0)
    """Draws the band `random`."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Add the columns to every row; drop the rows outside the band."""
    if context.likelihood is None:
        raise AssayError('step `perplexity` runs a language model: pip install "assay[train]"')
    rows = rows.sort("row")
    losses = context.likelihood(config.model, context.texts(rows), config.max_tokens, context.workdir)
    table = rows.select("row", group=pl.lit("all") if config.per == "all" else pl.col(config.per).fill_null("(none)")).hstack(measures(losses))
    order = _order(table, config, context).with_columns(size=pl.len().over("group"))
    order = order.with_columns(quota=(pl.col("size") * config.share + 0.5 + 1e-9).floor().cast(pl.Int64))
    start = (pl.col("size") - pl.col("quota")) // 2 if config.band == "middle" else pl.lit(0)
    inside = pl.lit(True) if config.band == "all" else pl.col("rank").is_between(start, start + pl.col("quota"), closed="left")
    place = pl.format("{} {}, rank {} of {} in {}", pl.lit(config.by), pl.col(config.by).round(3), pl.col("rank") + 1, "size", "group")
    return verdicts(order.with_columns(keep=inside), keep=pl.col("keep"), reason=place, score=pl.col(config.by), because_of=pl.lit(config.model), more={c: pl.col(c) for c in COLUMNS})


def measures(losses: pl.DataFrame) -> pl.DataFrame:
    """The columns of the step from mean losses a token: ``chosen``, ``rejected`` given the prompt, ``chosen_alone``, ``rejected_alone`` without it."""
    chosen, rejected, chosen_alone, rejected_alone = (pl.col(c) for c in ("chosen", "rejected", "chosen_alone", "rejected_alone"))
    return losses.select(
        perplexity_chosen=chosen.exp(),
        perplexity_rejected=rejected.exp(),
        perplexity=((chosen + rejected) / 2).exp(),
        perplexity_gap=rejected - chosen,
        ifd_chosen=(chosen - chosen_alone).exp(),
        ifd_rejected=(rejected - rejected_alone).exp(),
        ifd_loss_chosen=chosen / chosen_alone,
        ifd_loss_rejected=rejected / rejected_alone,
    )


def _order(table: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """``table`` with ``rank`` from 0 within each group; rows without a value last."""
    by = pl.col(config.by).fill_nan(None)
    if config.band == "random":
        table = table.with_columns(_by=drawn(table, config.seed, context))
    else:
        table = table.with_columns(_by=-by if config.band == "highest" else by)
    ranked = table.sort("group", "_by", "row", nulls_last=True).with_columns(rank=pl.int_range(pl.len()).over("group"))
    return ranked.drop("_by")
