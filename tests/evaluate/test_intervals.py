"""Intervals: 95% of them hold the truth, in 2,000 simulations of each of many settings; and what they are where nothing varies.

A cluster is a prompt; its items have a right answer with a probability of their own (beta-binomial), so that they are alike by the intra-cluster correlation.
The truth of a composite figure is worked out from the normal distribution that its scores are drawn from.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from assay.evaluate.intervals import Floats, Ints, interval, mean_interval, resampled_means, wilson
from assay.evaluate.suite import Weights
from assay.evaluate.suites import ratings, rm_bench
from assay.evaluate.suites.rewardbench import SECTIONS, WEIGHTS

SIMULATIONS, TOGETHER, DRAWS = 2_000, 50, 300
"""Simulations of a setting, how many of them share resamples, and the resamples."""

Simulation = dict[str, tuple[Ints, Floats]]
Layout = tuple[Sequence[str], Sequence[str]]
"""The cluster and the stratum of each item."""


def coverage(name: str, truth: float, weights: Weights, lay: Callable[[np.random.Generator], Layout], draw: Callable[[np.random.Generator, Layout], Simulation], share: bool = True) -> float:
    """How often the interval of the figure with these ``weights`` over parts holds ``truth``."""
    rng = np.random.default_rng(7)
    covered = below = above = 0
    for call in range(SIMULATIONS // TOGETHER):
        layout = lay(rng)
        drawn = [draw(rng, layout) for _ in range(TOGETHER)]
        means = resampled_means({f"{i} {part}": g for i, one in enumerate(drawn) for part, g in one.items()}, *layout, f"{name} {call}", DRAWS)
        for i, one in enumerate(drawn):
            rows = np.unique(np.concatenate([one[part][0] for part in weights]))
            value = sum(w * float(one[part][1].mean()) for part, w in weights.items())
            parts = [(w, float(one[part][1].mean()), len({layout[0][r] for r in one[part][0]})) for part, w in weights.items()]
            strata = [(float(np.var(sum(weights[p] * means[f"{i} {p}"] for p in mine))), len({layout[0][r] for p in mine for r in one[p][0]})) for mine in by_stratum(layout, one, weights)]
            low, high = interval(value, sum((w * means[f"{i} {part}"] for part, w in weights.items()), np.zeros(DRAWS)), len({layout[0][r] for r in rows}), share, parts, strata)
            covered += low <= truth <= high
            below += high < truth
            above += low > truth
    print(f"{name:60s} coverage {covered / SIMULATIONS:.4f}, below the truth {below / SIMULATIONS:.4f}, above {above / SIMULATIONS:.4f}")
    return covered / SIMULATIONS


def by_stratum(layout: Layout, one: Simulation, weights: Weights) -> list[list[str]]:
    """The parts, those of a stratum together."""
    found: dict[str, list[str]] = {}
    for part in weights:
        found.setdefault(layout[1][one[part][0][0]], []).append(part)
    return list(found.values())


def prompts(n: int, most: int) -> Callable[[np.random.Generator], Layout]:
    """``n`` prompts with 1 to ``most`` items each."""

    def lay(rng: np.random.Generator) -> Layout:
        cluster = np.repeat(np.arange(n), rng.integers(1, most + 1, n)).astype(str).tolist()
        return cluster, ["all"] * len(cluster)

    return lay


def beta_binomial(accuracy: float, correlation: float) -> Callable[[np.random.Generator, Layout], Simulation]:
    """Right and wrong items, alike within a cluster."""

    def draw(rng: np.random.Generator, layout: Layout) -> Simulation:
        _, place = np.unique(layout[0], return_inverse=True)
        spread = (1 - correlation) / correlation if correlation else 0.0
        chance = rng.beta(accuracy * spread, (1 - accuracy) * spread, place.max() + 1) if correlation else np.full(place.max() + 1, accuracy)
        return {"all": (np.arange(len(place)), (rng.random(len(place)) < chance[place]).astype(float))}

    return draw


SETTINGS = [(accuracy, correlation, n) for accuracy in (0.5, 0.7, 0.9, 0.95) for correlation in (0, 0.2, 0.45, 0.7) for n in (60, 200)]
MANY = [(0.5, 0, 500), (0.9, 0.7, 500), (0.95, 0.45, 500)]
"""With many prompts hardly anything can go wrong, and it takes long."""


@pytest.mark.slow
@pytest.mark.parametrize(("accuracy", "correlation", "n"), SETTINGS + MANY)
def test_shares_of_prompts_with_several_items(accuracy: float, correlation: float, n: int) -> None:
    name = f"{n} prompts, accuracy {accuracy}, correlation {correlation}"
    most = 0.98 if n * (1 - accuracy) < 5 else 0.97  # so few failures that no interval can be exact: this one is wider, never narrower
    assert 0.93 <= coverage(name, accuracy, {"all": 1.0}, prompts(n, 9 if correlation else 1), beta_binomial(accuracy, correlation)) <= most


def phi(x: float) -> float:
    """The normal distribution function."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


EDGE, STYLE = 0.9, 0.5
"""How much better right answers score, and what each step of style adds."""
CELLS = {name: float(np.mean([phi((EDGE + STYLE * (i - j)) / math.sqrt(2)) for i, j in cells])) for name, cells in rm_bench.DIFFICULTIES.items()}
"""The true accuracy of each difficulty."""


def rm_bench_layout(sizes: dict[str, int]) -> Callable[[np.random.Generator], Layout]:
    """Every item a prompt; the domains are strata."""
    strata = [domain for domain, n in sizes.items() for _ in range(n)]
    return lambda _: (np.arange(len(strata)).astype(str).tolist(), strata)


def rm_bench_draw(rng: np.random.Generator, layout: Layout) -> Simulation:
    """Scores of three right and three wrong answers, measured as RM-Bench does: the difficulties share items."""
    strata = np.array(layout[1])
    n, style = len(strata), STYLE * np.arange(3)
    beaten = rm_bench.cells(rng.normal(size=(n, 3)) + EDGE + style, rng.normal(size=(n, 3)) + style)
    rows = {domain: np.flatnonzero(strata == domain) for domain in rm_bench.DOMAINS}
    return {f"{domain}, {name}": (at, rm_bench.difficulty(beaten[at], name)) for domain, at in rows.items() if len(at) for name in rm_bench.DIFFICULTIES}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(60, 60, 60, 60), (129, 529, 228, 441), (15, 15, 15, 15)])
@pytest.mark.parametrize("figure", ["overall", "hard", "math"])
def test_means_of_parts_that_share_items(sizes: tuple[int, ...], figure: str) -> None:
    domains = ["math"] if figure == "math" else rm_bench.DOMAINS
    levels = ["hard"] if figure == "hard" else list(rm_bench.DIFFICULTIES)
    weights = {f"{domain}, {name}": 1 / len(domains) / len(levels) for domain in domains for name in levels}
    truth = float(np.mean([CELLS[name] for name in levels]))
    assert 0.93 <= coverage(f"RM-Bench of {sizes}, {figure}", truth, weights, rm_bench_layout(dict(zip(rm_bench.DOMAINS, sizes, strict=True))), rm_bench_draw) <= 0.97


@pytest.mark.parametrize(("sizes", "accuracies"), [((10, 30, 200), (0.7, 0.7, 0.7)), ((5, 10, 200), (0.7, 0.7, 0.7)), ((5, 10, 200), (0.5, 0.7, 0.9))])
def test_plain_means_of_shares_of_uneven_parts(sizes: tuple[int, ...], accuracies: tuple[float, ...]) -> None:
    strata = [str(part) for part, n in enumerate(sizes) for _ in range(n)]

    def draw(rng: np.random.Generator, layout: Layout) -> Simulation:
        return {part: (rows, (rng.random(len(rows)) < accuracy).astype(float)) for part, accuracy in zip("012", accuracies, strict=True) for rows in [np.flatnonzero(np.array(layout[1]) == part)]}

    layout = (np.arange(len(strata)).astype(str).tolist(), strata)
    assert 0.93 <= coverage(f"parts of {sizes}, {accuracies}", float(np.mean(accuracies)), dict.fromkeys("012", 1 / 3), lambda _: layout, draw) <= 0.97


@pytest.mark.parametrize("sizes", [(10, 30, 200), (5, 10, 200)])
def test_plain_means_of_numbers_of_uneven_parts(sizes: tuple[int, ...]) -> None:
    rng, strata = np.random.default_rng(0), np.repeat(["0", "1", "2"], sizes).tolist()
    rows = [np.flatnonzero(np.array(strata) == part) for part in "012"]
    clusters = np.arange(len(strata)).astype(str).tolist()
    values = rng.normal(size=(1_000, len(strata)))
    means = resampled_means({f"{k} {part}": (rows[part], one[rows[part]]) for k, one in enumerate(values) for part in range(3)}, clusters, strata, "n", 300)
    covered = 0
    for k, one in enumerate(values):
        drawn = [means[f"{k} {part}"] / 3 for part in range(3)]
        low, high = mean_interval(float(np.mean([one[mine].mean() for mine in rows])), np.sum(drawn, axis=0), len(strata), [(float(np.var(d)), n) for d, n in zip(drawn, sizes, strict=True)])
        covered += low <= 0 <= high
    assert 0.93 <= covered / len(values) <= 0.97


SUBSETS = [s for subsets in SECTIONS.values() for s in subsets]
ACCURACY = {s: 0.55 + 0.4 * ((7 * i) % 23) / 22 for i, s in enumerate(SUBSETS)}
"""Accuracies from 0.55 to 0.95 in no order."""
OVERALL = {s: WEIGHTS[s] / sum(WEIGHTS[t] for t in subsets) / len(SECTIONS) for subsets in SECTIONS.values() for s in subsets}


def rewardbench_layout(size: Callable[[str], int], asked_again: int) -> Callable[[np.random.Generator], Layout]:
    """Subsets of so many items as strata; ``asked_again`` items have the same prompt, side by side, also across subsets."""
    strata = [s for s in SUBSETS for _ in range(size(s))]
    cluster = (np.arange(len(strata)) // asked_again).astype(str).tolist()
    return lambda _: (cluster, strata)


def rewardbench_draw(rng: np.random.Generator, layout: Layout) -> Simulation:
    """Right and wrong pairs of every subset; pairs of one prompt hang together."""
    strata = np.array(layout[1])
    _, place = np.unique(layout[0], return_inverse=True)
    shared, alone = rng.normal(size=place.max() + 1)[place], rng.normal(size=len(place))
    level = np.vectorize(phi)((shared + alone) / math.sqrt(2))
    return {s: (rows, (level[rows] < ACCURACY[s]).astype(float)) for s in SUBSETS if len(rows := np.flatnonzero(strata == s))}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "asked_again"), [("as published, a third", lambda s: WEIGHTS[s] // 3 if s != "math-prm" else 149, 1), ("40 a subset", lambda s: 40, 1), ("15 a subset", lambda s: 15, 1), ("40 a subset, prompts of 3", lambda s: 40, 3)])
@pytest.mark.parametrize("figure", ["overall", "Reasoning"])
def test_weighted_means_of_separate_subsets(name: str, size: Callable[[str], int], asked_again: int, figure: str) -> None:
    weights = OVERALL if figure == "overall" else {s: WEIGHTS[s] / sum(WEIGHTS[t] for t in SECTIONS[figure]) for s in SECTIONS[figure]}
    truth = sum(w * ACCURACY[s] for s, w in weights.items())
    most = 0.98 if asked_again > 1 else 0.97  # half of the weight on 14 prompts, whose items are alike only in part: UNSEEN takes them for wholly alike, and the interval is wider than it need be
    assert 0.93 <= coverage(f"RewardBench, {name}, {figure}", truth, weights, rewardbench_layout(size, asked_again), rewardbench_draw) <= most


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_rank_correlations(correlation: float, n: int) -> None:
    def draw(rng: np.random.Generator, layout: Layout) -> Simulation:
        rated, noise = rng.normal(size=(2, len(layout[0])))
        return {"all": (np.arange(len(rated)), ratings.spearman_terms(correlation * rated + math.sqrt(1 - correlation**2) * noise, rated))}

    truth = 6 / math.pi * math.asin(correlation / 2)
    assert 0.93 <= coverage(f"{n} rated answers, Spearman {truth:.3f}", truth, {"all": 1.0}, prompts(n, 1), draw, share=False) <= 0.97


def one(values: Sequence[float], clusters: Sequence[str], name: str = "n", draws: int = 200) -> tuple[float, float]:
    """The interval of a plain mean."""
    found = np.array(values, dtype=float)
    means = resampled_means({"a": (np.arange(len(found)), found)}, clusters, ["all"] * len(found), name, draws)
    return interval(float(found.mean()), means["a"], len(set(clusters)))


def test_the_draw_is_a_function_of_the_name() -> None:
    values, clusters = np.arange(40) % 3 / 2, [str(i // 2) for i in range(40)]
    assert one(values.tolist(), clusters) == one(values.tolist(), clusters)
    assert one(values.tolist(), clusters) != one(values.tolist(), clusters, "m")


def test_every_group_gets_the_same_resamples_whatever_else_is_asked() -> None:
    clusters, rows, values = [str(i) for i in range(30)], np.arange(30), np.arange(30) % 2 * 1.0
    alone = resampled_means({"a": (rows, values)}, clusters, ["x"] * 30, "n", 250)
    both = resampled_means({"b": (rows[:9], values[:9]), "a": (rows, values), "opposite": (rows, 1 - values)}, clusters, ["x"] * 30, "n", 250)
    assert np.array_equal(alone["a"], both["a"])
    assert both["a"].shape == (250,)
    assert both["a"] + both["opposite"] == pytest.approx(np.ones(250))


def test_as_many_clusters_are_drawn_from_a_stratum_as_it_has() -> None:
    rows, values = np.arange(50), np.repeat([1.0, 0.0], [10, 40])
    means = resampled_means({"a": (rows, values)}, [str(i) for i in rows], np.repeat(["x", "y"], [10, 40]).tolist(), "n", 100)
    assert means["a"] == pytest.approx(np.full(100, 0.2))


def test_items_of_a_prompt_are_drawn_together() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat((rng.random(30) < 0.6).astype(float), 10).tolist()
    alone, together = one(values, [str(i) for i in range(300)]), one(values, [str(i // 10) for i in range(300)])
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_a_draw_without_the_items_of_a_group_is_nan_and_left_out() -> None:
    rows = np.array([0, 1])
    means = resampled_means({"two of ten": (rows, np.array([1.0, 0.0]))}, [str(i) for i in range(10)], ["x"] * 10, "n", 200)["two of ten"]
    assert 0 < np.isnan(means).sum() < 200
    low, high = interval(0.5, means, 2)
    assert 0 <= low < 0.5 < high <= 1


@pytest.mark.parametrize("n", [1, 2, 5, 20, 300])
def test_all_right_or_all_wrong_is_not_called_certain(n: int) -> None:
    clusters = [str(i) for i in range(n)]
    assert one([1.0] * n, clusters) == (pytest.approx(0.025 ** (1 / n)), 1.0)
    assert one([0.0] * n, clusters) == (0.0, pytest.approx(1 - 0.025 ** (1 / n)))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_few_prompts_give_wide_intervals_within_bounds(n: int) -> None:
    low, high = one([1.0] * (n - 1) + [0.0], [str(i) for i in range(n)])
    assert 0 <= low < (n - 1) / n < high <= 1
    assert high - low > 0.9 / n**0.5


def test_one_prompt_with_right_and_wrong_items_says_next_to_nothing() -> None:
    low, high = one([1.0, 0.0, 1.0, 0.0], ["p"] * 4)
    assert low < 0.1
    assert high > 0.9


def test_prompts_that_are_all_half_right_are_not_certain() -> None:
    low, high = one([1.0, 0.0] * 5, [str(i // 2) for i in range(10)])
    assert low < 0.45
    assert high > 0.55


def test_a_right_and_a_wrong_subset_do_not_make_a_certain_half() -> None:
    groups = {"right": (np.arange(5), np.ones(5)), "wrong": (np.arange(5, 10), np.zeros(5))}
    means = resampled_means(groups, [str(i) for i in range(10)], ["x"] * 5 + ["y"] * 5, "n", 200)
    low, high = interval(0.5, (means["right"] + means["wrong"]) / 2, 10)
    assert low < 0.45
    assert high > 0.55


@pytest.mark.parametrize("value", [1 - 2e-16, 1 + 2e-16, 1 - 1e-15])
def test_a_sum_of_weights_that_rounds_beside_one_is_one(value: float) -> None:
    low, high = interval(value, np.full(200, value), 50)
    assert low == pytest.approx(0.025 ** (1 / 50))
    assert high == pytest.approx(1.0)


def test_correlations_are_not_bound_to_shares() -> None:
    rng = np.random.default_rng(0)
    low, high = interval(-0.3, rng.normal(-0.3, 0.05, 2_000), 100, share=False)
    assert (low, high) == (pytest.approx(-0.4, abs=0.01), pytest.approx(-0.2, abs=0.01))
    low, high = interval(0.98, rng.normal(0.98, 0.05, 2_000), 100, share=False)
    assert -1 <= low <= high <= 1


def test_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, example
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0
