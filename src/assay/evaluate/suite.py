"""What an evaluation is made of: items (a prompt and its answers), the suite they form, and the figures a suite's rule asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.evaluate.intervals import Floats
from assay.pairs.messages import Messages

Bools = NDArray[np.bool_]
Weights = Mapping[str, float]
OVERALL = "overall"
"""The name of the figure for all, which no part of it may have."""


def set_apart(name: str) -> str:
    """The name of a part, another one where it has that of the figure for all."""
    return f"{name} (part)" if name == OVERALL else name


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt, its answers, and how good each is."""

    id: str
    subset: str
    prompt: Messages
    answers: list[Messages]
    gold: tuple[float, ...]
    """For each answer 1 (right) or 0 (wrong); for rated answers the rating, NaN where there is none."""
    cluster: str
    """Items of the same cluster are not independent: the prompt's identity, unless the benchmark has a better one."""
    about: dict[str, Any] = field(default_factory=dict)
    """What else the rule needs to know."""


@dataclass
class Suite:
    """Items to be measured on, and by which rule."""

    name: str
    rule: str
    """A name of ``assay.evaluate.suites.RULES``."""
    items: list[Item]
    aside: list[dict[str, Any]] = field(default_factory=list)
    """Rows that could not be read, each with its reason."""
    warnings: list[str] = field(default_factory=list)
    """What a reader of the figures must know about the items."""
    hub: list[tuple[str, str]] = field(default_factory=list)
    """The data sets on the hub and their splits that the items are from, as far as they are from there."""

    def __post_init__(self) -> None:
        if any(item.subset == OVERALL for item in self.items):
            self.items = [replace(item, subset=set_apart(item.subset)) for item in self.items]

    @property
    def width(self) -> int:
        """The most answers an item has."""
        return max((len(item.answers) for item in self.items), default=0)

    @cached_property
    def gold(self) -> Floats:
        """Shape [items, width]: how good each answer is; NaN where there is no answer or no rating."""
        return padded([item.gold for item in self.items], self.width)

    @cached_property
    def there(self) -> Bools:
        """Shape [items, width]: whether there is such an answer."""
        return np.arange(self.width) < np.array([[len(item.answers)] for item in self.items]).reshape(-1, 1)

    @cached_property
    def subsets(self) -> list[str]:
        """The names of the subsets, sorted."""
        return sorted({item.subset for item in self.items})

    def rows(self, subset: str) -> NDArray[np.int64]:
        """The numbers of the items of a subset."""
        return np.array([i for i, item in enumerate(self.items) if item.subset == subset])

    def comparisons(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Every two answers of an item of which one is better: the item, the better answer, the worse answer."""
        item, better, worse = np.nonzero(self.gold[:, :, None] > self.gold[:, None, :])
        return item, better, worse


def padded(rows: Sequence[Sequence[float]], width: int) -> Floats:
    """Rows of numbers as a matrix, NaN where a row is shorter."""
    matrix = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix


@dataclass(frozen=True, slots=True)
class Part:
    """Some items, each with its result; their mean is a figure."""

    rows: NDArray[np.int64]
    """[n] numbers of items."""
    values: Floats
    """[n] the result of each."""

    @property
    def mean(self) -> float:
        """The figure."""
        return float(np.mean(self.values)) if len(self.values) else float("nan")


@dataclass(frozen=True, slots=True)
class Tree:
    """What a rule makes of a suite and its scores: means of items, and means of such means."""

    parts: dict[str, Part]
    """The figures that are means over items; a figure's name is its key."""
    sections: Mapping[str, Weights]
    """Figures above them: the weights of the parts they are made of."""
    overall: Weights
    """The one figure for all, made of parts."""
    share: bool = True
    """Whether the figures are shares of something, in [0, 1]; if not, they are correlations, in [-1, 1]."""

    def value(self, weights: Weights) -> float:
        """The figure that is made of parts by ``weights``, which are taken as they are."""
        return sum(weight * self.parts[name].mean for name, weight in weights.items()) if weights else float("nan")

    def values(self) -> dict[str, float]:
        """Every figure by its name, the one for all as ``overall``."""
        figures = {name: part.mean for name, part in self.parts.items()}
        figures |= {name: self.value(weights) for name, weights in self.sections.items()}
        return {**figures, "overall": self.value(self.overall)}


def equally(names: Sequence[str]) -> Weights:
    """The plain mean of some parts."""
    return {name: 1 / len(names) for name in names}


def by_items(parts: Mapping[str, Part]) -> Weights:
    """The mean over the items of all parts."""
    total = sum(len(part.rows) for part in parts.values())
    return {name: len(part.rows) / total for name, part in parts.items()}
