"""Scorers compared in pairs: the tests against slow twins and simulations, and what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from assay.errors import AssayError
from assay.evaluate.compare import CHANGED, EXACT, compare, exchanged, holm, mcnemar
from assay.evaluate.evaluate import evaluate
from assay.evaluate.intervals import Floats
from assay.evaluate.saved import Saved, load_results
from assay.evaluate.suite import Item, Suite, padded
from assay.evaluate.suites import RULES
from assay.pairs.schema import Message, answer_text
from assay.score.scorer import Scores
from conftest import turn


class Table:
    """Scores an answer by its text."""

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str, known: dict[str, float]) -> None:
        self.spec, self.known = spec, known

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([self.known[answer_text(c[-1:])] for c in conversations], dtype=np.float32)
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool))


def items(n: int, subset: Callable[[int], str] = lambda i: "all", width: int = 2, per_prompt: int = 1) -> list[Item]:
    """Items whose first answer is the better one."""
    return [
        Item(f"i{i}", subset(i), [turn("user", f"prompt {i // per_prompt}")], [[turn("assistant", f"{i}/{j}")] for j in range(width)], (1.0,) + (0.0,) * (width - 1), f"c{i // per_prompt}")
        for i in range(n)
    ]


def saved(name: str, suite: Suite, rewards: Floats, folder: Path | None = None) -> Saved:
    """Results in memory, without their figures."""
    results = {"scorer": name, "suites": {suite.name: {}}}
    return Saved(folder or Path(name), results, {suite.name: suite}, {suite.name: rewards}, {suite.name: np.zeros(rewards.shape, dtype=bool)})


def outcome(right: Sequence[float]) -> Floats:
    """[n, 2] scores of two answers: right (1), wrong (0), a tie (0.5), or none (NaN)."""
    return np.array([[1.0, 0.0] if r == 1 else [0.0, 1.0] if r == 0 else [0.5, 0.5] if r == 0.5 else [np.nan, 1.0] for r in right])


def against(suite: Suite, first: Floats, second: Floats) -> dict[str, Any]:
    found: dict[str, Any] = compare([saved("a", suite, first), saved("b", suite, second)])["suites"][suite.name]["against_first"]["b"]
    return found


def evaluated(folder: Path, spec: str, suites: Sequence[Suite], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    known = {answer_text(a): float(rng.normal()) for suite in suites for item in suite.items for a in item.answers}
    evaluate(Table(spec, known), suites, folder)
    return folder


def refused(*folders: Path) -> str:
    with pytest.raises(AssayError) as caught:
        compare([load_results(folder) for folder in folders])
    return str(caught.value)


# The tests.


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for gained in [*range(25), 60, 250, 1_000]:
        for lost in [*range(25), 77, 400, 1_500]:
            expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9, abs=1e-300), (gained, lost)
            assert mcnemar(gained, lost) == mcnemar(lost, gained)


def slow_holm(p: Sequence[float]) -> list[float]:
    """For each hypothesis the least level at which Holm's procedure, run from its definition, rejects it."""
    m, found = len(p), []
    ordered = sorted(p)
    for mine in p:
        place = ordered.index(mine)
        found.append(min(1.0, max((m - k) * ordered[k] for k in range(place + 1))))
    return found


def rejected_by_holm(p: Sequence[float], level: float) -> list[bool]:
    """Step down: the smallest p against level / m, the next against level / (m - 1), until one is not smaller."""
    rejected = [False] * len(p)
    for place, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] > level / (len(p) - place):
            break
        rejected[i] = True
    return rejected


@pytest.mark.parametrize("seed", range(20))
def test_holm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = (rng.random(rng.integers(1, 15)) ** 4).round(3).tolist()
    corrected = holm(p)
    assert corrected == pytest.approx(slow_holm(p))
    for level in (0.01, 0.05, 0.2):
        assert [c <= level for c in corrected] == rejected_by_holm(p, level)
    assert all(c >= x for c, x in zip(corrected, p, strict=True))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_all_figures_of_a_suite_are_corrected_together() -> None:
    rng = np.random.default_rng(0)
    suite = Suite("s", "pairs", items(80, lambda i: "abcd"[i % 4]))
    tests = against(suite, rng.normal(size=(80, 2)), rng.normal(size=(80, 2)))["tests"]
    assert set(tests) == {"overall", "a", "b", "c", "d"}
    assert [t["holm"] for t in tests.values()] == pytest.approx(slow_holm([t["p"] for t in tests.values()]))


def test_a_subset_that_is_the_only_one_is_not_corrected_for() -> None:
    rng = np.random.default_rng(0)
    tests = against(Suite("s", "pairs", items(80)), rng.normal(size=(80, 2)), rng.normal(size=(80, 2)))["tests"]
    assert set(tests) == {"overall"}
    assert tests["overall"]["holm"] == tests["overall"]["p"]


def test_a_subset_called_overall_is_not_the_figure_for_all(tmp_path: Path) -> None:
    suite = Suite("s", "pairs", items(80, lambda i: "overall" if i < 10 else "rest"))
    tests = against(suite, outcome([0] * 10 + [1] * 70), outcome([1] * 80))["tests"]
    assert {name: (test["gained"], test["difference"]) for name, test in tests.items()} == {"overall": (10, pytest.approx(1 / 8)), "overall (part)": (10, 1), "rest": (0, 0)}
    assert set(load_results(evaluated(tmp_path, "a", [suite], 1)).results["suites"]["s"]["subsets"]) == {"overall (part)", "rest"}


def test_an_attribute_called_overall_is_not_the_figure_for_all() -> None:
    rated = [Item(f"i{i}", "all", [turn("user", f"p{i}")], [[turn("assistant", f"{i}")]], (float("nan"),), f"c{i}", {"ratings": {"overall": float(i), "other": float(-i)}}) for i in range(40)]
    found = RULES["ratings"].measure(Suite("s", "ratings", rated), np.arange(40.0)[:, None]).values()
    assert found == {"overall (part)": pytest.approx(1), "other": pytest.approx(-1), "overall": pytest.approx(0)}


def test_right_wrong_ties_and_failures_are_counted() -> None:
    first = [1, 1, 1, 0, 0, 0.5, 0.5, float("nan"), 1, 1, 1]
    second = [0, 0.5, float("nan"), 1, 0.5, 1, 0, 1, 1, 1, 0]
    suite = Suite("s", "pairs", items(len(first)))
    test = against(suite, outcome(first), outcome(second))["tests"]["overall"]
    assert (test["gained"], test["lost"], test["test"]) == (3, 4, "McNemar")
    assert test["difference"] == pytest.approx(-1 / 11)
    assert test["p"] == pytest.approx(binomtest(3, 7).pvalue)
    assert test["low"] <= test["difference"] <= test["high"]


def test_items_that_are_right_or_wrong_are_tested_by_mcnemar_whatever_the_sizes_of_the_subsets() -> None:
    """The mean over all items is the same count of right items, cut into subsets or not."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 2, 90), rng.integers(0, 2, 90)
    whole = against(Suite("s", "pairs", items(90)), outcome(first), outcome(second))["tests"]["overall"]
    cut = against(Suite("s", "pairs", items(90, lambda i: "a" if i < 70 else "b")), outcome(first), outcome(second))["tests"]["overall"]
    assert (cut["difference"], cut["gained"], cut["lost"]) == pytest.approx((whole["difference"], whole["gained"], whole["lost"]))
    assert cut["test"] == "McNemar"
    assert cut["p"] == pytest.approx(whole["p"])


def test_a_mean_of_unequal_parts_is_not_tested_by_counts() -> None:
    """JudgeBench's macro average: 100 items lose 10, but 5 items gain 5, so the figure rises while the count of right items falls."""
    suite = Suite("s", "judgebench", items(105, lambda i: "small" if i >= 100 else "large"))
    first = [1] * 100 + [0] * 5
    second = [0] * 10 + [1] * 90 + [1] * 5
    macro = against(suite, outcome(first), outcome(second))["tests"]["macro average"]
    assert macro["difference"] == pytest.approx((1 - 0.1) / 2)
    assert macro["low"] > 0
    assert macro["p"] == pytest.approx(2 / 2**5, abs=0.01)  # all five gained, which is what lots do in one case of 16
    assert macro["test"] == "permutation"


def test_exchanging_prompts_that_are_single_items_is_mcnemars_test() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        size = int(rng.integers(3, 60))
        first = rng.integers(0, 2, size)
        second = np.where(rng.random(size) < 0.2, 1 - first, first)
        suite = Suite("s", "pairs", items(size))
        one, two = (RULES["pairs"].measure(suite, outcome(side)) for side in (first, second))
        gained, lost = int(((second == 1) & (first == 0)).sum()), int(((second == 0) & (first == 1)).sum())
        if gained + lost <= EXACT:
            assert exchanged(one, two, one.overall, [i.cluster for i in suite.items]) == pytest.approx(mcnemar(gained, lost))


@pytest.mark.parametrize("prompts", [8, 25, 100])
def test_equal_scorers_are_told_apart_by_exchange_in_one_of_twenty_simulations(prompts: int) -> None:
    """Three items a prompt that stand or fall together; credits of a half where items tie with nothing."""
    rng = np.random.default_rng(prompts)
    suite = Suite("s", "pairs", items(3 * prompts, lambda i: "a"))
    clusters = [f"c{i // 3}" for i in range(3 * prompts)]
    rejected = 0
    for _ in range(400):
        sides = []
        for _ in range(2):
            luck = np.repeat(rng.random(prompts), 3)
            sides.append(RULES["pairs"].measure(suite, outcome((rng.random(3 * prompts) < 0.5 * luck + 0.35).astype(int))))
        rejected += exchanged(*sides, sides[0].overall, clusters) < 0.05
    assert rejected / 400 < 0.05 + 2.6 * (0.05 * 0.95 / 400) ** 0.5


def test_parts_of_a_credit_are_tested_by_permutation() -> None:
    rng = np.random.default_rng(2)
    suite = Suite("s", "rm-bench", items(60, lambda i: ("chat", "math", "code", "safety")[i % 4], 6))
    first = rng.normal(size=(60, 6))
    second = first + 0.5 * rng.normal(size=(60, 6)) + np.array([1.0] * 3 + [0.0] * 3)
    tests = against(suite, first, second)["tests"]
    assert {t["test"] for t in tests.values()} == {"permutation"}
    assert tests["overall"]["difference"] > 0
    assert tests["overall"]["p"] < 0.05 < tests["chat, normal"]["p"] + 1


def test_ratings_differ_by_their_correlations() -> None:
    rng = np.random.default_rng(3)
    rated = rng.normal(size=80)
    one = [Item(f"i{i}", "all", [turn("user", f"p{i}")], [[turn("assistant", f"{i}")]], (float("nan"),), f"c{i}", {"ratings": {"good": float(r)}}) for i, r in enumerate(rated)]
    suite = Suite("s", "ratings", one)
    first, second = rng.normal(size=(80, 1)), rated[:, None] + rng.normal(size=(80, 1))
    found = against(suite, first, second)
    assert found["tests"]["overall"]["low"] > 0
    assert found["tests"]["overall"]["p"] < 0.01
    assert found["changed"] == {"gained": [], "lost": []}


# Simulations.


def correlated(rng: np.random.Generator, n: int, p: float, q: float, shared: float) -> tuple[Floats, Floats]:
    """Two scorers, right with probability p and q, which are right about the same items the more the larger ``shared``."""
    from scipy.stats import norm

    common = rng.normal(size=n)
    sides = [(shared**0.5 * common + (1 - shared) ** 0.5 * rng.normal(size=n) < norm.ppf(x)).astype(float) for x in (p, q)]
    return outcome(sides[0]), outcome(sides[1])


def test_the_paired_interval_covers_and_is_narrower_than_the_unpaired() -> None:
    rng = np.random.default_rng(5)
    n, covered, paired, unpaired = 150, 0, [], []
    for _ in range(200):
        first, second = correlated(rng, n, 0.6, 0.7, 0.8)
        test = against(Suite("s", "pairs", items(n)), first, second)["tests"]["overall"]
        covered += test["low"] <= 0.1 <= test["high"]
        a, b = (np.mean(side[:, 0] > side[:, 1]) for side in (first, second))
        paired.append(test["high"] - test["low"])
        unpaired.append(2 * 1.96 * ((a * (1 - a) + b * (1 - b)) / n) ** 0.5)
    assert 0.91 <= covered / 200 <= 0.985
    assert np.mean(paired) < 0.75 * np.mean(unpaired)


def test_under_the_null_hypothesis_right_items_are_seldom_called_different() -> None:
    rng = np.random.default_rng(6)
    suite = Suite("s", "pairs", items(200))
    p = [against(suite, *correlated(rng, 200, 0.65, 0.65, 0.5))["tests"]["overall"]["p"] for _ in range(300)]
    assert np.mean(np.array(p) <= 0.05) <= 0.07
    assert 0.35 < np.mean(np.array(p) <= 0.5) < 0.6


def test_under_the_null_hypothesis_credits_are_seldom_called_different() -> None:
    rng = np.random.default_rng(7)
    suite = Suite("s", "rm-bench", items(100, lambda _: "chat", 6))
    p = []
    for _ in range(300):
        quality = rng.normal(size=(100, 6)) + np.array([0.5] * 3 + [0.0] * 3)
        p.append(against(suite, quality + rng.normal(size=(100, 6)), quality + rng.normal(size=(100, 6)))["tests"]["overall"]["p"])
    assert np.mean(np.array(p) <= 0.05) <= 0.07
    assert 0.4 < np.mean(np.array(p) <= 0.5) < 0.6


def test_items_of_a_prompt_are_not_taken_for_independent() -> None:
    """40 prompts with five pairs each, of which a scorer has all right or none: 40 trials, not 200."""
    rng = np.random.default_rng(8)
    suite = Suite("s", "pairs", items(200, per_prompt=5))
    p = [against(suite, outcome(np.repeat(rng.integers(0, 2, 40), 5)), outcome(np.repeat(rng.integers(0, 2, 40), 5)))["tests"]["overall"]["p"] for _ in range(300)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08


# What is matched with what.


def test_identical_results_differ_in_nothing(tmp_path: Path) -> None:
    suites = [Suite("s", "pairs", items(50, lambda i: "ab"[i % 2])), Suite("g", "best-of-n", items(30, width=4))]
    folders = [evaluated(tmp_path / name, "same", suites, 1) for name in ("one", "two")]
    found = compare([load_results(folder) for folder in folders])
    assert found["names"] == [str(folder) for folder in folders]
    for suite in found["suites"].values():
        (other,) = suite["against_first"].values()
        for test in other["tests"].values():
            assert (test["difference"], test["low"], test["high"], test["gained"], test["lost"], test["p"], test["holm"]) == (0, 0, 0, 0, 0, 1, 1)
        assert other["changed"] == {"gained": [], "lost": []}


def test_the_order_of_the_items_does_not_matter(tmp_path: Path) -> None:
    suite = Suite("s", "pairs", items(60, lambda i: "ab"[i % 2]))
    first, second = evaluated(tmp_path / "a", "a", [suite], 1), evaluated(tmp_path / "b", "b", [suite], 2)
    straight = compare([load_results(first), load_results(second)])
    table = pl.read_parquet(second / "items.parquet")
    table.sample(fraction=1.0, shuffle=True, seed=3).write_parquet(second / "items.parquet")
    assert compare([load_results(first), load_results(second)]) == straight


def test_the_answers_in_another_order_are_another_item(tmp_path: Path) -> None:
    one = items(10)
    turned = [Item(i.id, i.subset, i.prompt, i.answers[::-1], i.gold[::-1], i.cluster) for i in one[:4]] + one[4:]
    folders = [evaluated(tmp_path / "a", "a", [Suite("s", "pairs", one)], 1), evaluated(tmp_path / "b", "b", [Suite("s", "pairs", turned)], 1)]
    assert compare([load_results(f) for f in folders])["suites"]["s"]["against_first"]["b"]["items"] == 6


def test_items_of_only_one_result_are_dropped(tmp_path: Path) -> None:
    every = items(50)
    first, second = evaluated(tmp_path / "a", "a", [Suite("s", "pairs", every[:40])], 1), evaluated(tmp_path / "b", "b", [Suite("s", "pairs", every[10:])], 2)
    loaded = [load_results(first), load_results(second)]
    found = compare(loaded)["suites"]["s"]["against_first"]["b"]
    assert found["items"] == 30
    right = [(one.rewards["s"][:, 0] > one.rewards["s"][:, 1])[rows] for one, rows in zip(loaded, (slice(10, 40), slice(0, 30)), strict=True)]
    assert found["tests"]["overall"]["difference"] == pytest.approx(right[1].mean() - right[0].mean())


def test_figures_are_of_the_items_that_all_have(tmp_path: Path) -> None:
    every = items(60, lambda i: "ab"[i % 2])
    parts = {"a": every[:40], "b": every[10:50], "c": every[20:]}
    folders = [evaluated(tmp_path / name, name, [Suite("s", "pairs", part)], k) for k, (name, part) in enumerate(parts.items())]
    found = compare([load_results(folder) for folder in folders])["suites"]["s"]
    assert found["not_in_all"] == {"a": 20, "b": 20, "c": 20}
    for k, (name, part) in enumerate(parts.items()):
        alone = evaluated(tmp_path / f"{name} alone", name, [Suite("s", "pairs", part)], k)
        table = pl.read_parquet(alone / "items.parquet").filter(pl.col("id").is_in([one.id for one in every[20:40]]))
        right = table["scores"].list.get(0) > table["scores"].list.get(1)
        assert (found["figures"][name]["overall"]["value"], found["figures"][name]["overall"]["items"]) == (pytest.approx(right.mean()), 20)
        assert set(found["figures"][name]["subsets"]) == {"a", "b"}
    for name, against_a in found["against_first"].items():
        assert against_a["items"] == 20
        for label, test in against_a["tests"].items():
            one, other = ({"overall": found["figures"][n]["overall"], **found["figures"][n]["subsets"]}[label] for n in ("a", name))
            assert test["difference"] == pytest.approx(other["value"] - one["value"])


def test_the_same_items_keep_the_figures_of_the_results(tmp_path: Path) -> None:
    twice = [*items(20), *items(20)]
    loaded = [load_results(evaluated(tmp_path / name, name, [Suite("s", "pairs", twice)], k)) for k, name in enumerate("ab")]
    found = compare(loaded)["suites"]["s"]
    assert found["not_in_all"] == {}
    assert found["figures"] == {name: one.results["suites"]["s"] for name, one in zip("ab", loaded, strict=True)}
    assert found["against_first"]["b"]["items"] == 40


def test_a_suite_of_only_one_result_is_left_out(tmp_path: Path) -> None:
    one, two = Suite("s", "pairs", items(10)), Suite("t", "pairs", items(12))
    folders = [evaluated(tmp_path / "a", "a", [one, two], 1), evaluated(tmp_path / "b", "b", [one], 2), evaluated(tmp_path / "c", "c", [two, one], 3)]
    found = compare([load_results(f) for f in folders])
    assert list(found["suites"]) == ["s"]
    assert found["left_out"] == ["t"]
    assert found["names"] == ["a", "b", "c"]
    assert list(found["suites"]["s"]["against_first"]) == ["b", "c"]
    assert found["suites"]["s"]["figures"]["c"]["items"] == 10


def test_the_same_folder_twice_keeps_two_columns(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "a", "a", [Suite("s", "pairs", items(10))], 1)
    found = compare([load_results(folder), load_results(folder)])
    assert len(set(found["names"])) == 2
    assert len(found["suites"]["s"]["figures"]) == 2


def test_what_is_compared_is_json(tmp_path: Path) -> None:
    steps = [Item(f"i{i}", "all", [turn("user", f"p{i}")], [[turn("assistant", f"{i}/{j}")] for j in range(3)], (1.0, 1.0, 0.0), f"c{i}") for i in range(10)]
    folders = [evaluated(tmp_path / n, n, [Suite("s", "pairs", items(10)), Suite("t", "steps", steps)], k) for k, n in enumerate("ab")]
    text = json.dumps(compare([load_results(f) for f in folders]), allow_nan=False)
    assert json.loads(text)["names"] == ["a", "b"]


# Items that changed.


def test_the_changed_items_are_those_that_only_one_has_right() -> None:
    first = [1, 1, 1, 0, 0, 0.5, 0.5, float("nan"), 1, 0, 0]
    second = [0, 0.5, float("nan"), 1, 0.5, 1, 0, 1, 1, 0, float("nan")]
    changed = against(Suite("s", "pairs", items(len(first))), outcome(first), outcome(second))["changed"]
    assert {one["id"] for one in changed["gained"]} == {"i3", "i5", "i7"}
    assert {one["id"] for one in changed["lost"]} == {"i0", "i1", "i2"}


def test_changed_items_say_what_they_are_the_largest_change_first() -> None:
    suite = Suite("s", "pairs", items(30))
    size = np.arange(1.0, 31.0)
    first = np.stack([np.zeros(30), size], axis=1)
    changed = against(suite, first, -first)["changed"]
    assert [one["id"] for one in changed["gained"]] == [f"i{i}" for i in range(29, 29 - CHANGED, -1)]
    assert changed["lost"] == []
    top = changed["gained"][0]
    assert (top["subset"], top["prompt"], top["answers"], top["gold"]) == ("all", suite.items[29].prompt, suite.items[29].answers, [1.0, 0.0])
    assert top["margins"] == pytest.approx([-30 / first.std(), 30 / first.std()])


def test_a_changed_item_shows_the_comparison_that_decides() -> None:
    """RM-Bench has three right answers and three wrong ones: the one scorer has the third wrong answer above the second right one."""
    suite = Suite("s", "rm-bench", [Item("i", "chat", [turn("user", "p")], [[turn("assistant", f"{j}")] for j in range(6)], (1.0,) * 3 + (0.0,) * 3, "c")])
    first, second = np.array([[5.0, 1, 5, 0, 0, 3]]), np.array([[5.0, 5, 5, 0, 0, 3]])
    (gained,) = against(suite, first, second)["changed"]["gained"]
    (lost,) = against(suite, second, first)["changed"]["lost"]
    assert gained["decided"] == lost["decided"] == [1, 5]


def test_a_scorer_without_a_single_score_can_be_compared() -> None:
    suite = Suite("s", "pairs", items(8))
    found = against(suite, outcome([1] * 8), np.full((8, 2), np.nan))
    assert found["tests"]["overall"]["lost"] == 8
    assert len(found["changed"]["lost"]) == 8


# What is refused.


def test_one_result_is_nothing_to_compare(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "a", "a", [Suite("s", "pairs", items(5))], 1)
    assert refused(folder) == "nothing to compare: give two or more folders of results"
    with pytest.raises(AssayError, match="nothing to compare"):
        compare([])


def test_different_rules(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "a", "a", [Suite("s", "pairs", items(5))], 1)
    second = evaluated(tmp_path / "b", "b", [Suite("s", "best-of-n", items(5))], 1)
    assert refused(first, second) == f"s: measured by the rule pairs in {first} and by best-of-n in {second}"


def test_no_common_suite(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "a", "a", [Suite("s", "pairs", items(5)), Suite("u", "pairs", items(5))], 1)
    second = evaluated(tmp_path / "b", "b", [Suite("t", "pairs", items(5))], 1)
    assert refused(first, second) == "no suite is in all results; there are s, u; t"


def test_no_common_item(tmp_path: Path) -> None:
    every = items(10)
    first = evaluated(tmp_path / "a", "a", [Suite("s", "pairs", every[:5])], 1)
    second = evaluated(tmp_path / "b", "b", [Suite("s", "pairs", every[5:])], 1)
    assert refused(first, second) == f"s: {first} and {second} have no item in common"


def test_no_item_in_all_of_three(tmp_path: Path) -> None:
    every = items(12)
    folders = [evaluated(tmp_path / name, name, [Suite("s", "pairs", part)], 1) for name, part in (("a", every), ("b", every[:6]), ("c", every[6:]))]
    assert refused(*folders) == f"s: no item is in all of {', '.join(map(str, folders))}"


def test_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(AssayError) as caught:
        load_results(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no results.json; give a folder that `assay evaluate -o` wrote"


def cut_short(folder: Path) -> None:
    file = folder / "items.parquet"
    file.write_bytes(file.read_bytes()[:-60])


def without_items(folder: Path) -> None:
    (folder / "items.parquet").unlink()


def not_json(folder: Path) -> None:
    (folder / "results.json").write_text("{")


def other_table(folder: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(folder / "items.parquet")


def without_answers(folder: Path) -> None:
    pl.read_parquet(folder / "items.parquet").drop("answers").write_parquet(folder / "items.parquet")


def wrong_about(folder: Path) -> None:
    pl.read_parquet(folder / "items.parquet").with_columns(about=pl.lit("{")).write_parquet(folder / "items.parquet")


def empty_object(folder: Path) -> None:
    (folder / "results.json").write_text("{}")


def a_list(folder: Path) -> None:
    (folder / "results.json").write_text("[]")


def other_suites(folder: Path) -> None:
    (folder / "results.json").write_text('{"scorer": "x", "suites": {}}')


def unknown_rule(folder: Path) -> None:
    pl.read_parquet(folder / "items.parquet").with_columns(rule=pl.lit("nothing")).write_parquet(folder / "items.parquet")


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (cut_short, "items.parquet: not a readable Parquet file"),
    (without_items, "items.parquet: no such file"),
    (not_json, "results.json: not valid JSON"),
    (other_table, "items.parquet: not the items of an evaluation"),
    (without_answers, "items.parquet: not the items of an evaluation"),
    (wrong_about, "items.parquet: not the items of an evaluation"),
    (empty_object, "results.json"),
    (a_list, "results.json"),
    (other_suites, "results.json"),
    (unknown_rule, "nothing"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[d.__name__ for d, _ in DAMAGE])
def test_a_damaged_folder(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    suite = Suite("s", "pairs", items(5))
    first, second = evaluated(tmp_path / "a", "a", [suite], 1), evaluated(tmp_path / "b", "b", [suite], 2)
    damage(second)
    assert message in refused(first, second)
    assert message in refused(second, second)


def test_what_is_loaded_is_what_was_scored(tmp_path: Path) -> None:
    ragged = [Item(f"i{i}", "all", [turn("user", f"p{i}")], [[turn("assistant", f"{i}/{j}")] for j in range(2 + i % 3)], (1.0,) + (0.0,) * (1 + i % 3), f"c{i}", {"k": [i, "é"]}) for i in range(9)]
    suite = Suite("s", "best-of-n", ragged)
    loaded = load_results(evaluated(tmp_path / "runs" / "x" / "checkpoint", "runs/x/checkpoint", [suite], 4))
    assert loaded.name == "x"
    assert loaded.suites["s"].items == ragged
    assert loaded.rewards["s"].shape == loaded.truncated["s"].shape == (9, 4)
    assert np.array_equal(np.isnan(loaded.rewards["s"]), np.isnan(padded([i.gold for i in ragged], 4)))
    assert not loaded.truncated["s"].any()
