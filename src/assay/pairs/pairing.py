"""From rated answers to pairs, by a stated rule."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from assay.pairs.messages import Aside

FLOAT32_MAX = 3.4e38
"""What a margin can hold."""
DIGITS = 9
"""Decimals that count: 0.1 + 0.2 and 0.3 are one rating."""
Rule = Literal["best-worst", "best-rest", "all"]


@dataclass(frozen=True, slots=True)
class Pairing:
    """How answers are rated and which two make a pair. Answers rated equal never do."""

    attribute: str = "helpfulness"
    """Which rating orders the answers."""
    weights: Mapping[str, float] | None = None
    """A weighted sum of ratings instead of one, as of the five HelpSteer2 attributes."""
    rule: Rule = "best-worst"
    """`best-worst`: the best against the worst answer of a prompt. `best-rest`: the best against every other. `all`: every two."""
    min_gap: float = 0.0
    """Least difference of the ratings of a pair."""
    per_prompt: int | None = None
    """At most so many pairs a prompt, those with the largest difference first, ties in the order of the answers."""
    scorer: str | None = None
    """A scorer that rates the answers, instead of a rating that the rows have."""

    def rating(self, row: Mapping[str, Any]) -> float:
        """The rating of a row, by ``attribute`` or ``weights``, from columns of that name or with ``attr_`` before it; 0 where a scorer is still to rate it.

        Raises:
            Aside: a rating is missing or not a number.
        """
        if self.scorer:
            return 0.0
        if self.weights is None:
            return _rating(row, self.attribute)
        return round(sum(weight * _rating(row, name) for name, weight in self.weights.items()), DIGITS)

    def pairs(self, ratings: list[float]) -> list[tuple[int, int]]:
        """(better, worse) positions, the largest difference first.

        Raises:
            Aside: no two answers make a pair.
        """
        if len(ratings) < 2:
            raise Aside("only one answer to its prompt")
        best, worst = ratings.index(max(ratings)), ratings.index(min(ratings))
        if ratings[best] == ratings[worst]:
            raise Aside("answers are rated equal")
        everyone = range(len(ratings))
        two = {
            "best-worst": [(best, worst)],
            "best-rest": [(best, i) for i in everyone if ratings[i] < ratings[best]],
            "all": [(i, j) for i in everyone for j in everyone if ratings[i] > ratings[j]],
        }[self.rule]
        apart = [(i, j) for i, j in two if round(ratings[i] - ratings[j], DIGITS) >= self.min_gap]
        if not apart:
            raise Aside(f"no two answers are rated {self.min_gap:g} apart")
        return sorted(apart, key=lambda p: (ratings[p[1]] - ratings[p[0]], p))[: self.per_prompt]


def _rating(row: Mapping[str, Any], name: str) -> float:
    value = row[name] if row.get(name) is not None else row.get(f"attr_{name}")
    if value is None:
        raise Aside(f"no rating `{name}`")
    return number(value, name)


def number(value: Any, what: str) -> float:
    """A value as a number that fits a pair table.

    Raises:
        Aside: it is not one, or not finite.
    """
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Aside(f"{what} is not a number")
    try:
        found = float(value)
    except ValueError:
        raise Aside(f"{what} is not a number") from None
    except OverflowError:
        found = math.inf
    if not abs(found) < FLOAT32_MAX:
        raise Aside(f"{what} is not finite")
    return found
