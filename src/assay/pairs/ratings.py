"""Rated answers: one answer a row with a number for each attribute, what a model with several outputs is trained on."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from assay.errors import AssayError, did_you_mean
from assay.pairs import schema, sources
from assay.pairs.messages import Aside, Messages, answer_of, check_answer, check_prompt, helpsteer_prompt, messages
from assay.pairs.pairing import number
from assay.pairs.read import default_name, renamed

PREFIX = "attr_"


def read_ratings(
    source: str | Path, attributes: Sequence[str], *, name: str | None = None, columns: dict[str, str] | None = None, split: str = "train", config: str | None = None, data_root: Path | None = None, limit: int | None = None
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Rated answers as a table, and the rows that could not be read, each with its reason.

    The table has ``id``, ``prompt_id``, ``source``, ``prompt``, ``response``, ``weight`` and for each attribute ``attr_NAME`` (null where it is not rated), whether the
    source calls it so or ``NAME``. The columns ``prompt`` and ``response`` are messages or text, as HelpSteer2 has them.

    Raises:
        AssayError: the source cannot be opened, no row has a column of an attribute, or no row can be read.
    """
    raw = sources.rows(str(source), split=split, config=config, data_root=data_root)
    rows, aside, keys = [], [], dict[str, None]()
    for row in renamed(itertools.islice(raw, limit), columns or {}):
        try:
            if row.value is None:
                raise Aside(row.reason or "unreadable")
            keys.update(dict.fromkeys(row.value))
            rows.append(_rated(row.value, attributes, name or default_name(str(source))))
        except Aside as reason:
            aside.append({"file": row.file, "row": row.number, "reason": str(reason), "raw": str(row.raw or row.value)[:2_000]})
    for attribute in attributes:
        if not {attribute, PREFIX + attribute} & set(keys):
            known = [key.removeprefix(PREFIX) for key in keys]
            raise AssayError(f"{source}: no row has a rating `{attribute}`.{did_you_mean(attribute, known)} Columns: {', '.join(keys) or '(none)'}")
    if not rows:
        raise AssayError(f"{source}: no row could be read, of {len(aside):,}; the first: {aside[0]['reason'] if aside else 'there is none'}")
    types: dict[str, Any] = {"prompt": schema.MESSAGES, "response": schema.MESSAGES, "weight": pl.Float32, **{PREFIX + a: pl.Float64 for a in attributes}}
    return pl.DataFrame(rows, schema_overrides=types), aside


def _rated(row: dict[str, Any], attributes: Sequence[str], source: str) -> dict[str, Any]:
    prompt: Messages = messages(row["prompt"], "prompt") if isinstance(row.get("prompt"), list) else helpsteer_prompt(row.get("prompt"))
    response = answer_of(row.get("response"), "response")
    check_prompt(prompt)
    check_answer(response, "response")
    ratings = {PREFIX + a: _rating(row, a) for a in attributes}
    if all(value is None for value in ratings.values()):
        raise Aside(f"not rated: {', '.join(attributes)}")
    weight = None if row.get("weight") is None else number(row["weight"], "weight")
    return {"id": schema.pair_id(prompt, response, []), "prompt_id": schema.prompt_id(prompt), "source": str(row.get("source") or source), "prompt": prompt, "response": response, "weight": weight, **ratings}


def _rating(row: dict[str, Any], attribute: str) -> float | None:
    value = row[attribute] if row.get(attribute) is not None else row.get(PREFIX + attribute)
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else number(value, attribute)
