"""What a difference of rewards means: the temperature by which it becomes a probability, and the weights by which attributes become a reward."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLDEST, HOTTEST = 1e-3, 1e3


def temperature(margins: Floats) -> float:
    """T for which sigmoid(margin / T) has the greatest likelihood, the ``margins`` [n] being chosen - rejected (Guo et al. 2017, arXiv 1706.04599).

    The likelihood has one maximum; where it lies beyond all bounds, because all pairs are right or margins are not above 0 on average, the bound is returned.
    """
    low, high = math.log(COLDEST), math.log(HOTTEST)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):  # golden section: the bracket shrinks to 1e-11 of itself
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if _loss(margins / math.exp(a)) <= _loss(margins / math.exp(b)):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


def _loss(margins: Floats) -> float:
    return float(np.logaddexp(0, -margins).mean())


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
