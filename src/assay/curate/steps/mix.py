"""Mix: a set of a given size from several sources, in given proportions.

Rows are drawn without repetition, in an order that follows from their ids and the seed: of each source, more rows hold the fewer. Counts are exact:
each source gets its weight's part of the size (largest remainder); what a source is too small to give is shared out among the others.
"""

from fractions import Fraction
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from assay.curate.kernels.tokens import tokenize
from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError, did_you_mean


class Config(StepConfig):
    """Draw a set of a given size from the sources."""

    kind: Literal["mix"] = "mix"
    size: int = Field(ge=1)
    """Rows that stay. If there are fewer, all stay."""
    weights: dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]] = {}
    """Relative weight of each source; one that is not named weighs 1, at 0 none of its rows stay. Empty: in proportion to what each has."""
    by: str | None = None
    """A numeric column: of each source the rows with the highest values are taken instead of drawn ones."""
    seed: int = Field(0, ge=0)
    """Another seed draws other rows."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Mark every row with its place in its source; drop those beyond the source's count."""
    source = pl.col("source").fill_null("(none)")
    placed = rows.select("row", source=source)
    if config.by is None:
        placed = placed.with_columns(order=drawn(rows, config.seed, context))
    else:
        placed = placed.with_columns(order=-context.numeric(rows, config.by, "mix")[config.by])
    placed = placed.sort("source", "order", "row", nulls_last=True).with_columns(place=pl.int_range(1, pl.len() + 1).over("source"))
    read = set(context.pool.column("source")["source"].fill_null("(none)").unique()) if config.weights else set()  # steps before may have left nothing of a source
    for name in config.weights:
        if name not in read:
            raise AssayError(f"step `mix`: no row has the source `{name}`.{did_you_mean(name, sorted(read))}")
    there = dict(placed.group_by("source").len().sort("source").iter_rows())
    counts = shares(there, config.weights or {name: float(n) for name, n in there.items()}, config.size)
    context.notes.update(taken=counts, there=there)
    marked = placed.with_columns(count=pl.col("source").replace_strict(counts, return_dtype=pl.Int64))
    reason = pl.format("place {} of {}, {} are taken", "place", "source", "count")
    return verdicts(marked, keep=pl.col("place") <= pl.col("count"), reason=reason, score=pl.col("place"))


def drawn(rows: pl.DataFrame, seed: int, context: Context) -> pl.Series:
    """A number for each row that is as good as random and follows from its id and the seed."""
    parts = [part.select("row", drawn=pl.Series(tokenize(part["id"] + f"x{seed}").hashes >> 1, dtype=pl.UInt64)) for part in context.pool.by_shard("id")]
    return rows.select("row").join(pl.concat(parts), on="row", how="left", maintain_order="left")["drawn"]


def shares(there: dict[str, int], weights: dict[str, float], size: int) -> dict[str, int]:
    """How many rows each source gives: in proportion to the weights, never more than it has, ``size`` in all where that can be."""
    counts = dict.fromkeys(there, 0)
    open_ = {name for name in there if weights.get(name, 1.0) > 0}
    while open_ and (left := min(size, sum(there[n] for n in there if weights.get(n, 1.0) > 0)) - sum(counts.values())) > 0:
        each = {n: Fraction(weights.get(n, 1.0)) for n in sorted(open_)}  # in floats equal remainders differ by rounding
        exact = {n: left * weight / sum(each.values()) for n, weight in each.items()}
        given = {n: int(x) for n, x in exact.items()}
        for n in sorted(exact, key=lambda n: (given[n] - exact[n], n))[: left - sum(given.values())]:
            given[n] += 1
        for n, more in given.items():
            counts[n] += min(more, there[n] - counts[n])
        open_ = {n for n in open_ if counts[n] < there[n]}
    return counts
