"""The verb ``best-of-n``: what picking the highest-scoring of n answers is worth, and where more answers begin to hurt.

From N answers to each prompt the gold value of the best of n by the scorer is estimated without bias for every n up to N: with answers in the order of their scores, the one with rank i (from below) is
the best of a random n with probability C(i-1, n-1) / C(N, n) (Nakano et al. 2021, arXiv 2112.09332, appendix I); of equal scores each has the same chance. Picking so moves the policy by
log n - (n - 1) / n nats of KL at most (Beirami et al. 2024, arXiv 2401.01879). Beside it stand a random answer, the longest answer, the best there is (the oracle), and, where answers
have a final result to be compared, the commonest result (self-consistency) and the result with the largest sum of scores (weighted voting).
"""

import itertools
import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.evaluate.baselines import lengths
from assay.evaluate.intervals import Floats, interval, mean_interval, resampled_means
from assay.evaluate.suite import Bools, Suite

RESULT = ("prediction", "final_answer_given", "result", "extracted")
"""Columns that may hold the final result of an answer."""
VOTES = 200
"""Random subsets of n answers by which voting is estimated, for each prompt."""


def best_of_n(suite: Suite, rewards: Floats) -> dict[str, Any]:
    """Curves over n for a suite of the rule ``best-of-n``.

    Args:
        suite: groups of answers with gold values.
        rewards: [items, width].

    Returns:
        ``n`` and ``kl``; ``curves``: for each way to choose its mean gold value with interval at each n (``proxy``, the reward of the chosen, in standard deviations of
        the rewards); ``peak``: the n at which the scorer's gold value is highest; ``over_optimised``: the n from which on its gold value lies below the peak
        beyond doubt (2.5%, with the choice of the peak allowed for), None if nowhere.

    Raises:
        AssayError: no prompt has two answers.
    """
    sizes = suite.there.sum(axis=1)
    most = int(np.quantile(sizes[sizes >= 2], 0.1)) if (sizes >= 2).any() else 0  # a few prompts with few answers shall not shorten all curves
    rows = np.flatnonzero(sizes >= max(2, most))
    if not len(rows):
        raise AssayError(f"{suite.name}: no prompt has two answers; rows of the same prompt are one group")
    there, gold = suite.there[rows], suite.gold[rows]
    ns = _steps(most)
    ranked = np.where(there & np.isfinite(rewards[rows]), rewards[rows], -np.inf)
    ways: dict[str, Callable[[int], Floats]] = {
        "scorer": lambda n: chosen(ranked, gold, there, n),
        "random answer": lambda n: np.nanmean(np.where(there, gold, np.nan), axis=1),
        "longest answer": lambda n: chosen(lengths(suite)[rows], gold, there, n),
        "oracle": lambda n: chosen(gold, gold, there, n),
    }
    results = [[_result(suite, int(i), j) for j in range(sizes[i])] for i in rows]
    if all(result is not None for group in results for result in group):
        ways["self-consistency"] = lambda n: voted(results, [np.ones(len(group)) for group in results], gold, n)
        ways["weighted voting"] = lambda n: voted(results, [_positive(ranked[k, : len(group)], ranked) for k, group in enumerate(results)], gold, n)
    standard = _standardised(ranked)
    proxy = [chosen(ranked, standard, there, n) for n in ns]
    values = {name: [way(n) for n in ns] for name, way in ways.items()}
    clusters = [suite.items[i].cluster for i in rows]
    curves = {name: _curve(name, curve, clusters) for name, curve in {**values, "proxy": proxy}.items()}
    peak = int(np.argmax([point["value"] for point in curves["scorer"]]))
    worse = _over(values["scorer"], peak, clusters)
    return {
        "suite": suite.name,
        "prompts": len(rows),
        "answers": int(there.sum()),
        "left_out": len(suite.items) - len(rows),
        "without_score": int((there & ~np.isfinite(rewards[rows])).sum()),
        "n": ns,
        "kl": [kl(n) for n in ns],
        "curves": curves,
        "peak": ns[peak],
        "over_optimised": None if worse is None else ns[worse],
    }


def kl(n: int) -> float:
    """An upper bound of the KL divergence of best-of-n from the policy, in nats."""
    return math.log(n) - (n - 1) / n


def _steps(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24 ... and the largest."""
    steps = sorted({int(2**k * f) for k in range(12) for f in (1, 1.5)} | {most})
    return [n for n in steps if 1 <= n <= most]


def chosen(scores: Floats, values: Floats, there: Bools, n: int) -> Floats:
    """[items]: the expected value of the answer with the highest score among n drawn without replacement; equal scores share alike.

    All arguments but ``n`` have shape [items, width].
    """
    found = np.zeros(len(scores))
    for i in range(len(scores)):
        mine = there[i]
        found[i] = float(chances(scores[i][mine], n) @ values[i][mine])
    return found


def chances(scores: Floats, n: int) -> Floats:
    """[N]: the probability of each answer to be the best of a random n of them: C(rank - 1, n - 1) / C(N, n), shared among equal scores."""
    total = len(scores)
    ways = math.comb(total, n)
    by_rank = np.array([math.comb(rank, n - 1) / ways for rank in range(total)])  # a ratio of whole numbers, each too large for a float
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    sums = np.zeros(len(counts))
    np.add.at(sums, np.sort(place), by_rank)
    return np.asarray((sums / counts)[place])


def voted(results: Sequence[Sequence[Any]], weights: Sequence[Floats], gold: Floats, n: int) -> Floats:
    """[items]: the expected gold value of the result with the largest weight among n answers, over all subsets, or VOTES random ones where there are more; equal weights share alike."""
    found = np.zeros(len(results))
    for i, group in enumerate(results):
        draw = random.Random(zlib.crc32(f"{i}/{n}".encode()))
        few = math.comb(len(group), n) <= VOTES
        subsets = list(itertools.combinations(range(len(group)), n)) if few else [tuple(draw.sample(range(len(group)), n)) for _ in range(VOTES)]
        for picked in subsets:
            ballot: dict[Any, float] = {}
            for j in picked:
                ballot[group[j]] = ballot.get(group[j], 0.0) + float(weights[i][j])
            top = max(ballot.values())
            winners = [result for result, weight in ballot.items() if weight >= top - 1e-12]
            value = {group[j]: gold[i, j] for j in picked}
            found[i] += float(np.mean([value[w] for w in winners])) / len(subsets)
    return found


def _result(suite: Suite, i: int, j: int) -> Any:
    rows = suite.items[i].about.get("rows") or []
    return next((rows[j][key] for key in RESULT if j < len(rows) and rows[j].get(key) is not None), None)


def _positive(rewards: Floats, every: Floats) -> Floats:
    """Weights above 0 from rewards of any scale: their sigmoid in standard deviations of all."""
    mean, spread = _scale(every)
    return np.asarray(np.exp(-np.logaddexp(0, -np.where(np.isfinite(rewards), (rewards - mean) / spread, -50.0))))


def _standardised(rewards: Floats) -> Floats:
    mean, spread = _scale(rewards)
    standard = (np.where(np.isfinite(rewards), rewards, mean) - mean) / spread
    return np.where(np.isfinite(rewards), standard, standard.min())


def _scale(rewards: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the rewards there are."""
    finite = rewards[np.isfinite(rewards)]
    return (float(finite.mean()), float(finite.std()) or 1.0) if len(finite) else (0.0, 1.0)


def _curve(name: str, values: Sequence[Floats], clusters: Sequence[str]) -> list[dict[str, float]]:
    groups = {str(k): (np.arange(len(v)), v) for k, v in enumerate(values)}
    draws = resampled_means(groups, clusters, ["all"] * len(clusters), f"best of n/{name}")
    points = []
    for k, one in enumerate(values):
        value = float(one.mean())
        share = bool(((one > -1e-9) & (one < 1 + 1e-9)).all())
        low, high = (interval if share else mean_interval)(value, draws[str(k)], len(set(clusters)))
        points.append({"value": value, "low": low, "high": high})
    return points


def _over(values: Sequence[Floats], peak: int, clusters: Sequence[str]) -> int | None:
    """The first place behind the peak from which on every gold value is lower than the peak's, beyond doubt; None if the last is not.

    The peak was chosen by the same data, so a place must lie below it by more than the studentised largest of the errors over all smaller n (the max-t of Westfall and Young
    1993), and the places are gone through from the last until one does not, a fixed sequence that needs no further correction (Maurer, Hothorn and Lehmacher 1995).
    """
    draws = resampled_means({str(k): (np.arange(len(v)), v) for k, v in enumerate(values)}, clusters, ["all"] * len(clusters), "best of n/over")
    means, drawn = np.array([v.mean() for v in values]), np.stack([draws[str(k)] for k in range(len(values))])
    first = None
    for k in range(len(values) - 1, peak, -1):
        errors = drawn[:k] - drawn[k] - (means[:k] - means[k])[:, None]
        spread = np.maximum(errors.std(axis=1), 1e-12)
        if means[peak] - means[k] <= spread[peak] * float(np.quantile(np.max(errors / spread[:, None], axis=0), 0.975)):
            break
        first = k
    return first
