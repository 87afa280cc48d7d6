"""Routers: every figure of RouteLLM's and RouterBench's code for made-up items (tests/golden/routellm.json, routerbench_aiq.json), a few worked by hand, and what holds of any router."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import AssayError
from assay.evaluate.routing import (
    Points,
    aiq,
    apgr,
    auc,
    average_draws,
    cpt,
    hull,
    operating_points,
    optimal_at_strong_share,
    quality,
)

FOLDER = Path(__file__).parents[1] / "golden"


def by_name(file: str) -> dict[str, Any]:
    return {case["name"]: case for case in json.loads((FOLDER / f"{file}.json").read_text())["cases"]}


ROUTELLM, BENCH = by_name("routellm"), by_name("routerbench_aiq")
RAISES = {"error_constant_scores", "error_half_tied_scores"}


def curves(case: dict[str, Any]) -> dict[str, Points]:
    strong, weak, steps = case["strong"], case["weak"], case["num_results"]
    found = {name: operating_points(strong, weak, scores, steps) for name, scores in case["routers"].items()}
    if "random_router_draws" in case:
        found["random"] = average_draws([operating_points(strong, weak, scores, steps) for scores in case["random_router_draws"]])
    return found


def same(ours: Any, official: Any) -> None:
    assert ours == pytest.approx(official, rel=1e-12, abs=1e-13)


# what RouteLLM's code returned


@pytest.mark.parametrize("name", sorted(ROUTELLM.keys() - RAISES))
def test_routellm(name: str) -> None:
    case, official = ROUTELLM[name]["input"], ROUTELLM[name]["output"]
    strong, weak = quality(case["strong"]), quality(case["weak"])
    same([strong, weak], [official["strong"], official["weak"]])
    found = curves(case)
    assert found.keys() == official["operating_points"].keys() == official["metrics"].keys()
    for router, points in found.items():
        for ours, key in zip(points, ("threshold", "strong_percentage", "accuracy"), strict=True):
            same(list(ours), [point[key] for point in official["operating_points"][router]])
        metrics = official["metrics"][router]
        assert {f"cpt_{p}": f"{cpt(points, p / 100, strong, weak):.2f}%" for p in (20, 50, 80)} == {key: metrics[key] for key in ("cpt_20", "cpt_50", "cpt_80")}
        same(auc(points), metrics["auc"])
        same(apgr(points, strong, weak), float(metrics["apgr"]))
    same({share: optimal_at_strong_share(case["strong"], case["weak"], float(share)) for share in official["optimal_at_strong_share"]}, official["optimal_at_strong_share"])


@pytest.mark.parametrize("name", sorted(RAISES))
def test_too_many_equal_scores(name: str) -> None:
    assert ROUTELLM[name]["output"]["error"] == "ValueError"
    with pytest.raises(AssayError, match=r"are both 0\.5, so too many scores are equal; lower num_results \(now 10\)"):
        curves(ROUTELLM[name]["input"])


# by hand

STRONG, WEAK, SCORES = [1, 1, 1, 0], [0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1]


def test_four_items_by_hand() -> None:
    points = operating_points(STRONG, WEAK, SCORES, num_results=2)
    assert list(points.threshold) == [0.1, 0.5, 0.9]
    assert list(points.strong_percentage) == [100, 50, 0]
    assert list(points.quality) == [75, 100, 50]
    assert auc(points) == (50 + 2 * 100 + 75) / 4
    assert apgr(points, 75, 50) == (81.25 - 50) / 25
    assert cpt(points, 0.5, 75, 50) == 12.5


def test_scores_in_points() -> None:
    strong, weak = [[4, 2], [9, 7]], [[1, 1], [8, 8]]
    assert quality(strong) == 5.5
    assert list(operating_points(strong, weak, [1, 0], num_results=1).quality) == [5.5, 4.5]
    assert [optimal_at_strong_share(strong, weak, share) for share in (0, 49, 50, 100)] == [4.5, 4.5, 5.5, 5.5]


def test_the_share_of_an_all_knowing_router_is_not_rounded() -> None:
    assert [optimal_at_strong_share(STRONG, WEAK, share) for share in (0, 10, 50, 100)] == [50, 60, 100, 100]


def test_draws_are_averaged_by_share() -> None:
    one = Points(np.array([0.1, 0.9]), np.array([100.0, 0.0]), np.array([80.0, 50.0]))
    other = Points(np.array([0.3, 0.5, 0.7]), np.array([100.0, 40.0, 0.0]), np.array([80.0, 60.0, 50.0]))
    threshold, share, worth = average_draws([one, other])
    assert list(share) == [0, 40, 100]
    assert list(worth) == [50, 60, 80]
    assert list(threshold) == pytest.approx([0.8, 0.5, 0.2])


def test_cpt_of_a_curve_that_turns_back_is_the_crossing_that_the_search_meets() -> None:
    share = np.linspace(0, 100, 11)
    worth = np.array([50.0, 56, 62, 65, 67, 57, 53, 74, 78, 61, 80])
    crossings = [a + 10 * (65.5 - low) / (high - low) for a, low, high in zip(share[:-1], worth[:-1], worth[1:], strict=True) if (low - 65.5) * (high - 65.5) < 0]
    assert len(crossings) == 5
    points = Points(np.zeros(11), share, worth)
    found = cpt(points, 15.5 / 30, 80, 50)
    assert min(abs(found - one) for one in crossings) < 1e-9
    assert cpt(points._replace(strong_percentage=share[::-1], quality=worth[::-1]), 15.5 / 30, 80, 50) == found
    assert cpt(points, -1, 80, 50) == 0
    assert cpt(points, 2, 80, 50) == 100


def test_models_of_equal_quality_have_no_gap_to_recover() -> None:
    points = Points(np.zeros(3), np.array([0.0, 50, 100]), np.array([50.0, 60, 50]))
    assert apgr(points, 50, 50) == math.inf
    assert math.isnan(apgr(points._replace(quality=np.full(3, 50.0)), 50, 50))


@pytest.mark.parametrize(
    ("strong", "weak", "scores", "steps", "says"),
    [
        ([1, 0], [1], [0.1, 0.2], 2, "each item needs one of each"),
        ([1, 0], [1, 1], [0.1, math.nan], 2, "router's score is not finite"),
        ([1, 0], [1, 2], [0.1, 0.2], 2, r"neither 0 \(wrong\) nor 1"),
        ([], [], [], 2, "with at least one"),
        ([[1, 2], [1]], [[1, 1], [1, 1]], [0.1, 0.2], 2, "cannot be made an array"),
        ([[1, math.inf]], [[1, 1]], [0.1], 2, "not finite"),
        ([1, 0], [1, 1], [0.1, 0.2], 0, "num_results is 0"),
    ],
)
def test_items_that_give_no_points(strong: Any, weak: Any, scores: Any, steps: int, says: str) -> None:
    with pytest.raises(AssayError, match=says):
        operating_points(strong, weak, scores, steps)


def test_other_faults_are_said() -> None:
    with pytest.raises(AssayError, match="no draw"):
        average_draws([])
    with pytest.raises(AssayError, match="share of strong calls is 101"):
        optimal_at_strong_share([1], [0], 101)
    with pytest.raises(AssayError, match="the same items and turns"):
        optimal_at_strong_share([[1]], [0], 10)


# what RouterBench's code returned


@pytest.mark.parametrize("name", BENCH)
def test_routerbench(name: str) -> None:
    routers, official = BENCH[name]["input"]["routers"], BENCH[name]["output"]
    if "error" in official["aiq"]:
        with pytest.raises(AssayError, match="a: routing: a router has points at [12] different costs"):
            aiq(routers)
        for points in routers.values():
            with pytest.raises(AssayError, match="measure it at more settings"):
                hull(points)
        return
    for router, points in routers.items():
        found = hull(points)
        assert found.shape == np.shape(official["hull"][router])
        same(found.ravel().tolist(), np.ravel(official["hull"][router]).tolist())
    same(aiq(routers), official["aiq"])


def test_a_router_at_constant_performance() -> None:
    assert aiq({"flat": [[cost, 0.5] for cost in (1, 2, 3, 4, 5)]}) == {"flat": 0.4}


def test_one_router_with_too_few_points_spoils_the_comparison() -> None:
    good = [[1, 0.1], [2, 0.2], [3, 0.3]]
    with pytest.raises(AssayError, match="bad: routing: a router has points at 2 different costs"):
        aiq({"good": good, "bad": [[1, 0.1], [1, 0.2], [3, 0.3]]})


@pytest.mark.parametrize(
    ("routers", "says"),
    [
        ({}, "no router to compare"),
        ({"a": [[0, 0.9], [1, 0.8], [2, 0.7]]}, "best at cost 0"),
        ({"a": [[-1, 0.9], [1, 0.8], [2, 0.7]]}, "a cost is -1"),
        ({"a": [[1, math.nan], [1, 0.8], [2, 0.7]]}, "not finite"),
        ({"a": [1, 2, 3]}, r"shape \[3\]"),
    ],
)
def test_points_that_give_no_aiq(routers: Any, says: str) -> None:
    with pytest.raises(AssayError, match=says):
        aiq(routers)


# what holds of any router

RIGHT = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=4, max_size=30)


@given(RIGHT, st.randoms(use_true_random=False))
def test_any_router_is_between_the_models_and_the_one_that_knows(answers: list[tuple[int, int]], random: Any) -> None:
    strong, weak = np.array(answers).T
    scores = random.sample(range(len(answers)), len(answers))
    points = operating_points(strong, weak, scores, num_results=3)
    same([points.quality[0], points.quality[-1]], [quality(strong), quality(weak)])
    assert points.strong_percentage[0] == 100
    assert points.strong_percentage[-1] == 0
    assert (np.diff(points.strong_percentage) <= 0).all()
    for share, worth in zip(points.strong_percentage, points.quality, strict=True):
        assert worth <= optimal_at_strong_share(strong, weak, share) + 1e-9
    assert min(points.quality) - 1e-9 <= auc(points) <= max(points.quality) + 1e-9
    assert 0 <= cpt(points, 0.5, quality(strong), quality(weak)) <= 100
    order = random.sample(range(len(answers)), len(answers))
    for ours, other in zip(points, operating_points(strong[order], weak[order], np.array(scores)[order], num_results=3), strict=True):
        same(list(ours), list(other))


@given(RIGHT)
def test_the_one_that_knows_gains_by_more_calls(answers: list[tuple[int, int]]) -> None:
    strong, weak = np.array(answers).T
    best = [optimal_at_strong_share(strong, weak, share) for share in range(0, 101, 10)]
    assert best == sorted(best)
    assert best[0] == quality(weak)
    assert best[-1] <= 100 + 1e-9


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 100)), min_size=3, max_size=16).filter(lambda points: len({cost for cost, _ in points}) > 2))
def test_a_hull_is_concave_and_rises_and_is_above_its_points(points: list[tuple[int, int]]) -> None:
    found = hull(points)
    cost, worth = found.T
    assert (np.diff(cost) > 0).all()
    assert (np.diff(worth) >= 0).all()
    slopes = np.diff(worth) / np.diff(cost)
    assert (np.diff(slopes[1:]) <= 1e-9).all()  # the first point may lie below the envelope
    for one, value in points:
        if one > cost[0]:
            assert np.interp(one, cost, worth) >= value - 1e-9
    assert 0 <= aiq({"a": points})["a"] <= max(value for _, value in points)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 100)), min_size=3, max_size=16, unique_by=lambda point: point[0]), st.randoms(use_true_random=False))
def test_the_order_of_points_at_different_costs_is_nothing(points: list[tuple[int, int]], random: Any) -> None:
    assert hull(points).tolist() == hull(random.sample(points, len(points))).tolist()
