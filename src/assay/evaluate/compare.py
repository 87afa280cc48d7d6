"""The verb ``compare``: two or more scorers on the same items, tested in pairs.

For each figure the difference to the first scorer with a paired bootstrap interval (the same resampled prompts for both), an exact McNemar test on the items only one of the two has right
(McNemar 1947; where items share prompts, weigh differently or earn parts of a credit, a permutation test that exchanges the two scorers prompt by prompt, of which McNemar's is the simplest case; for rank
correlations the p of the paired bootstrap), and over all figures of a suite the correction of Holm (1979). A scorer's items are matched by what they are, not by their order.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.evaluate.figures import draws_of, figure_of
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
class Common:
    """What scorers have in common on a suite: the same items in the same order."""

    suite: Suite
    rewards: list[Floats]
    """Of each scorer, shape [items, width]."""


def compare(saved: Sequence[Saved]) -> dict[str, Any]:
    """Compare the other results with the first, on every suite that all have.

    Returns:
        ``names``, and for each suite: the figures of each scorer on the items that all have, how many of its items are ``not_in_all``, and for each other scorer the tests
        against the first and the items that changed.

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
        common = together(saved, name)
        not_in_all = {n: left for n, one in zip(names, saved, strict=True) if (left := len(one.suites[name].items) - len(common.suite.items))}
        figures = {n: _figures(common.suite, rewards) if not_in_all else one.results["suites"][name] for n, one, rewards in zip(names, saved, common.rewards, strict=True)}
        against = {n: _against(common.suite, common.rewards[0], rewards) for n, rewards in zip(names[1:], common.rewards[1:], strict=True)}
        suites[name] = {"figures": figures, "not_in_all": not_in_all, "against_first": against}
    left_out = sorted({name for one in saved for name in one.suites} - set(shared))
    return {"names": names, "suites": suites, "left_out": left_out}


def together(saved: Sequence[Saved], name: str) -> Common:
    """The items of a suite that all scored.

    Raises:
        AssayError: there is none, none that tells anything, or the suites have different rules.
    """
    first = saved[0]
    places = []
    for one in saved:
        mine = one.suites[name]
        if mine.rule != first.suites[name].rule:
            raise AssayError(f"{name}: measured by the rule {first.suites[name].rule} in {first.folder} and by {mine.rule} in {one.folder}")
        places.append(_places(mine))
        if not places[0].keys() & places[-1].keys():
            raise AssayError(f"{name}: {first.folder} and {one.folder} have no item in common")
    shared = [key for key in places[0] if all(key in there for there in places)]
    if not shared:
        raise AssayError(f"{name}: no item is in all of {', '.join(str(one.folder) for one in saved)}")
    suite = Suite(name, first.suites[name].rule, [first.suites[name].items[places[0][key]] for key in shared])
    rewards = [one.rewards[name][[there[key] for key in shared]][:, : suite.width] for one, there in zip(saved, places, strict=True)]
    if not RULES[suite.rule].measure(suite, rewards[0]).overall:
        raise AssayError(f"{name}: no item that all results have has a right and a wrong answer")
    return Common(suite, rewards)


def _places(suite: Suite) -> dict[tuple[Any, ...], int]:
    """Where each item is, by what it is and how many of the same stand before it."""
    found: dict[tuple[Any, ...], int] = {}
    before: Counter[tuple[Any, ...]] = Counter()
    for i, item in enumerate(suite.items):
        key = (item.id, item.subset, *(key_of(item.prompt + answer) for answer in item.answers))
        found[before[key], *key] = i
        before[key] += 1
    return found


def _figures(suite: Suite, rewards: Floats) -> dict[str, Any]:
    """The figures of a scorer once more, on these items alone."""
    tree = RULES[suite.rule].measure(suite, rewards)
    draws = draws_of(suite, tree)

    def figure(weights: Weights) -> dict[str, Any]:
        return {key: None if value != value else value for key, value in figure_of(suite, tree, weights, draws).items()}

    sections, subsets = ({name: figure(weights) for name, weights in every.items()} for every in (tree.sections, _subsets(tree)))
    return {"rule": suite.rule, "share": tree.share, "items": len(suite.items), "overall": figure(tree.overall), "sections": sections, "subsets": subsets}


def _subsets(tree: Tree) -> dict[str, Weights]:
    """The parts as figures; none where there is only one, which is the figure for all once more."""
    return {name: {name: 1.0} for name in tree.parts} if len(tree.parts) > 1 else {}


def _against(suite: Suite, first: Floats, second: Floats) -> dict[str, Any]:
    rule = RULES[suite.rule].measure
    one, two = rule(suite, first), rule(suite, second)
    clusters, strata = [i.cluster for i in suite.items], [i.subset for i in suite.items]
    differences = {name: (part.rows, two.parts[name].values - part.values) for name, part in one.parts.items() if len(part.rows)}
    draws = resampled_means(differences, clusters, strata, f"{suite.name}/difference")
    alone = len(set(clusters)) == len(clusters)
    tests = {name: _test(one, two, weights, draws, clusters, alone) for name, weights in {"overall": one.overall, **one.sections, **_subsets(one)}.items()}
    corrected = holm([test["p"] for test in tests.values()])
    return {"items": len(suite.items), "tests": {name: {**test, "holm": p} for (name, test), p in zip(tests.items(), corrected, strict=True)}, "changed": _changed(suite, first, second)}


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


def _changed(suite: Suite, first: Floats, second: Floats) -> dict[str, list[dict[str, Any]]]:
    """Items that only one of the two has right, those where their margins differ most first, each with the comparison that the other has most wrong."""
    item, better, worse = suite.comparisons()
    margins, closest = [], []
    for rewards in (first, second):
        finite = rewards[np.isfinite(rewards)]
        spread = (float(finite.std()) if len(finite) else 0.0) or 1.0
        with np.errstate(invalid="ignore"):
            each = (rewards[item, better] - rewards[item, worse]) / spread
        each = np.where(np.isnan(each), -np.inf, each)
        margin = np.full(len(suite.items), np.inf)
        np.minimum.at(margin, item, each)
        margins.append(np.where(np.isposinf(margin), 0.0, margin))
        order = np.lexsort((each, item))
        closest.append({int(item[k]): [int(better[k]), int(worse[k])] for k in order[::-1]})
    right = [margin > 0 for margin in margins]
    change = np.abs(np.clip(margins[1], -1e9, 1e9) - np.clip(margins[0], -1e9, 1e9))
    found: dict[str, list[dict[str, Any]]] = {}
    for direction, flipped, decided in (("gained", right[1] & ~right[0], closest[0]), ("lost", right[0] & ~right[1], closest[1])):
        flips = np.flatnonzero(flipped)
        rows = flips[np.argsort(-change[flips], kind="stable")][:CHANGED]
        found[direction] = [{"id": one.id, "subset": one.subset, "margins": [float(margins[0][i]), float(margins[1][i])], "prompt": one.prompt, "answers": one.answers, "gold": list(one.gold), "decided": decided[int(i)]} for i in rows for one in [suite.items[i]]]
    return found
