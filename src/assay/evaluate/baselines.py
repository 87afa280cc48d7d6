"""What any scorer must beat, on the same items by the same rule: drawing lots, the longer answer, and a probe that sees only the surface."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from assay.curate.kernels.surface import amounts, presence
from assay.evaluate.intervals import LEVEL, Floats, Ints
from assay.evaluate.suite import Suite, Tree
from assay.pairs.schema import answer_text

Measure = Callable[[Suite, Floats], Tree]

LOTS = 100
FOLDS = 3
LEAST = 60
"""Comparisons below which no probe is fitted."""
MOST_AN_ITEM = 6
"""Comparisons of an item that a probe is fitted on."""


def lengths(suite: Suite) -> Floats:
    """Shape [items, width]: characters of each answer."""
    found = np.full(suite.gold.shape, np.nan)
    for i, item in enumerate(suite.items):
        found[i, : len(item.answers)] = [len(answer_text(answer)) for answer in item.answers]
    return found


def by_lot(suite: Suite, measure: Measure) -> dict[str, tuple[float, float]]:
    """Where 95% of the results of a scorer that draws lots lie, for each figure."""
    rng = np.random.default_rng(zlib.crc32(suite.name.encode("utf-8")))
    drawn = [measure(suite, np.where(suite.there, rng.random(suite.gold.shape), np.nan)).values() for _ in range(LOTS)]
    tail = (1 - LEVEL) / 2
    bounds = {name: np.quantile([values[name] for values in drawn], [tail, 1 - tail]) for name in drawn[0]}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def by_length(suite: Suite, measure: Measure) -> dict[str, float]:
    """Each figure of a scorer that counts characters; among answers of equal length the mean of preferring the first and preferring the last."""
    length, order = lengths(suite), np.arange(suite.width) / (2 * suite.width)
    first, last = measure(suite, length - order).values(), measure(suite, length + order).values()
    return {name: (first[name] + last[name]) / 2 for name in first}


def by_surface(suite: Suite, measure: Measure) -> dict[str, float] | None:
    """Each figure of a linear probe of what answers look like (words, edges, marks, lengths, markup), fitted on the labels of other prompts of the same suite.

    It tells how much of the suite can be had without reading. None where scikit-learn is missing, or the suite has too few items or prompts.
    """
    item, better, worse = suite.comparisons()
    keep = np.concatenate([np.flatnonzero(item == i)[:MOST_AN_ITEM] for i in np.unique(item)]) if len(item) > MOST_AN_ITEM * len(suite.items) else np.arange(len(item))
    item, better, worse = item[keep], better[keep], worse[keep]
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    if len(item) < LEAST:
        return None
    features, place = _features(suite)
    fold = np.array([zlib.crc32(one.cluster.encode("utf-8")) % FOLDS for one in suite.items])
    scores = np.where(suite.there, 0.0, np.nan)
    turn = np.where(np.arange(len(item)) % 2 == 0, 1, -1)  # half the rows the other way round, so that there are two classes
    difference = (features[place[item, better]] - features[place[item, worse]]).multiply(turn[:, None]).tocsr()
    for f in range(FOLDS):
        fit, held = fold[item] != f, np.flatnonzero(fold == f)
        if not len(held):
            continue
        if len(set(turn[fit])) < 2:
            return None
        model = LogisticRegression(C=0.3, fit_intercept=False, solver="liblinear").fit(difference[fit], turn[fit])
        told = features @ model.coef_[0]
        scores[held] = np.where(suite.there[held], told[place[held]], np.nan)
    return measure(suite, scores).values()


def _features(suite: Suite) -> tuple[Any, Ints]:
    """A sparse matrix [distinct answers, features], and which row of it each answer [items, width] is (0 where there is none)."""
    from scipy.sparse import csr_matrix, hstack

    texts: dict[str, int] = {}
    place = np.zeros(suite.gold.shape, dtype=np.int64)
    for i, item in enumerate(suite.items):
        for j, answer in enumerate(item.answers):
            place[i, j] = texts.setdefault(answer_text(answer), len(texts))
    names: dict[str, int] = {}
    columns = [np.fromiter((names.setdefault(name, len(names)) for name in sorted(presence(text))), np.int64) for text in texts]
    at = np.concatenate(columns)
    rows = np.repeat(np.arange(len(texts)), [len(c) for c in columns])
    often = np.bincount(at, minlength=len(names)) >= 5
    number = np.cumsum(often) - 1
    kept = often[at]
    marks = csr_matrix((np.ones(kept.sum()), (rows[kept], number[at[kept]])), shape=(len(texts), int(often.sum())))
    sizes = np.array([list(amounts(text).values()) for text in texts])
    spread = sizes.std(axis=0)
    return hstack([marks, csr_matrix(sizes / np.where(spread > 0, spread, 1))]).tocsr(), place
