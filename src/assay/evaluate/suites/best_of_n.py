"""Groups of answers of any size: does the best answer win? A share of the credit where several win together.

For data sets whose rows have one right answer and several wrong ones, or more rated answers of which the best is known. What is counted is whether the
highest score belongs to an answer that none is better than.
"""

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Bools, Suite, Tree, by_items
from assay.evaluate.suites.pairs import by_subset


def credit(scores: Floats, best: Bools, there: Bools) -> Floats:
    """For each row of [n, width]: the share of ``best`` answers among those with the highest score; 0 if any score of an answer that is ``there`` is NaN."""
    masked = np.where(there, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        top = there & (masked == np.max(masked, axis=1, keepdims=True))
    return np.asarray((top & best).sum(axis=1) / np.maximum(top.sum(axis=1), 1), dtype=float)


def measure(suite: Suite, scores: Floats) -> Tree:
    """The mean credit of each subset, and over all items."""
    best = suite.gold == np.nanmax(suite.gold, axis=1, keepdims=True)
    parts = by_subset(suite, credit(scores, best, suite.there))
    return Tree(parts, {}, by_items(parts))
