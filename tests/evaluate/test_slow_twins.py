"""Every vectorised rule against an obvious loop that does the same, on random scores with ties, NaN and infinities."""

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import ConstantInputWarning, spearmanr

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Suite, padded
from assay.evaluate.suites import RULES, best_of_n, ppe, ratings, rewardbench2, rm_bench, rmb, steps

NAN, INF = float("nan"), float("inf")
KINDS = {"finite": 0.0, "special": 0.15}
"""How many of the scores are NaN or infinite."""

special = pytest.mark.parametrize("share", KINDS.values(), ids=KINDS)
seeds = pytest.mark.parametrize("seed", range(5))


def grid(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Floats:
    """Scores in steps of 0.5, so that many are equal, and a share of NaN, inf and -inf."""
    values = rng.integers(-3, 4, shape) / 2
    return np.where(rng.random(shape) < share, rng.choice([NAN, INF, -INF], shape), values)


def ragged(rng: np.random.Generator, n: int, width: int, least: int) -> Any:
    """[n, width]: answers that are there, at least ``least`` a row."""
    return np.arange(width) < rng.integers(least, width + 1, (n, 1))


def same(ours: Any, slow: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours, dtype=float), np.array(slow, dtype=float), rtol=1e-12, atol=1e-15, equal_nan=True)


def made(rule: str, golds: Sequence[Sequence[float]], subsets: Sequence[str], about: Sequence[dict[str, Any]] | None = None) -> Suite:
    items = []
    for i, (gold, subset) in enumerate(zip(golds, subsets, strict=True)):
        answers = [[{"role": "assistant", "content": str(j)}] for j in range(len(gold))]
        items.append(Item(str(i), subset, [{"role": "user", "content": str(i)}], answers, tuple(gold), str(i), about[i] if about else {}))
    return Suite(rule, rule, items)


# Best of n


def slow_credit(scores: Sequence[float], best: Sequence[bool]) -> float:
    if not scores or any(math.isnan(s) for s in scores):
        return 0.0
    top = [right for s, right in zip(scores, best, strict=True) if s == max(scores)]
    return sum(top) / len(top)


@seeds
@special
def test_credit(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores, best, there = grid(rng, (400, 6), share), rng.random((400, 6)) < 0.4, ragged(rng, 400, 6, 0)
    expected = [slow_credit(scores[i, there[i]].tolist(), best[i, there[i]].tolist()) for i in range(400)]
    same(best_of_n.credit(scores, best, there), expected)
    same(best_of_n.credit(np.where(there, scores, NAN), best, there), expected)


@seeds
def test_best_of_n_measure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    golds = [(rng.integers(0, 4, rng.integers(2, 6))).astype(float).tolist() for _ in range(60)]
    subsets = rng.choice(["a", "b"], 60).tolist()
    scores = [grid(rng, (len(gold),), 0.1).tolist() for gold in golds]
    expected = [(slow_credit(row, [value == max(gold) for value in gold]), subset) for row, gold, subset in zip(scores, golds, subsets, strict=True) if len(set(gold)) > 1]
    suite = made("best-of-n", golds, subsets)
    found = RULES["best-of-n"].measure(suite, padded(scores, suite.width)).values()
    same([found["a"], found["b"], found["overall"]], [np.mean([v for v, s in expected if s == name]) for name in "ab"] + [np.mean([v for v, _ in expected])])


# RM-Bench


@seeds
@special
def test_rm_bench_cells(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    chosen, rejected = grid(rng, (80, 3), share), grid(rng, (80, 3), share)
    beaten = rm_bench.cells(chosen, rejected)
    slow = [[[float(chosen[n, i] > rejected[n, j]) for j in range(3)] for i in range(3)] for n in range(80)]
    same(beaten, slow)
    wanted = {"hard": lambda i, j: i < j, "normal": lambda i, j: i == j, "easy": lambda i, j: i > j}
    for name, inside in wanted.items():
        same(rm_bench.difficulty(beaten, name), [np.mean([slow[n][i][j] for i in range(3) for j in range(3) if inside(i, j)]) for n in range(80)])


# Ties


def slow_tie(prompts: dict[str, tuple[list[float], list[float]]]) -> dict[str, list[float]]:
    """The terms of Ties, prompt by prompt."""
    found: dict[str, list[float]] = {name: [] for name in rewardbench2.TERMS}
    for name, (right, wrong) in prompts.items():
        gap = lowest(right) - highest(wrong)
        found["Ties: tied accurate" if name.startswith("tied") else "Ties: reference accurate"].append(float(gap > 0))
        partner = f"ref:{name[5:]}"
        if name.startswith("tied") and partner in prompts:
            spread = highest(right) - lowest(right)
            other = lowest(prompts[partner][0]) - highest(prompts[partner][1])
            least = lowest([gap, other])
            found["Ties: gap beyond spread"].append(float(gap > spread))
            found["Ties: both gaps beyond spread"].append(float(least > spread))
            found["Ties: margin"].append(slow_margin(least, spread))
    return found


def slow_margin(least: float, spread: float) -> float:
    """An answer without a score is as wrong as can be."""
    if spread != 0:
        margin = math.tanh(least / spread - 1)
    else:
        margin = least if math.isnan(least) else math.copysign(1.0, least) if least else 0.0
    return -1.0 if math.isnan(margin) else margin


def lowest(values: Sequence[float]) -> float:
    return NAN if any(math.isnan(v) for v in values) else min(values)


def highest(values: Sequence[float]) -> float:
    return NAN if any(math.isnan(v) for v in values) else max(values)


@seeds
@special
def test_ties(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    prompts = {}
    for i in range(120):
        for form in ("ref", "tied"):
            if rng.random() < 0.85:
                right = grid(rng, (1 if form == "ref" else int(rng.integers(2, 6)),), share / 3) + rng.integers(0, 3)
                prompts[f"{form}:{i}"] = (right.tolist(), grid(rng, (int(rng.integers(1, 6)),), share / 3).tolist())
    names = list(prompts)
    rng.shuffle(names)
    prompts = {name: prompts[name] for name in names}
    rows = [right + wrong for right, wrong in prompts.values()]
    width = max(map(len, rows))
    correct = np.arange(width) < np.array([[len(right)] for right, _ in prompts.values()])
    there = np.arange(width) < np.array([[len(row)] for row in rows])
    found = rewardbench2.ties(names, padded(rows, width), correct, there)
    expected = slow_tie(prompts)
    for name in rewardbench2.TERMS:
        same(found[name].values, expected[name])
    score = rewardbench2.ties_score([{"id": name, "num_correct": len(right), "scores": right + wrong} for name, (right, wrong) in prompts.items()])
    same([score["score"]], [sum(weight * np.mean(expected[name]) for name, weight in rewardbench2.TERMS.items())])


def test_an_answer_of_ties_without_a_score_counts_as_wrong() -> None:
    """`assay evaluate` says that answers without a score count as wrong: one of them must not take the figure for all away."""
    golds = [[1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0], [1.0, 1.0, 0.0]]
    suite = made("rewardbench2", golds, ["Ties"] * 4)
    for one, name in zip(suite.items, ("ref:0", "tied:0", "ref:1", "tied:1"), strict=True):
        object.__setattr__(one, "id", name)
    scores = padded([[9.0, 0.0], [9.0, 8.0, 0.0], [9.0, 0.0], [9.0, NAN, 0.0]], 3)
    found = RULES["rewardbench2"].measure(suite, scores).values()
    assert found["Ties: tied accurate"] == 0.5
    assert not math.isnan(found["overall"])


# PPE


def slow_auc(scores: Sequence[float], gold: Sequence[float]) -> float:
    pairs = [(a, b) for a, x in zip(scores, gold, strict=True) for b, y in zip(scores, gold, strict=True) if x > 0.5 and y <= 0.5]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else NAN


@seeds
@special
def test_ppe_auc(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores, there = grid(rng, (150, 7), share), ragged(rng, 150, 7, 1)
    gold = np.where(there, rng.choice([0.0, 0.5, 0.6, 1.0], (150, 7)), NAN)
    same(ppe.auc(scores, gold), [slow_auc(scores[i, there[i]].tolist(), gold[i, there[i]].tolist()) for i in range(150)])


@seeds
@special
def test_ppe_correctness(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    golds = [rng.integers(0, 2, 5).astype(float).tolist() for _ in range(50)]
    about = [{"pairs": [(a, b) for a in range(5) for b in range(5) if gold[a] > gold[b] and rng.random() < 0.4]} for gold in golds]
    subsets = rng.choice(["math", "gpqa"], 50).tolist()
    scores = grid(rng, (50, 5), share)
    found = RULES["ppe-correctness"].measure(made("ppe-correctness", golds, subsets, about), scores).values()
    for name in ("math", "gpqa"):
        mine = [i for i in range(50) if subsets[i] == name]
        pairs = [float(scores[i, a] > scores[i, b]) for i in mine for a, b in about[i]["pairs"]]
        areas = [area for i in mine if not math.isnan(area := slow_auc(scores[i].tolist(), golds[i]))]
        best = [slow_credit(scores[i].tolist(), [g > 0.5 for g in golds[i]]) for i in mine]
        same([found[f"{name}, pairs"], found[f"{name}, ROC area"], found[f"{name}, best of all"]], [np.mean(pairs), np.mean(areas), np.mean(best)])
    assert found["overall"] == pytest.approx((found["math, pairs"] + found["gpqa, pairs"]) / 2, rel=1e-12)


def test_ppe_correctness_without_pairs_has_no_figure() -> None:
    """Nothing was measured, so the figure for all is no number, and surely not 0."""
    suite = made("ppe-correctness", [[1.0, 0.0]], ["math"], [{"pairs": []}])
    assert math.isnan(RULES["ppe-correctness"].measure(suite, np.array([[1.0, 0.0]])).values()["overall"])


# RMB


@seeds
@special
def test_beats_all(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores, there = grid(rng, (400, 5), share), ragged(rng, 400, 5, 1)
    scores[:, 0] += 1
    rows = [scores[i, there[i]].tolist() for i in range(400)]
    same(rmb.beats_all(scores, there), [float(len(row) > 1 and all(row[0] > loser for loser in row[1:])) for row in rows])


# Steps


def slow_falls(scores: Sequence[float]) -> list[float]:
    known = [s for s in scores if not math.isnan(s)]
    mean = sum(known) / len(known) if known else NAN
    return [before - after for before, after in itertools.pairwise([mean, *scores])]


def slow_first_error(scores: Sequence[float], right: Sequence[float]) -> float:
    if 0.0 not in right:
        return NAN
    falls = slow_falls(scores)
    if all(math.isnan(fall) for fall in falls):
        return 0.0
    falls = [-INF if math.isnan(fall) else fall for fall in falls]
    return float(falls.index(max(falls)) == list(right).index(0.0))


def has_fall(scores: Sequence[float]) -> bool:
    """Whether any step's fall can be told; rows without are tested by themselves."""
    return not all(math.isnan(fall) for fall in slow_falls(scores))


@seeds
@pytest.mark.parametrize("strange", [None, NAN, INF, -INF])
def test_first_error_found(seed: int, strange: float | None) -> None:
    rng = np.random.default_rng(seed)
    scores, there = grid(rng, (300, 6), 0.0), ragged(rng, 300, 6, 1)
    if strange is not None:
        scores = np.where(rng.random(scores.shape) < 0.15, strange, scores)
    rows = np.array([i for i in range(300) if has_fall(scores[i, there[i]].tolist())])
    scores, there = scores[rows], there[rows]
    gold = np.where(there, rng.integers(0, 2, scores.shape).astype(float), NAN)
    expected = [slow_first_error(scores[i, there[i]].tolist(), gold[i, there[i]].tolist()) for i in range(len(rows))]
    same(steps.first_error_found(scores, gold, there), expected)


@pytest.mark.parametrize("row", [[NAN, NAN, NAN], [NAN, 1.0, NAN], [INF, INF, INF]], ids=["none", "one", "infinite"])
def test_a_solution_without_scores_finds_no_error(row: list[float]) -> None:
    """No fall can be told, so no error was found: the scorer that failed must not be called right."""
    same(steps.first_error_found(np.array([row]), np.array([[0.0, 1.0, 1.0]]), np.ones((1, 3), dtype=bool)), [0.0])


@seeds
def test_steps_measure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    golds = [rng.integers(0, 2, rng.integers(1, 6)).astype(float).tolist() for _ in range(60)]
    subsets = rng.choice(["a", "b"], 60).tolist()
    scores = [grid(rng, (len(gold),), 0.0).tolist() for gold in golds]
    order = [slow_auc(row, gold) for row, gold in zip(scores, golds, strict=True)]
    first = [slow_first_error(row, gold) for row, gold in zip(scores, golds, strict=True)]
    suite = made("steps", golds, subsets)
    found = RULES["steps"].measure(suite, padded(scores, suite.width)).values()
    same([found["overall"], found["first error found"]], [np.nanmean(order), np.nanmean(first)])
    same([found[name] for name in "ab"], [np.nanmean([v for v, s in zip(order, subsets, strict=True) if s == name]) for name in "ab"])


def test_steps_without_a_wrong_one_have_no_figure() -> None:
    """Nothing was measured, so the figure for all is no number, and surely not 0."""
    assert math.isnan(RULES["steps"].measure(made("steps", [[1.0, 1.0]], ["a"]), np.array([[1.0, 0.0]])).values()["overall"])


# Ratings


def scipy_spearman(x: Floats, y: Floats) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        rho = float(spearmanr(np.where(np.isnan(x), -INF, x), y).statistic)
    return 0.0 if math.isnan(rho) else rho


@seeds
@special
@pytest.mark.parametrize("n", [2, 3, 10, 300])
def test_spearman(seed: int, share: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, n).astype(float)
    x = grid(rng, (n,), share) + y / 2
    terms = ratings.spearman_terms(x, y)
    assert terms.shape == (n,)
    np.testing.assert_allclose(terms.mean(), scipy_spearman(x, y), rtol=1e-9, atol=1e-12)


@seeds
def test_ranks(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 6, 30).astype(float)
    slow = [sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values]
    same(ratings.ranks(values), slow)


@pytest.mark.parametrize(("x", "y"), [([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]), ([NAN, NAN], [1.0, 2.0]), ([1.0], [1.0])], ids=["x", "y", "nan", "one"])
def test_spearman_of_constants_is_0(x: list[float], y: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        terms = ratings.spearman_terms(np.array(x), np.array(y))
    same(terms, [0.0] * len(x))


def test_the_spread_of_the_terms_is_that_of_the_correlation() -> None:
    """The bootstrap over the terms gives the spread that a bootstrap of scipy's correlation gives."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 200).astype(float)
    x = y + rng.normal(size=200) * 2
    draws = rng.integers(0, 200, (400, 200))
    terms = ratings.spearman_terms(x, y)
    slow = np.std([scipy_spearman(x[draw], y[draw]) for draw in draws])
    assert np.std(terms[draws].mean(axis=1)) == pytest.approx(slow, rel=0.15)
