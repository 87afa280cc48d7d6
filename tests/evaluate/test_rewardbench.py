"""The RewardBench 1 arithmetic against the numbers the official code returned (tests/golden/rewardbench_v1.json)."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from assay.errors import AssayError
from assay.evaluate.suites import rewardbench

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rewardbench_v1.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}


def number(value: Any) -> float:
    return float(value)


def results(subsets: dict[str, Any] | None) -> dict[str, list[float]] | None:
    if subsets is None:
        return None
    return {
        name: [number(v) for v in value] if isinstance(value, list) else rewardbench.right([number(v) for v in value["chosen"]], [number(v) for v in value["rejected"]])
        for name, value in subsets.items()
    }


def same(ours: dict[str, float], official: dict[str, Any]) -> None:
    for name, value in official.items():
        expected = number(value)
        assert (math.isnan(ours[name]) and math.isnan(expected)) or ours[name] == pytest.approx(expected, rel=1e-12, abs=0), name


@pytest.mark.parametrize("name", CASES)
def test_official_numbers(name: str) -> None:
    case = CASES[name]
    accuracy, prior = {}, {}
    for model, given in case["input"]["models"].items():
        official = case["output"]["models"][model]
        accuracy[model] = rewardbench.subset_accuracy(results(given["eval"]) or {})
        same(accuracy[model], official["per_subset"])
        same(rewardbench.sections(accuracy[model]), official["sections_logged"])
        sets = results(given["prior"])
        prior[model] = rewardbench.subset_accuracy(sets) if sets else None
        if sets:
            same(prior[model] or {}, official["prior_per_set"])
    leaderboard = case["output"]["leaderboard"]
    if "error" in leaderboard:
        with pytest.raises(AssayError, match="no model has a result for a subset of Reasoning"):
            rewardbench.leaderboard(accuracy, prior)
        return
    ours = rewardbench.leaderboard(accuracy, prior)
    for model, official in leaderboard.items():
        same(ours[model], official)


def test_constants_are_the_official_ones() -> None:
    assert GOLDEN["constants"]["weights"] == rewardbench.WEIGHTS
    assert GOLDEN["constants"]["sections"] == rewardbench.SECTIONS
    assert tuple(GOLDEN["constants"]["prior_sets_counted"]) == rewardbench.PRIOR_SETS


def test_a_prior_set_nobody_has_is_an_error() -> None:
    accuracy = {"m": dict.fromkeys(rewardbench.WEIGHTS, 0.5)}
    with pytest.raises(AssayError, match="prior sets shp, summarize"):
        rewardbench.leaderboard(accuracy, {"m": {"anthropic_helpful": 0.5, "anthropic_hhh": 0.5}})
