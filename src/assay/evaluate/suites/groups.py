"""Several answers to a prompt, each with a gold value: from rows that hold one answer, or all of them."""

from collections.abc import Iterable
from typing import Any

from assay.evaluate.suite import Item
from assay.evaluate.suites.raw import answer, answers, get, items_of, number
from assay.pairs.messages import Aside, Messages, prompt_of
from assay.pairs.schema import prompt_id

GOLD = ("gold", "is_correct", "correct", "label", "score", "rating")
"""Columns that may say how good an answer is, in the order they are looked for."""


def items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """Items of any of these rows:

    - one answer: ``prompt`` (or ``question``), ``response`` and a column of gold values (``gold``, or the first of GOLD that is there); rows of the same prompt are one item;
    - all answers: ``prompt``, ``responses`` and as many gold values in ``scores``; or ``chosen`` and ``rejected`` as lists, the right ones and the wrong ones.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        try:
            prompt = prompt_of(next((row[key] for key in ("prompt", "question", "instruction") if row.get(key) is not None), None))
            if isinstance(row.get("chosen"), list) and "rejected" in row and "response" not in row:
                right, wrong = answers(row, "chosen"), answers(row, "rejected")
                yield _item(row, prompt, right + wrong, [1.0] * len(right) + [0.0] * len(wrong))
            elif row.get("responses") is not None:
                several, values = answers(row, "responses"), [number(v, "scores") for v in items_of(row, "scores")]
                if len(several) != len(values):
                    raise Aside(f"{len(several)} responses with {len(values)} scores")
                yield _item(row, prompt, several, values)
            else:
                _collect(found, row, prompt)
        except Aside as reason:
            yield reason
    for one in found.values():
        yield _item(one["row"], one["prompt"], one["answers"], one["gold"], one["rows"])


def _collect(found: dict[str, dict[str, Any]], row: dict[str, Any], prompt: Messages) -> None:
    name = next((key for key in GOLD if row.get(key) is not None), None)
    if name is None:
        raise Aside(f"has no gold value: none of the columns {', '.join(GOLD)} is there")
    said, value = answer(get(row, "response"), "response"), number(get(row, name), name)
    one = found.setdefault(prompt_id(prompt), {"row": row, "prompt": prompt, "answers": [], "gold": [], "rows": []})
    one["answers"].append(said)
    one["gold"].append(value)
    one["rows"].append({key: v for key, v in row.items() if key not in ("prompt", "response", "question")})


def _item(row: dict[str, Any], prompt: Messages, several: list[Messages], gold: list[float], rows: list[dict[str, Any]] | None = None) -> Item:
    name = str(row.get("prompt_id") or row.get("question_id") or row.get("id") or prompt_id(prompt)[:12])
    return Item(name, str(row.get("subset") or row.get("source") or "all"), prompt, several, tuple(gold), prompt_id(prompt), {"rows": rows or []})
