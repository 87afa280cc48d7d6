"""Pairs of any kind: the share whose chosen answer scores strictly higher, every pair the same."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Part, Suite, Tree, by_items


def right(better: Any, worse: Any) -> Floats:
    """1.0 where the better answer scores strictly higher, else 0.0. Equal scores, and NaN on either side, are wrong. Shapes as given."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.asarray(better, dtype=float) > np.asarray(worse, dtype=float), dtype=float)


def item(row: dict[str, Any]) -> Item:
    """A row of a pair table (``id``, ``subset``, ``prompt_id``, ``prompt``, ``chosen``, ``rejected``) as an item."""
    return Item(row["id"], row["subset"], row["prompt"], [row["chosen"], row["rejected"]], (1.0, 0.0), row["prompt_id"])


def measure(suite: Suite, scores: Floats) -> Tree:
    """The share of right pairs of each subset and of all."""
    parts = by_subset(suite, right(scores[:, 0], scores[:, 1]))
    return Tree(parts, {}, by_items(parts))


def by_subset(suite: Suite, values: Floats, names: Iterable[str] | None = None) -> dict[str, Part]:
    """The results of all items, cut into subsets."""
    found = {}
    for name in names or suite.subsets:
        rows = suite.rows(name)
        found[name] = Part(rows, values[rows])
    return found
