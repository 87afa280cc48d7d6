"""The weights by which attributes become a reward, and what length alone is worth to it."""

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.pairs.schema import answer_text

Floats = NDArray[np.float64]


def merge_weights(differences: Floats, ridge: float = 1e-2) -> Floats:
    """Weights [k] for which the weighted sum of ``differences`` [n, k] (chosen - rejected, attribute by attribute) best tells which answer was chosen.

    Logistic regression without a constant by Newton's method, with ``ridge`` on the weights; scaled so that their absolute values sum to 1.
    """
    size = np.sqrt((differences**2).mean(axis=0))
    scale = np.where(size > 0, size, 1.0)
    x = differences / scale
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(np.clip(x @ w, -30, 30)))  # of the wrong answer
        gradient = ridge * w - x.T @ p / len(x)
        curvature = ridge * np.eye(len(w)) + (x * (p * (1 - p))[:, None]).T @ x / len(x)
        step = np.linalg.solve(curvature, gradient)
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    weights = w / scale
    total = np.abs(weights).sum()
    return weights / total if total > 0 else np.full(len(w), 1 / len(w))


def length_slope(pairs: pl.DataFrame, margins: Floats) -> float | None:
    """The slope of ``margins`` [n] (reward of the chosen - of the rejected answer) over the difference of log(1 + characters), by least squares without a constant.

    None where the two answers of every pair are equally long.
    """
    lengths = [[math.log1p(len(answer_text(messages))) for messages in pairs[side]] for side in ("chosen", "rejected")]
    apart = np.array(lengths[0]) - np.array(lengths[1])
    return float(apart @ margins / (apart @ apart)) if apart.any() else None
