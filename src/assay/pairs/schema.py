"""What a preference is: the columns of a pair table, and identities that follow from content alone."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from assay.errors import AssayError

Message = Mapping[str, str]

MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "id": pl.String,
    "source": pl.String,
    "subset": pl.String,
    "category": pl.String,
    "prompt": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "margin": pl.Float32,
    "weight": pl.Float32,
}
"""The columns every pair table has, in order. Further columns are carried through untouched."""

BOOKKEEPING = {"copy", "prompt_id", "row_id", "row_copy", "flipped"}
"""Columns that a curation adds for itself, and drops from what it is given."""

ROLES = ("system", "user", "assistant", "tool")


def _digest(*conversations: Iterable[Message]) -> str:
    content = [[[m["role"], m["content"]] for m in conversation] for conversation in conversations]
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def pair_id(prompt: Iterable[Message], chosen: Iterable[Message], rejected: Iterable[Message]) -> str:
    """The identity of a pair: SHA-256 of its canonical content, 32 hex characters. Same content, same id, everywhere."""
    return _digest(prompt, chosen, rejected)


def prompt_id(prompt: Iterable[Message]) -> str:
    """The identity of a prompt, by which pairs are grouped, split and clustered; 32 hex characters."""
    return _digest(prompt)


def conform(frame: pl.DataFrame) -> pl.DataFrame:
    """Give ``frame`` the standard columns first, in order and of the standard types; add those that are missing as null.

    Raises:
        AssayError: a required column is missing or has a type that cannot be read as the standard one.
    """
    for name in ("prompt", "chosen", "rejected"):
        if name not in frame.columns:
            raise AssayError(f"a pair table needs the column `{name}`; this one has {', '.join(frame.columns)}")
    columns = []
    for name, dtype in COLUMNS.items():
        if name not in frame.columns:
            columns.append(pl.lit(None, dtype=dtype).alias(name))
        else:
            columns.append(pl.col(name).cast(dtype))
    try:
        frame = frame.select(*columns, *(c for c in frame.columns if c not in COLUMNS))
    except pl.exceptions.PolarsError as error:
        raise AssayError(f"not a pair table: {str(error).splitlines()[0]}. Use `assay read` to convert it.") from None
    ids = [pair_id(*row) for row in frame.select("prompt", "chosen", "rejected").iter_rows()]
    return frame.with_columns(pl.Series("id", ids, dtype=pl.String))


def from_rows(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A pair table from dictionaries with at least ``prompt``, ``chosen`` and ``rejected``.

    Extra values keep their type where all rows agree on it; a column of mixed types becomes JSON text.
    """
    data: dict[str, pl.Series] = {}
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    for name in names:
        values = [row.get(name) for row in rows]
        if name in ("source", "subset", "category"):
            values = [None if v is None else _as_text(v) for v in values]
        if name in COLUMNS:
            data[name] = pl.Series(name, values, dtype=COLUMNS[name], strict=False)
        else:
            data[name] = _free_column(name, values)
    frame = pl.DataFrame(data)
    return conform(frame)


def _free_column(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float} and kinds:
        values = [float(v) if v is not None and float in kinds else v for v in values]
    elif len(kinds) > 1 or kinds & {dict, list}:
        values = [None if v is None else _as_text(v) for v in values]
    try:
        return pl.Series(name, values, strict=True)
    except (pl.exceptions.PolarsError, TypeError, OverflowError):
        return pl.Series(name, [None if v is None else str(v) for v in values])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def stack(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One table from several; columns that only some have are null elsewhere, columns of different types become text."""
    common = common_schema([frame.schema for frame in frames])
    return pl.concat([fitted(frame, common) for frame in frames]) if frames else conform(_empty())


def common_schema(schemas: Sequence[Mapping[str, pl.DataType]]) -> pl.Schema:
    """The columns of tables put together, and the type of each that holds all its values."""
    dtypes: dict[str, set[pl.DataType]] = {}
    for schema in schemas:
        for name, dtype in schema.items():
            dtypes.setdefault(name, set()).add(dtype)
    mixed = {n for n, kinds in dtypes.items() if len(kinds - {pl.Null()}) > 1 and not all(k.is_numeric() for k in kinds)}
    empty = [pl.DataFrame(schema={n: pl.String if n in mixed else t for n, t in schema.items()}) for schema in schemas]
    return pl.concat(empty, how="diagonal_relaxed").schema if empty else pl.Schema(COLUMNS)


def fitted(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """``frame`` with the columns of ``schema``: cast to its types, null where it has none."""
    return frame.select((pl.col(n) if n in frame.columns else pl.lit(None)).cast(t).alias(n) for n, t in schema.items())


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=COLUMNS)


def answer_text(messages: Iterable[Message]) -> str:
    """The words of an answer: its assistant turns joined by a line break."""
    return "\n".join(m["content"] for m in messages if m["role"] == "assistant")
