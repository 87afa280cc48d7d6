"""Filter: keep the rows whose column has one of the given values.

For what a data set already says of its rows: Skywork-Reward takes only the adversarial part of WildGuardMix, whose rows carry that flag.
"""

from typing import Literal

import polars as pl
from pydantic import Field

from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError


class Config(StepConfig):
    """Keep the rows whose column has one of the given values."""

    kind: Literal["filter"] = "filter"
    column: str
    """The column to look at."""
    values: list[str | bool | int | float] = Field(min_length=1)
    """Values that stay. A row without a value goes."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop the rows whose value is not among those that stay."""
    column = context.columns(rows, config.column, step="filter")[config.column]
    if column.dtype.is_nested():
        raise AssayError(f"step `filter`: the column `{config.column}` holds {column.dtype}, expected texts, numbers or booleans")
    wanted, there = {_text(value) for value in config.values}, column.unique()
    texts = pl.LazyFrame({"value": there, "text": [_text(value) for value in there]}, schema={"value": column.dtype, "text": pl.String})
    judged = rows.select("row", value=column).lazy().join(texts, on="value", how="left", nulls_equal=True)
    return verdicts(judged, keep=pl.col("text").is_in(wanted), reason=pl.concat_str(pl.lit(f"{config.column} is "), "text"))


def _text(value: object) -> str:
    """A value as text, so that 1 and 1.0, true and True, Math and math are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "(none)" if value is None else str(value).lower()
