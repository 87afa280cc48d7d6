"""Temperatures and merge weights against those that made the data."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.evaluate.calibration import COLDEST, HOTTEST, LEAST, sure_temperature, temperature
from assay.pairs.schema import from_rows
from assay.train.calibration import length_slope, merge_weights
from conftest import pair

Floats = NDArray[np.float64]


def decided(margins: Floats, rng: np.random.Generator) -> Floats:
    """``margins`` of pairs whose better answer is drawn by sigmoid(margin), the sign turned where the other was chosen."""
    return np.where(rng.random(len(margins)) < 1 / (1 + np.exp(-margins)), 1.0, -1.0)


@pytest.mark.parametrize("planted", [0.05, 0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_temperature_recovers_what_the_labels_were_drawn_with(planted: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.normal(size=20_000) * 2
    margins = planted * true * decided(true, rng)
    assert temperature(margins) == pytest.approx(planted, rel=0.06)


def test_temperature_is_the_most_likely_one() -> None:
    margins = np.random.default_rng(2).normal(loc=0.8, size=200)

    def likelihood(t: float) -> float:
        return math.fsum(-math.log1p(math.exp(-m / t)) for m in margins.tolist())

    found = temperature(margins)
    assert likelihood(found) >= max(likelihood(found * factor) for factor in (0.1, 0.5, 0.9, 0.999, 1.001, 1.1, 2, 10))
    assert temperature(7 * margins) == pytest.approx(7 * found, rel=1e-6)


def test_one_wrong_of_several_equal_margins_has_a_closed_form() -> None:
    """sigmoid(m / T) is then the share that is right."""
    for right, wrong in [(3, 1), (9, 1), (60, 40)]:
        margins = np.array([2.0] * right + [-2.0] * wrong)
        assert temperature(margins) == pytest.approx(2 / math.log(right / wrong), rel=1e-6)


@pytest.mark.parametrize("margins", [[1.0], [0.5, 3.0, 40.0], [1e-2, 1e-2]])
def test_where_all_are_right_the_coldest_is_returned(margins: list[float]) -> None:
    assert temperature(np.array(margins)) == pytest.approx(COLDEST, rel=1e-6)


@pytest.mark.parametrize("margins", [[-1.0], [-0.5, -3.0, 0.2], [2.0, -2.0], [1.0, 1.0, -50.0]])
def test_where_margins_are_not_above_0_on_average_the_hottest_is_returned(margins: list[float]) -> None:
    assert temperature(np.array(margins)) == pytest.approx(HOTTEST, rel=1e-6)


def attribute_differences(weights: list[float], scales: list[float], n: int = 4_000, seed: int = 0) -> Floats:
    """Differences chosen - rejected of attributes by whose weighted sum the chosen answers were drawn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(weights))) * scales
    return x * decided(x @ weights, rng)[:, None]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("weights", "scales"), [([3.0, 1.0], [1, 1]), ([2.0, -1.0, 0.5], [1, 1, 1]), ([2.0, 0.02, -5.0], [1, 100, 0.3])])
def test_merge_weights_have_the_direction_of_the_planted_ones(weights: list[float], scales: list[float], seed: int) -> None:
    found, planted = merge_weights(attribute_differences(weights, scales, seed=seed)) * scales, np.array(weights) * scales
    assert found @ planted / np.linalg.norm(found) / np.linalg.norm(planted) > 0.99
    assert (np.sign(found) == np.sign(planted)).all()


def test_an_attribute_that_is_noise_is_ignored() -> None:
    found = merge_weights(attribute_differences([2.0, 0.0, 1.0], [1, 1, 1]))
    assert abs(found[1]) < 0.04
    assert found[0] == pytest.approx(2 / 3, abs=0.04)


@pytest.mark.parametrize("weights", [[1.0], [-1.0], [0.0, 0.0, 3.0], [1.0, -2.0, 3.0, -4.0]])
def test_absolute_merge_weights_sum_to_1(weights: list[float]) -> None:
    found = merge_weights(attribute_differences(weights, [1.0] * len(weights), 300))
    assert np.abs(found).sum() == pytest.approx(1)
    if len(weights) == 1:
        assert found[0] == pytest.approx(weights[0])


def test_pairs_that_one_attribute_alone_decides_do_not_diverge() -> None:
    rng = np.random.default_rng(0)
    found = merge_weights(np.column_stack([rng.random(500) + 0.1, rng.normal(size=500)]))
    assert np.isfinite(found).all()
    assert found[0] > 0.8


def test_a_single_pair_and_no_difference_at_all() -> None:
    assert merge_weights(np.array([[1.0, -2.0]])).tolist() == pytest.approx([2 / 3, -1 / 3])
    assert merge_weights(np.zeros((9, 4))).tolist() == [0.25] * 4
    assert merge_weights(np.array([[0.0, 1.0], [0.0, 2.0]])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("planted", [0.0, 0.7, -2.0])
def test_what_length_alone_is_worth_is_recovered(planted: float) -> None:
    rng = np.random.default_rng(3)
    rows = from_rows([pair(f"q{i}", "a" * int(rng.integers(1, 400)), "b" * int(rng.integers(1, 400))) for i in range(2_000)])
    logs = [np.array([math.log1p(len(messages[0]["content"])) for messages in rows[side].to_list()]) for side in ("chosen", "rejected")]
    margins = planted * (logs[0] - logs[1]) + rng.normal(size=rows.height)
    assert length_slope(rows, margins) == pytest.approx(planted, abs=0.05)


def test_answers_of_one_length_say_nothing_of_length() -> None:
    assert length_slope(from_rows([pair("q", "aa", "bb")]), np.array([1.0])) is None


def test_a_sure_temperature_knows_no_scale_and_is_none_where_none_is_the_best() -> None:
    rng = np.random.default_rng(0)
    margins = np.where(rng.random(200) < 0.8, 1.0, -1.0) * rng.random(200)
    for scale in (1e-6, 1.0, 1e6):
        assert sure_temperature(scale * margins) == pytest.approx(scale * temperature(margins), rel=1e-3)
    assert sure_temperature(margins[: LEAST - 1]) is None
    assert sure_temperature(np.abs(margins)) is None
    assert sure_temperature(-np.abs(margins)) is None
    assert sure_temperature(np.zeros(100)) is None
