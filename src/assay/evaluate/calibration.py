"""How far the margin of two rewards is a probability: sigmoid(margin / T) against how often the ranking is right."""

import math
import zlib
from typing import Any

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Suite

COLDEST, HOTTEST = 1e-3, 1e3
BINS = 10
BUCKETS = 5
LEAST = 40
"""Comparisons below which nothing is said."""


def calibrate(suite: Suite, scores: Floats, fitted: float | None) -> dict[str, Any] | None:
    """Expected calibration error, Brier score, the points of a reliability plot, and accuracy by size of the margin; None of fewer than LEAST comparisons.

    Args:
        suite: the items.
        scores: [items, width].
        fitted: the temperature of the scorer's contract. If None it is fitted here, on half the prompts for the other half, and the result says so.
    """
    item, better, worse = suite.comparisons()
    with np.errstate(invalid="ignore"):
        margin = scores[item, better] - scores[item, worse]
    finite = np.isfinite(margin)
    item, margin = item[finite], margin[finite]
    if len(item) < LEAST or not np.any(margin):
        return None
    weight = 1 / np.bincount(item, minlength=len(suite.items))[item]
    half = np.array([zlib.crc32(one.cluster.encode("utf-8")) % 2 for one in suite.items])[item]
    scale = np.full(len(item), fitted or 1.0)
    if fitted is None:
        for h in (0, 1):
            scale[half == h] = _fitted(margin[half != h], weight[half != h])
    confidence = sigmoid(np.abs(margin) / scale)
    right = np.where(margin == 0, 0.5, (margin > 0).astype(float))
    points = []
    edges = np.linspace(0.5, 1.0, BINS + 1)
    place = np.clip(np.digitize(confidence, edges[1:-1]), 0, BINS - 1)
    for b in range(BINS):
        mine = place == b
        if mine.any():
            points.append({"confidence": float(np.average(confidence[mine], weights=weight[mine])), "accuracy": float(np.average(right[mine], weights=weight[mine])), "comparisons": int(mine.sum()), "weight": float(weight[mine].sum() / weight.sum())})
    return {
        "temperature": float(np.median(scale)),
        "fitted_here": fitted is None,
        "ece": float(sum(p["weight"] * abs(p["accuracy"] - p["confidence"]) for p in points)),
        "brier": float(np.average((1 - sigmoid(margin / scale)) ** 2, weights=weight)),
        "reliability": points,
        "by_margin": _buckets(np.abs(margin), right, weight),
    }


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def temperature(margins: Floats, weight: Floats | None = None) -> float:
    """T for which sigmoid(margin / T) has the greatest likelihood, the ``margins`` [n] being better - worse (Guo et al. 2017, arXiv 1706.04599).

    The likelihood has one maximum; where it lies beyond all bounds, because all pairs are right or margins are not above 0 on average, the bound is returned.
    """
    low, high = math.log(COLDEST), math.log(HOTTEST)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):  # golden section: the bracket shrinks to 1e-11 of itself
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(margins / math.exp(a), weight) <= _loss(margins / math.exp(b), weight):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


def _loss(margins: Floats, weight: Floats | None) -> float:
    return float(np.average(np.logaddexp(0, -margins), weights=weight))


def _fitted(margins: Floats, weight: Floats) -> float:
    """The temperature of margins of any size."""
    scale = float(np.median(np.abs(margins))) if len(margins) else 0.0
    return scale * temperature(margins / scale, weight) if scale else 1.0


def sure_temperature(margins: Floats) -> float | None:
    """``temperature`` of margins of any size; None of fewer than LEAST, and where no temperature is the best: all pairs are right, or the margins are not above 0 on average."""
    weight = np.ones(len(margins))
    scale = float(np.median(np.abs(margins))) if len(margins) >= LEAST else 0.0
    found = _fitted(margins, weight) if scale else 0.0
    return found if scale * COLDEST * 1.01 < found < scale * HOTTEST / 1.01 else None


def _buckets(size: Floats, right: Floats, weight: Floats) -> list[dict[str, float]]:
    """Accuracy from the smallest fifth of the margins to the largest."""
    found = []
    for rows in np.array_split(np.argsort(size, kind="stable"), BUCKETS):
        if len(rows):
            found.append({"from": float(size[rows[0]]), "to": float(size[rows[-1]]), "comparisons": len(rows), "accuracy": float(np.average(right[rows], weights=weight[rows]))})
    return found
