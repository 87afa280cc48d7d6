"""How sure a figure is: bootstrap intervals that resample prompts, since the pairs of one prompt are not independent."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAWS = 2_000
LEVEL = 0.95
Z = 1.959964
UNSEEN = 0.2
"""What part of a cluster more of either kind the variance of a share allows for; chosen by simulation, see tests/evaluate/test_intervals.py."""


def resampled_means(groups: Mapping[str, tuple[Ints, Floats]], clusters: Sequence[str], strata: Sequence[str], name: str, draws: int = DRAWS, weights: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
    """Means over ``draws`` resamples of the clusters, for every group the same resamples.

    Args:
        groups: by name the items a mean is over, and their values.
        clusters: [items] items of the same cluster are drawn together.
        strata: [items] as many clusters are drawn from each stratum as it has; a cluster belongs to the stratum of its first item.
        name: the draw is a function of this alone.
        draws: how many.
        weights: what the values of a group weigh in its mean, for groups whose values don't all weigh the same.

    Returns:
        For each group its means, shape [draws]; NaN in a draw that has none of its items.
    """
    numbers: dict[str, int] = {}
    cluster = np.array([numbers.setdefault(c, len(numbers)) for c in clusters], dtype=np.int64)
    _, first = np.unique(cluster, return_index=True)
    _, stratum = np.unique(np.asarray(strata, dtype=object)[first].astype(str), return_inverse=True)
    weigh = {group: (weights or {}).get(group, np.ones(len(rows))) for group, (rows, _) in groups.items()}
    sums = np.stack([np.bincount(cluster[rows], weights=weigh[group] * values, minlength=len(numbers)) for group, (rows, values) in groups.items()], axis=1)
    counts = np.stack([np.bincount(cluster[rows], weights=weigh[group], minlength=len(numbers)) for group, (rows, _) in groups.items()], axis=1)
    rng = np.random.default_rng(zlib.crc32(name.encode("utf-8")))
    means = []
    for start in range(0, draws, 200):
        drawn = np.zeros((min(200, draws - start), len(numbers)))
        for s in range(stratum.max() + 1):
            mine = np.flatnonzero(stratum == s)
            drawn[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=len(drawn))
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((drawn @ sums) / (drawn @ counts))
    table = np.concatenate(means)
    return {group: table[:, i] for i, group in enumerate(groups)}


def interval(value: float, means: Floats, clusters: int, share: bool = True, parts: Sequence[tuple[float, float, int]] = (), strata: Sequence[tuple[float, int]] = ()) -> tuple[float, float]:
    """The 95% interval of a figure from its resampled means.

    A share (in [0, 1]) gets the score interval of Wilson (1927) for as many independent trials as would have the bootstrap's variance, with the quantile of Student's t for
    the clusters: unlike the percentile interval it keeps its coverage near 0 and 1. With few clusters of which hardly any fails the bootstrap sees too little; so the
    variance is taken as if every part had UNSEEN of a cluster more that is all right and as much that is all wrong. A correlation gets its interval on Fisher's scale.

    Args:
        value: the figure.
        means: its resampled means.
        clusters: how many clusters it is made of.
        share: whether it is a share; otherwise a correlation.
        parts: if it is a weighted sum of shares, of each the weight, the value and its clusters.
        strata: if it is a sum over strata, of each the resampled variance and its clusters, see ``_variance``.
    """
    variance, freedom = _variance(means, clusters, strata)
    t = _student(freedom)
    if not share:
        spread = t * variance**0.5 / max(1e-9, 1 - value * value)
        return float(np.tanh(np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)) - spread)), float(np.tanh(np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9)) + spread))
    value = float(np.round(value, 9))
    if not 0 <= value <= 1:
        return mean_interval(value, means, clusters, strata)
    if value in (0.0, 1.0):
        bound = ((1 - LEVEL) / 2) ** (1 / max(1, clusters))  # Clopper and Pearson, 1934
        return (bound, 1.0) if value else (0.0, 1 - bound)
    if variance < 1e-15:  # every cluster has the same mean; there is nothing to tell how much it varies
        return wilson(value * clusters, clusters, t)
    variance += sum(weight**2 * UNSEEN * (v**2 + (1 - v) ** 2) / max(1, n) ** 2 for weight, v, n in parts or ((1.0, value, clusters),))
    trials = value * (1 - value) / variance
    return wilson(value * trials, trials, t)


def mean_interval(value: float, means: Floats, clusters: int, strata: Sequence[tuple[float, int]] = ()) -> tuple[float, float]:
    """The 95% interval of a mean of any scale from its resampled means: t standard errors to either side."""
    variance, freedom = _variance(means, clusters, strata)
    spread = _student(freedom) * variance**0.5
    return value - spread, value + spread


def _variance(means: Floats, clusters: int, strata: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The variance of a figure, and how many degrees of freedom it has.

    Resampling n clusters shows (n - 1) / n of the variance of their mean. Where a figure is a sum over strata each has its own n, and a small one can have most of the
    variance; the degrees of freedom are then those of Satterthwaite (1946, Biometrics Bulletin 2).
    """
    resampled = float(np.nanvar(means))
    seen = [(v, n) for v, n in strata if v > 0] or [(resampled or 1.0, clusters)]
    scaled = [(v * n / max(1, n - 1), max(1, n - 1)) for v, n in seen]
    whole = sum(v for v, _ in scaled)
    return resampled * whole / sum(v for v, _ in seen), whole**2 / sum(v**2 / freedom for v, freedom in scaled)


def _student(freedom: float) -> float:
    """The 97.5% quantile of Student's t, by the expansion of Cornish and Fisher."""
    z, n = Z, max(freedom, 3)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2) + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)


def wilson(hits: float, n: float, z: float = Z) -> tuple[float, float]:
    """The 95% score interval of a share, ``hits`` of ``n`` (Wilson, 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    p = hits / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
