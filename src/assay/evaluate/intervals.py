"""How sure a figure is: bootstrap intervals that resample prompts, since the pairs of one prompt are not independent."""

import zlib

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 2_000
LEVEL = 0.95


def resampled_means(values: Floats, prompts: NDArray[np.str_], name: str, draws: int = DRAWS) -> Floats:
    """Means of ``values`` over ``draws`` resamples of the prompts, shape [draws]. The draw is a function of ``name`` alone."""
    _, cluster = np.unique(prompts, return_inverse=True)
    sums, counts = np.bincount(cluster, weights=values), np.bincount(cluster).astype(float)
    rng = np.random.default_rng(zlib.crc32(name.encode("utf-8")))
    means = []
    for start in range(0, draws, 200):
        weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=min(200, draws - start))
        means.append((weights @ sums) / (weights @ counts))
    return np.concatenate(means)


def interval(means: Floats, prompts: int) -> tuple[float, float]:
    """The 95% percentile interval of resampled means.

    Where every resample is 0 or every one is 1 the bootstrap can't tell how sure that is; then the exact one-sided bound
    for that many prompts takes its place (Clopper and Pearson, 1934).
    """
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    if low == high == 1.0:
        low = tail ** (1 / prompts)
    if low == high == 0.0:
        high = 1 - tail ** (1 / prompts)
    return float(low), float(high)


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The 95% score interval of a share, ``hits`` of ``n`` (Wilson, 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def coin(n: int) -> tuple[float, float]:
    """Where 95% of the accuracies of coin flips on ``n`` pairs lie."""
    half = min(0.5, 1.96 * 0.5 / max(n, 1) ** 0.5)
    return 0.5 - half, 0.5 + half
