"""Evaluation: strict comparison, ties, baselines and intervals against values worked out by hand; swapping the labels swaps the accuracy."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assay.errors import AssayError
from assay.evaluate.evaluate import Suite, evaluate, load_suite
from assay.evaluate.intervals import coin, interval, resampled_means
from assay.pairs.schema import Message, answer_text, from_rows
from assay.score.scorer import Scores, load_scorer
from conftest import pair


class Numbers:
    """Scores an answer by the number it consists of."""

    spec = "numbers"
    attributes: tuple[str, ...] = ("reward",)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([float(answer_text(c[-1:])) for c in conversations], dtype=np.float32)
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool))


def suite(rows: list[tuple[str, str, str, str]], rule: str = "pairs") -> Suite:
    return Suite("s", from_rows([pair(p, c, r, subset=s) for s, p, c, r in rows]), rule)


def test_right_ties_and_nan() -> None:
    rows = [("a", "1", "3", "1"), ("a", "2", "1", "3"), ("a", "3", "2", "2.0"), ("b", "4", "nan", "1"), ("b", "5", "5", "1")]
    result = evaluate(Numbers(), [suite(rows)])["suites"]["s"]
    assert result["overall"]["accuracy"] == pytest.approx(2 / 5)
    assert (result["ties"], result["overall"]["ties"]) == (1, 1)
    assert result["subsets"]["a"]["accuracy"] == pytest.approx(1 / 3)
    assert result["subsets"]["b"]["accuracy"] == pytest.approx(1 / 2)


def test_swapping_the_labels_swaps_the_accuracy() -> None:
    rng = np.random.default_rng(0)
    rows = [("a", str(i), f"{x:.4f}", f"{y:.4f}") for i, (x, y) in enumerate(rng.normal(size=(200, 2)))]
    forward = evaluate(Numbers(), [suite(rows)])["suites"]["s"]["overall"]["accuracy"]
    backward = evaluate(Numbers(), [suite([(s, p, r, c) for s, p, c, r in rows])])["suites"]["s"]["overall"]["accuracy"]
    assert forward + backward == pytest.approx(1)


def test_length_baseline_counts_equal_lengths_half() -> None:
    rows = [("a", "1", "333", "1"), ("a", "2", "1", "333"), ("a", "3", "22", "11"), ("a", "4", "4444", "1")]
    figure = evaluate(Numbers(), [suite(rows)])["suites"]["s"]["overall"]
    assert figure["length"] == pytest.approx(2.5 / 4)
    assert figure["chosen_longer"] == {"pairs": 2, "accuracy": 1.0}
    assert figure["chosen_shorter"] == {"pairs": 1, "accuracy": 0.0}


def test_rewardbench_look_alike_uses_the_constant_weights() -> None:
    rows = [("alpacaeval-easy", f"e{i}", "2", "1") for i in range(3)] + [("mt-bench-med", "m", "1", "2"), ("math-prm", "p", "2", "1"), ("hep-go", "g", "1", "2"), ("mine", "x", "1", "2")]
    result = evaluate(Numbers(), [suite(rows, "rewardbench")])["suites"]["s"]
    assert result["sections"]["Chat"]["accuracy"] == pytest.approx(100 / 140)
    assert result["sections"]["Reasoning"]["accuracy"] == pytest.approx(984 / (984 + 164))
    assert result["overall"]["accuracy"] == pytest.approx((100 / 140 + 984 / 1148) / 2)
    assert result["overall"]["pairs"] == 6
    assert "donotanswer" in result["missing_subsets"]
    with pytest.raises(AssayError, match="none of the subsets mine is a RewardBench subset"):
        evaluate(Numbers(), [suite([("mine", "x", "1", "2")], "rewardbench")])


def test_one_pass_over_several_suites_and_files(tmp_path: Path) -> None:
    one, two = suite([("a", "1", "2", "1")]), Suite("t", suite([("b", "2", "1", "2")]).pairs, "pairs")
    results = evaluate(Numbers(), [one, two], tmp_path)
    items = pl.read_parquet(tmp_path / "items.parquet")
    assert items.select("suite", "subset", "chosen_score", "rejected_score", "right").rows() == [("s", "a", 2.0, 1.0, 1.0), ("t", "b", 1.0, 2.0, 0.0)]
    assert {name: s["overall"]["accuracy"] for name, s in results["suites"].items()} == {"s": 1.0, "t": 0.0}
    with pytest.raises(AssayError, match="two suites have the same name"):
        evaluate(Numbers(), [one, one])


def test_intervals_cover_the_truth_and_widen_with_clusters() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        values = (rng.random(150) < 0.7).astype(float)
        low, high = interval(resampled_means(values, np.arange(150).astype(str), f"t{trial}", 400), 150)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199
    values = np.repeat((rng.random(30) < 0.6).astype(float), 10)
    alone = interval(resampled_means(values, np.arange(300).astype(str), "alone"), 300)
    together = interval(resampled_means(values, np.repeat(np.arange(30), 10).astype(str), "together"), 30)
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_an_all_right_subset_is_not_called_certain() -> None:
    low, high = interval(np.ones(100), 20)
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 20))
    assert interval(np.zeros(100), 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_coin() -> None:
    assert coin(100) == pytest.approx((0.402, 0.598))
    assert coin(1) == (0.0, 1.0)


def test_the_length_rule_reproduces_the_published_baseline(shared_data: Path) -> None:
    result = evaluate(load_scorer("rule:length"), [load_suite(f"rewardbench={shared_data / 'eval_llmbar'}")])["suites"]["rewardbench"]
    assert result["subsets"]["llmbar-adver-neighbor"]["length"] == pytest.approx(0.14, abs=0.006)
    assert list(result["sections"]) == ["Chat Hard"]
