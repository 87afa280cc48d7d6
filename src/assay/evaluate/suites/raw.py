"""Reading the fields of published benchmark rows; what is missing or of the wrong kind sets the row aside."""

import math
from typing import Any

from assay.pairs.messages import Aside, Messages, answer_of, check_answer, check_text, kind_of


def get(row: dict[str, Any], key: str) -> Any:
    """The value of a field that must be there."""
    if row.get(key) is None:
        raise Aside(f"has no `{key}`")
    return row[key]


def text(row: dict[str, Any], key: str) -> str:
    """A field that must be text."""
    return check_text(get(row, key), key)


def items_of(row: dict[str, Any], key: str) -> list[Any]:
    """A field that must be a list with something in it."""
    value = get(row, key)
    if not isinstance(value, list) or not value:
        raise Aside(f"{key} is {kind_of(value) if value != [] else 'an empty list'}, expected a list")
    return value


def answer(value: Any, what: str) -> Messages:
    """An answer: text, a message or messages. Unlike a training pair's it may be empty, since the benchmark says what it is."""
    found = answer_of(value, what)
    if any(m["content"].strip() for m in found):
        check_answer(found, what)
    return found


def answers(row: dict[str, Any], key: str) -> list[Messages]:
    """A field that is a list of answers."""
    return [answer(value, f"{key}[{i}]") for i, value in enumerate(items_of(row, key))]


def number(value: Any, what: str) -> float:
    """A finite number; true and false are 1 and 0."""
    if not isinstance(value, (bool, int, float)):
        raise Aside(f"{what} is {kind_of(value)}, expected a number, true or false")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise Aside(f"{what} is {'not a number' if found != found else 'too large'}, expected a number")
    return found


def whole(value: Any, what: str) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) > 1 << 40 or int(value) != value:
        raise Aside(f"{what} is {kind_of(value) if not isinstance(value, float) else value}, expected a whole number")
    return int(value)


class Later(Aside):
    """A row that turns out to be of no use when others have been read: it says which row it was."""

    def __init__(self, reason: str, row: dict[str, Any]) -> None:
        super().__init__(reason)
        self.row = row
