"""The verb ``compare``: two or more scorers on the same items, tested in pairs.

For each figure the difference to the first scorer with a paired bootstrap interval (the same resampled prompts for both), an exact McNemar test on the items only one of the two has right
(McNemar 1947; where items share prompts, weigh differently or earn parts of a credit, a permutation test that exchanges the two scorers prompt by prompt, of which McNemar's is the simplest case; for rank
correlations the p of the paired bootstrap), and over all figures of a suite the correction of Holm (1979). A scorer's items are matched by what they are, not by their order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.evaluate.intervals import DRAWS, LEVEL, Floats, resampled_means
from assay.evaluate.saved import Saved, names_of
from assay.evaluate.scoring import key_of
from assay.evaluate.suite import Suite, Tree, Weights
from assay.evaluate.suites import RULES

EXACT = 12
"""Prompts that differ up to which all ways to exchange two scorers are gone through."""
CHANGED = 10
"""Items listed that one scorer has right and the other wrong, in each direction."""


@dataclass(frozen=True, slots=True)
class Both:
    """What two scorers have in common on a suite: the same items in the same order."""

    suite: Suite
    first: Floats
    second: Floats


def compare(saved: Sequence[Saved]) -> dict[str, Any]:
    """Compare the other results with the first, on every suite that all have.

    Returns:
        ``names``, and for each suite: the figures of each scorer, and for each other scorer the tests against the first and the items that changed.

    Raises:
        AssayError: fewer than two results, no suite in common, or a suite without an item in common.
    """
    if len(saved) < 2:
        raise AssayError("nothing to compare: give two or more folders of results")
    shared = [name for name in saved[0].suites if all(name in one.suites for one in saved[1:])]
    if not shared:
        raise AssayError(f"no suite is in all results; there are {'; '.join(', '.join(one.suites) for one in saved)}")
    names = names_of(list(saved))
    suites = {}
    for name in shared:
        figures = {n: one.results["suites"][name] for n, one in zip(names, saved, strict=True)}
        against = {n: _against(together(saved[0], one, name)) for n, one in zip(names[1:], saved[1:], strict=True)}
        suites[name] = {"figures": figures, "against_first": against}
    left_out = sorted({name for one in saved for name in one.suites} - set(shared))
    return {"names": names, "suites": suites, "left_out": left_out}


def together(first: Saved, second: Saved, name: str) -> Both:
    """The items of a suite that both scored.

    Raises:
        AssayError: there is none, or the suites have different rules.
    """
    a, b = first.suites[name], second.suites[name]
    if a.rule != b.rule:
        raise AssayError(f"{name}: measured by the rule {a.rule} in {first.folder} and by {b.rule} in {second.folder}")
    there = {_key(b, i): i for i in range(len(b.items))}
    places = [(i, there[key]) for i in range(len(a.items)) if (key := _key(a, i)) in there]
    if not places:
        raise AssayError(f"{name}: {first.folder} and {second.folder} have no item in common")
    rows, others = (np.array(side) for side in zip(*places, strict=True))
    suite = Suite(name, a.rule, [a.items[i] for i in rows])
    return Both(suite, first.rewards[name][rows][:, : suite.width], second.rewards[name][others][:, : suite.width])


def _key(suite: Suite, i: int) -> tuple[Any, ...]:
    item = suite.items[i]
    return (item.id, item.subset, *(key_of(item.prompt + answer) for answer in item.answers))


def _against(both: Both) -> dict[str, Any]:
    rule = RULES[both.suite.rule].measure
    one, two = rule(both.suite, both.first), rule(both.suite, both.second)
    clusters, strata = [i.cluster for i in both.suite.items], [i.subset for i in both.suite.items]
    differences = {name: (part.rows, two.parts[name].values - part.values) for name, part in one.parts.items() if len(part.rows)}
    draws = resampled_means(differences, clusters, strata, f"{both.suite.name}/difference")
    every: dict[str, Weights] = {"overall": one.overall, **one.sections, **{name: {name: 1.0} for name in one.parts}}
    alone = len(set(clusters)) == len(clusters)
    tests = {name: _test(one, two, weights, draws, clusters, alone) for name, weights in every.items()}
    return {"items": len(both.suite.items), "tests": {name: {**test, "holm": p} for (name, test), p in zip(tests.items(), holm([t["p"] for t in tests.values()]), strict=True)}, "changed": _changed(both)}


def _test(one: Tree, two: Tree, weights: Weights, draws: dict[str, Floats], clusters: Sequence[str], alone: bool) -> dict[str, Any]:
    """The difference of a figure, its interval, and p: of McNemar where items are right or wrong, weigh the same and are independent, otherwise by permutation, or for correlations by the paired bootstrap."""
    difference = two.value(weights) - one.value(weights)
    drawn = sum((weight * draws[part] for part, weight in weights.items() if part in draws), np.zeros(DRAWS))
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    values = [(one.parts[part].values, two.parts[part].values) for part in weights]
    a, b = (np.concatenate(side) for side in zip(*values, strict=True))
    gained, lost = int(((b == 1) & (a != 1)).sum()), int(((a == 1) & (b != 1)).sum())
    by_item = np.ptp([weight / max(1, len(one.parts[part].rows)) for part, weight in weights.items()]) < 1e-12
    whole = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all() and by_item and alone)
    if whole:
        test, p = "McNemar", mcnemar(gained, lost)
    elif one.share:
        test, p = "permutation", exchanged(one, two, weights, clusters)
    else:
        test, p = "paired bootstrap", float(min(1.0, 2 * min((np.sum(drawn <= 0) + 1) / (len(drawn) + 1), (np.sum(drawn >= 0) + 1) / (len(drawn) + 1))))
    return {"difference": difference, "low": float(low), "high": float(high), "gained": gained, "lost": lost, "p": p, "test": test}


def exchanged(one: Tree, two: Tree, weights: Weights, clusters: Sequence[str]) -> float:
    """The two-sided p of a difference of weighted means under exchanging the two scorers in any prompts: all ways where at most ``EXACT`` prompts differ, otherwise ``DRAWS`` drawn ones."""
    of: dict[str, float] = {}
    for part, weight in weights.items():
        rows = one.parts[part].rows
        for row, gain in zip(rows, two.parts[part].values - one.parts[part].values, strict=True):
            of[clusters[row]] = of.get(clusters[row], 0.0) + weight * float(gain) / len(rows)
    gains = np.array([gain for gain in of.values() if abs(gain) > 1e-12])
    if len(gains) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains))) & 1)
    else:
        signs = 1 - 2 * np.random.default_rng(0).integers(0, 2, size=(DRAWS, len(gains)))
    hits = int((np.abs(signs @ gains) >= abs(gains.sum()) - 1e-12).sum())
    return hits / len(signs) if len(gains) <= EXACT else (hits + 1) / (DRAWS + 1)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of so many items being right for only one and for only the other scorer: both are equally likely under the null hypothesis."""
    n, k = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down rule, in the order given."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    corrected, least = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = least
    return corrected


def _changed(both: Both) -> dict[str, list[dict[str, Any]]]:
    """Items that only one of the two has right, those where their margins differ most first."""
    item, better, worse = both.suite.comparisons()
    margins = []
    for rewards in (both.first, both.second):
        finite = rewards[np.isfinite(rewards)]
        spread = (float(finite.std()) if len(finite) else 0.0) or 1.0
        with np.errstate(invalid="ignore"):
            each = (rewards[item, better] - rewards[item, worse]) / spread
        margin = np.full(len(both.suite.items), np.inf)
        np.minimum.at(margin, item, np.where(np.isnan(each), -np.inf, each))
        margins.append(np.where(np.isposinf(margin), 0.0, margin))
    right = [margin > 0 for margin in margins]
    change = np.abs(np.clip(margins[1], -1e9, 1e9) - np.clip(margins[0], -1e9, 1e9))
    found: dict[str, list[dict[str, Any]]] = {}
    for direction, flipped in (("gained", right[1] & ~right[0]), ("lost", right[0] & ~right[1])):
        flips = np.flatnonzero(flipped)
        rows = flips[np.argsort(-change[flips], kind="stable")][:CHANGED]
        found[direction] = [{"id": both.suite.items[i].id, "subset": both.suite.items[i].subset, "margins": [float(margins[0][i]), float(margins[1][i])], "prompt": both.suite.items[i].prompt, "answers": both.suite.items[i].answers, "gold": list(both.suite.items[i].gold)} for i in rows]
    return found
