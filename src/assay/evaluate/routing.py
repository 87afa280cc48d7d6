"""What a router between models is worth: quality against how much the dear model is used, and the area under that curve.

Two conventions. RouteLLM (Ong et al., arXiv 2406.18665) has a strong and a weak model and a router whose score says how much an item needs the strong one; its
figures are APGR, the share of the gap between the models that the router recovers on average over thresholds, and CPT(p), the percentage of strong calls at which it recovers
p. RouterBench (Hu et al., arXiv 2403.12031) has points (cost, performance) of routers between any number of models; its figure is AIQ, the area under their
non-decreasing concave hull. Both are computed here as the authors' code does, which departs from the papers where said.

What a model is worth on the items is given as [n] 0 or 1 (then a figure is accuracy in percent) or as [n, turns] scores (then it is the mean score, in points).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from assay.errors import AssayError
from assay.evaluate.intervals import Floats


class Points(NamedTuple):
    """The operating points of a router, three arrays of shape [points]."""

    threshold: Floats
    """Scores from here on go to the strong model."""
    strong_percentage: Floats
    """Percent of the items that do, 0 to 100."""
    quality: Floats
    """The figure of the answers: accuracy in percent, or score points."""


# RouteLLM


def quality(answers: ArrayLike) -> float:
    """The figure of one model: accuracy in percent of [n] 0/1, or the mean of [n, turns] scores.

    Raises:
        AssayError: there is no item, or a value of [n] is not 0 or 1, or one of [n, turns] not finite.
    """
    return float(_worth(answers).mean())


def operating_points(strong: ArrayLike, weak: ArrayLike, scores: ArrayLike, num_results: int = 10) -> Points:
    """Quality at ``num_results`` + 1 thresholds, by ascending threshold: the quantiles of the router's own scores, linearly interpolated.

    An item goes to the strong model if its score is at least the threshold; at the last threshold, the largest score, none does. So the shares run from 100 to 0 percent.

    Args:
        strong: what the strong model is worth, [n] or [n, turns].
        weak: the same of the weak one.
        scores: the router's, [n], the higher the more an item needs the strong model.
        num_results: how many steps.

    Raises:
        AssayError: the shapes differ, there is no item, a value is not finite or, of [n], not 0 or 1, or two quantiles coincide because too many scores are equal.
    """
    best, cheap, router = _worth(strong), _worth(weak), _numbers(scores, "a router's score")
    if not best.shape == cheap.shape == router.shape:
        raise AssayError(f"routing: {len(best)} items of the strong model, {len(cheap)} of the weak one and scores of shape {list(router.shape)}; each item needs one of each")
    thresholds = _thresholds(router, num_results)
    chosen = router >= thresholds[:, None]
    chosen[-1] = router > thresholds[-1]
    return Points(thresholds, 100 * chosen.mean(axis=1), np.where(chosen, best, cheap).mean(axis=1))


def _thresholds(scores: Floats, num_results: int) -> Floats:
    if num_results < 1:
        raise AssayError(f"routing: num_results is {num_results}; it must be 1 or more")
    found = np.percentile(scores, 100 * np.linspace(0, 1, num_results + 1))
    same = np.flatnonzero(np.diff(found) <= 0)
    if len(same):
        raise AssayError(f"routing: the quantiles {same[0]} and {same[0] + 1} of the router's scores are both {found[same[0]]}, so too many scores are equal; lower num_results (now {num_results}) or break the ties")
    return np.asarray(found, dtype=float)


def average_draws(draws: Sequence[Points]) -> Points:
    """One curve of several draws of a random router, by ascending share: points with the same share of strong calls are averaged, their thresholds too.

    Raises:
        AssayError: there is no draw.
    """
    if not draws:
        raise AssayError("routing: there is no draw of the random router; pass at least one")
    threshold, share, worth = (np.concatenate(parts) for parts in zip(*draws, strict=True))
    shares, group = np.unique(share, return_inverse=True)
    count = np.bincount(group)
    return Points(np.bincount(group, threshold) / count, shares, np.bincount(group, worth) / count)


def auc(points: Points) -> float:
    """Area under quality over the share of strong calls, which runs from 0 to 1: a mean quality, in the unit of ``points``."""
    shares, worth = _by_share(points)
    return float(np.trapezoid(worth, shares / 100))


def apgr(points: Points, strong: float, weak: float) -> float:
    """Average performance gap recovered: (AUC - weak area) / (strong area - weak area), over the same shares. 0 is the weak model, 1 the strong one.

    It is above 1 where a router beats the strong model and below 0 where it does worse than the weak one; of models of equal quality it is infinite or NaN, and if the weak
    one is better a good router has a low value.

    Args:
        points: of the router.
        strong: quality of the strong model alone, in the unit of ``points``.
        weak: the same of the weak one.
    """
    shares, _ = _by_share(points)
    strong_area, weak_area = (np.trapezoid(np.full(len(shares), worth), shares / 100) for worth in (strong, weak))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((auc(points) - weak_area) / np.subtract(strong_area, weak_area))


def cpt(points: Points, p: float, strong: float, weak: float) -> float:
    """Call-performance threshold: the percent of strong calls, 0 to 100, at which the share ``p`` (0 to 1) of the gap between the models is recovered.

    The authors' code interpolates the share over quality by ``numpy.interp`` **without sorting by quality**. A curve that is not monotone crosses the target several times, and the
    result is whichever crossing numpy's search meets, the first, the last or one between: a figure to reproduce, not to rely on. A target below the first quality gives the smallest share, one above the last
    the largest; where the weak model is at least as good that can be 100 for any router. The authors print two decimals.

    Args:
        points: of the router.
        p: 0.5 for CPT(50%).
        strong: quality of the strong model alone, in the unit of ``points``.
        weak: the same of the weak one.
    """
    shares, worth = _by_share(points)
    return float(np.interp(weak + p * (strong - weak), worth, shares))


def optimal_at_strong_share(strong: ArrayLike, weak: ArrayLike, share: float) -> float:
    """The quality of a router that knows the answers and gives the strong model ``share`` percent of the items, 0 to 100.

    Of 0/1 items: those the weak model gets right and as many more as the strong model alone gets right, at most ``share`` of the items, a number that is not rounded. Of scores:
    the ``share`` of the items, rounded down, where the strong model gains most, also where that is a loss.

    Raises:
        AssayError: the shapes differ, there is no item, a value is not finite or, of [n], not 0 or 1, or the share is not 0 to 100.
    """
    best, cheap = _worth(strong), _worth(weak)
    if np.shape(strong) != np.shape(weak):
        raise AssayError(f"routing: the strong model has the shape {list(np.shape(strong))} and the weak one {list(np.shape(weak))}; both must have the same items and turns")
    if not 0 <= share <= 100:
        raise AssayError(f"routing: the share of strong calls is {share}; it must be 0 to 100 percent")
    gains = np.sort(best - cheap)[::-1]
    if np.ndim(strong) > 1:
        return float(cheap.mean() + gains[: int(share * len(gains) / 100)].sum() / len(gains))
    return float(cheap.mean() + min(share, 100 * float((gains > 0).mean())))


def _worth(answers: ArrayLike) -> Floats:
    values = _numbers(answers, "what a model is worth on the items")
    if values.ndim not in (1, 2) or not values.size:
        raise AssayError(f"routing: what a model is worth on the items has the shape {list(values.shape)}; expected [n] of 0 and 1 or [n, turns] of scores, with at least one")
    if values.ndim == 2:
        return np.asarray(values.mean(axis=1), dtype=float)
    if not np.isin(values, (0, 1)).all():
        raise AssayError("routing: of the answers some are neither 0 (wrong) nor 1 (right); give scores as [n, 1]")
    return np.asarray(100 * values, dtype=float)


def _numbers(values: ArrayLike, what: str) -> Floats:
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise AssayError(f"routing: {what} cannot be made an array of numbers; every row must have as many") from None
    if not np.isfinite(found).all():
        raise AssayError(f"routing: {what} is not finite everywhere; measure those again or drop them")
    return found


def _by_share(points: Points) -> tuple[Floats, Floats]:
    order = np.argsort(points.strong_percentage, kind="stable")
    return points.strong_percentage[order], points.quality[order]


# RouterBench


def hull(points: ArrayLike) -> Floats:
    """The non-decreasing concave hull of a router's points: [k, 2] of cost and performance, costs ascending.

    Every cost between the smallest and the largest gets the upper concave envelope of all points, and what lies beyond the peak goes. At the smallest cost only the first point
    given counts as a point; others there still lift the envelope, so that the hull may start below it. (The authors' sort is not stable beyond 16 points; here the first
    is the first given.)

    Args:
        points: [n, 2] of total cost and performance.

    Raises:
        AssayError: the shape is another, a value is not finite or a cost negative, or there are fewer than three different costs.
    """
    given = _points(points)
    given = given[np.argsort(given[:, 0], kind="stable")]
    costs = np.unique(given[:, 0])
    if len(costs) < 3:
        raise AssayError(f"routing: a router has points at {len(costs)} different costs, and a hull as RouterBench draws it takes three; measure it at more settings")
    top = np.array([given[given[:, 0] == cost, 1].max() for cost in costs])
    lifted = _envelope(costs, top)
    lifted[0] = given[0, 1]
    keep = np.append(True, np.diff(lifted) >= 0)
    found: Floats = np.stack([costs, lifted], axis=1)[keep]
    return found


def aiq(routers: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Average improvement in quality of routers that are compared: by name the area under its ``hull``, extended flat to the largest hull cost **of all**, over that cost.

    So a router's AIQ depends on whom it is compared with. Nothing counts from cost 0 to a router's first cost, but the divisor includes it (the paper's is the range of costs): a
    router at constant 0.5 with costs 1 to 5 has 0.4.

    Args:
        routers: by name its points, [n, 2] of total cost and performance.

    Raises:
        AssayError: there is no router, ``hull`` raises for one, or the largest hull cost is 0.
    """
    if not routers:
        raise AssayError("routing: there is no router to compare; pass at least one")
    hulls = {name: _named_hull(name, points) for name, points in routers.items()}
    limit = max(float(found[-1, 0]) for found in hulls.values())
    if limit == 0:
        raise AssayError("routing: every router is best at cost 0, so that there is no area and nothing to divide by; compare their performance there")
    return {name: float(np.trapezoid(np.append(found[:, 1], found[-1, 1]), np.append(found[:, 0], limit)) / limit) for name, found in hulls.items()}


def _named_hull(name: str, points: ArrayLike) -> Floats:
    try:
        return hull(points)
    except AssayError as error:
        raise AssayError(f"{name}: {error}") from None


def _points(points: ArrayLike) -> Floats:
    given = _numbers(points, "cost or performance")
    if given.ndim != 2 or given.shape[1] != 2:
        raise AssayError(f"routing: points have the shape {list(given.shape)}, expected [n, 2] of cost and performance")
    if (given[:, 0] < 0).any():
        raise AssayError(f"routing: a cost is {given[:, 0].min()}; costs must be 0 or more")
    return given


def _envelope(costs: Floats, top: Floats) -> Floats:
    """The upper concave envelope at each of the ascending ``costs`` (a monotone chain, Andrew 1979)."""
    corners: list[int] = []
    for i in range(len(costs)):
        while len(corners) > 1 and _is_under(costs, top, corners[-2], corners[-1], i):
            corners.pop()
        corners.append(i)
    return np.asarray(np.interp(costs, costs[corners], top[corners]), dtype=float)


def _is_under(costs: Floats, top: Floats, left: int, middle: int, right: int) -> bool:
    rise = (top[middle] - top[left]) * (costs[right] - costs[left])
    return bool(rise <= (top[right] - top[left]) * (costs[middle] - costs[left]))
