"""Groups of answers of any size: does the best answer win? A share of the credit where several win together.

For data sets whose rows have one right answer and several wrong ones, or more rated answers of which the best is known. What is counted is whether the
highest score belongs to an answer that none is better than. Where no answer is better than another nothing can be told: such items are left out of the mean, and a warning counts them.
"""

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Bools, Part, Suite, Tree, by_items


def credit(scores: Floats, best: Bools, there: Bools) -> Floats:
    """For each row of [n, width]: the share of ``best`` answers among those with the highest score; 0 if any score of an answer that is ``there`` is NaN."""
    masked = np.where(there, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        top = there & (masked == np.max(masked, axis=1, keepdims=True))
    return np.asarray((top & best).sum(axis=1) / np.maximum(top.sum(axis=1), 1), dtype=float)


def measure(suite: Suite, scores: Floats) -> Tree:
    """The mean credit of each subset, and over all items, of those that have a better and a worse answer."""
    values, told = credit(scores, suite.gold == np.nanmax(suite.gold, axis=1, keepdims=True), suite.there), tells(suite)
    rows = {name: suite.rows(name) for name in suite.subsets}
    parts = {name: Part(mine[told[mine]], values[mine[told[mine]]]) for name, mine in rows.items() if told[mine].any()}
    return Tree(parts, {}, by_items(parts))


def tells(suite: Suite) -> Bools:
    """[items]: whether one answer is better than another."""
    return np.asarray(np.nanmax(suite.gold, axis=1) > np.nanmin(suite.gold, axis=1))


def warnings(suite: Suite) -> list[str]:
    """How many items are left out."""
    count = int((~tells(suite)).sum())
    return [f"{count:,} of {len(suite.items):,} items have no better and worse answer, so they are left out of the figures"] if count else []
