"""Evaluation: strict comparison, ties, baselines and what is written, against values worked out by hand; swapping the labels swaps the accuracy."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assay.errors import AssayError
from assay.evaluate.evaluate import evaluate
from assay.evaluate.load import load_suite
from assay.evaluate.suite import Item, Suite
from assay.evaluate.suites import RULES, pairs
from assay.pairs.schema import Message, answer_text, from_rows, prompt_id
from assay.score.scorer import Scores, load_scorer
from conftest import pair, turn

FIGURE = {"value", "low", "high", "items", "prompts", "ties", "length", "probe", "random"}


class Numbers:
    """Scores an answer by the number it consists of."""

    spec = "numbers"
    attributes: tuple[str, ...] = ("reward",)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([float(answer_text(c[-1:])) for c in conversations], dtype=np.float32)
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool))


def suite(rows: list[tuple[str, str, str, str]], rule: str = "pairs", name: str = "s") -> Suite:
    table = from_rows([pair(p, c, r, subset=s) for s, p, c, r in rows])
    found = Suite(name, rule, [pairs.item({**row, "prompt_id": prompt_id(row["prompt"])}) for row in table.iter_rows(named=True)])
    found.warnings += RULES[rule].warnings(found)
    return found


def group(prompt: str, answers: Sequence[str], gold: Sequence[float], subset: str = "all") -> Item:
    asked = [turn("user", prompt)]
    return Item(prompt, subset, asked, [[turn("assistant", a)] for a in answers], tuple(gold), prompt_id(asked))


def measured(one: Suite) -> dict[str, Any]:
    found: dict[str, Any] = evaluate(Numbers(), [one])["suites"][one.name]
    return found


def test_right_ties_and_nan() -> None:
    rows = [("a", "1", "3", "1"), ("a", "2", "1", "3"), ("a", "3", "2", "2.0"), ("b", "4", "nan", "1"), ("b", "5", "5", "1")]
    result = measured(suite(rows))
    assert result["overall"]["value"] == pytest.approx(2 / 5)
    assert (result["ties"], result["overall"]["ties"], result["subsets"]["a"]["ties"], result["subsets"]["b"]["ties"]) == (1, 1, 1, 0)
    assert result["subsets"]["a"]["value"] == pytest.approx(1 / 3)
    assert result["subsets"]["b"]["value"] == pytest.approx(1 / 2)
    assert [result[key] for key in ("items", "answers", "rows_aside", "truncated", "without_score")] == [5, 10, 0, 0, 0]


def test_infinite_scores_are_compared_and_two_of_them_are_a_tie() -> None:
    result = measured(suite([("a", "1", "inf", "1"), ("a", "2", "-inf", "1"), ("a", "3", "inf", "inf"), ("a", "4", "-inf", "inf")]))
    assert result["overall"]["value"] == pytest.approx(1 / 4)
    assert result["ties"] == 1


def test_every_figure_has_its_interval_and_baselines() -> None:
    rng = np.random.default_rng(3)
    result = measured(suite([("ab"[i % 2], str(i // 3), f"{x + 0.5:.4f}", f"{y:.4f}") for i, (x, y) in enumerate(rng.normal(size=(90, 2)))]))
    for figure in (result["overall"], *result["subsets"].values()):
        assert set(figure) == FIGURE
        assert 0 <= figure["low"] < figure["value"] < figure["high"] <= 1
        assert 0 <= figure["random"][0] < 0.5 < figure["random"][1] <= 1
        assert 0 <= figure["probe"] <= 1
    assert (result["overall"]["items"], result["overall"]["prompts"]) == (90, 30)
    assert result["subsets"]["a"]["items"] == 45
    assert result["sections"] == {}
    assert result["reversed"] == pytest.approx(1 - result["overall"]["value"])


def test_swapping_the_labels_swaps_the_accuracy() -> None:
    rng = np.random.default_rng(0)
    rows = [("a", str(i), f"{x:.4f}", f"{y:.4f}") for i, (x, y) in enumerate(rng.normal(size=(200, 2)))]
    forward = measured(suite(rows))["overall"]["value"]
    backward = measured(suite([(s, p, r, c) for s, p, c, r in rows]))["overall"]["value"]
    assert forward + backward == pytest.approx(1)


def test_length_baseline_counts_equal_lengths_half() -> None:
    rows = [("a", "1", "333", "1"), ("a", "2", "1", "333"), ("a", "3", "22", "11"), ("a", "4", "4444", "1")]
    result = measured(suite(rows))
    assert result["overall"]["length"] == pytest.approx(2.5 / 4)
    assert result["lean"]["chosen_longer"] == {"comparisons": 2, "accuracy": 1.0}
    assert result["lean"]["chosen_shorter"] == {"comparisons": 1, "accuracy": 0.0}


def test_rewardbench_look_alike_uses_the_constant_weights() -> None:
    rows = [("alpacaeval-easy", f"e{i}", "2", "1") for i in range(3)] + [("mt-bench-med", "m", "1", "2"), ("math-prm", "p", "2", "1"), ("hep-go", "g", "1", "2"), ("mine", "x", "1", "2")]
    result = measured(suite(rows, "rewardbench"))
    assert result["sections"]["Chat"]["value"] == pytest.approx(100 / 140)
    assert result["sections"]["Reasoning"]["value"] == pytest.approx(984 / (984 + 164))
    assert result["overall"]["value"] == pytest.approx((100 / 140 + 984 / 1148) / 2)
    assert result["overall"]["items"] == 6
    assert "mine" in result["subsets"]
    assert any("donotanswer" in warning for warning in result["warnings"])
    with pytest.raises(AssayError, match="none of the subsets mine is a RewardBench subset"):
        measured(suite([("mine", "x", "1", "2")], "rewardbench"))


@pytest.mark.parametrize("subsets", [["alpacaeval-easy", "math-prm"], ["alpacaeval-easy", "alpacaeval-hard", "mt-bench-med", "llmbar-natural", "donotanswer", "math-prm", "hep-go", "hep-js"]])
def test_a_perfect_scorer_gets_one_and_is_not_called_certain(subsets: list[str]) -> None:
    overall = measured(suite([(s, f"{s} {i}", "2", "1") for s in subsets for i in range(4)], "rewardbench"))["overall"]
    assert overall["value"] == pytest.approx(1)
    assert overall["high"] == pytest.approx(1)
    assert overall["low"] < 0.95


@pytest.mark.parametrize("domains", [["chat"], ["chat", "math"], ["chat", "math", "code"], ["chat", "math", "code", "safety"]])
def test_a_perfect_scorer_of_rm_bench_is_not_called_certain(domains: list[str]) -> None:
    items = [group(f"{d} {i}", ["2", "3", "4", "1", "0", "-1"], [1, 1, 1, 0, 0, 0], d) for d in domains for i in range(5)]
    result = measured(Suite("s", "rm-bench", items))
    for figure in (result["overall"], *result["sections"].values()):
        assert figure["value"] == pytest.approx(1)
        assert figure["low"] < 0.95


def test_groups_are_measured_by_their_rule() -> None:
    items = [group("a", ["3", "1", "2", "0"], [1, 0, 0, 0]), group("b", ["1", "1", "0"], [1, 0, 0]), group("c", ["0", "1"], [1, 0]), group("d", ["5", "nan"], [1, 0])]
    result = measured(Suite("g", "best-of-n", items))
    assert result["overall"]["value"] == pytest.approx(1.5 / 4)
    assert (result["items"], result["answers"], result["ties"]) == (4, 11, 1)


def test_groups_without_a_right_or_a_wrong_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "responses": ["1", "2"], "scores": gold, "subset": subset} for i, (gold, subset) in enumerate([([0, 1], "a"), ([1, 0], "a"), ([0, 0], "a"), ([1, 1], "b")])]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = measured(load_suite(f"best-of-n={tmp_path / 'x.jsonl'}"))
    assert (result["overall"]["value"], result["overall"]["items"], result["items"]) == (0.5, 2, 4)
    assert list(result["subsets"]) == ["a"]
    assert "2 of 4 items have no better and worse answer, so they are left out of the figures" in result["warnings"]
    with pytest.raises(AssayError, match="nothing to measure by the rule `best-of-n`: no item has a right and a wrong answer"):
        measured(Suite("g", "best-of-n", [group("a", ["1", "2"], [0, 0])]))


def test_what_is_written_is_what_is_returned(tmp_path: Path) -> None:
    one, two = suite([("a", "1", "2", "1"), ("a", "1b", "3", "3")]), suite([("b", "2", "1", "2"), ("b", "3", "nan", "2")], name="t")
    results = evaluate(Numbers(), [one, two], tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["suites"]["s"]["overall"]["value"] == results["suites"]["s"]["overall"]["value"]
    assert results["scorer"] == "numbers"
    table = pl.read_parquet(tmp_path / "items.parquet")
    shown = table.select("suite", "subset", "scores", "gold", "margin", "tie").rows()
    assert shown[:3] == [("s", "a", [2.0, 1.0], [1.0, 0.0], 1.0, False), ("s", "a", [3.0, 3.0], [1.0, 0.0], 0.0, True), ("t", "b", [1.0, 2.0], [1.0, 0.0], -1.0, False)]
    assert math.isnan(shown[3][2][0])
    assert table["answers"][0].to_list() == [[turn("assistant", "2")], [turn("assistant", "1")]]
    assert {name: s["overall"]["value"] for name, s in results["suites"].items()} == {"s": 0.5, "t": 0.0}
    with pytest.raises(AssayError, match="two suites have the same name"):
        evaluate(Numbers(), [one, one])


def test_the_margin_of_a_group_is_that_of_its_closest_comparison(tmp_path: Path) -> None:
    items = [group("a", ["5", "4", "1", "2"], [1, 1, 0, 0]), group("b", ["5", "0"], [1, 1])]
    evaluate(Numbers(), [Suite("g", "best-of-n", items)], tmp_path)
    margins = pl.read_parquet(tmp_path / "items.parquet")["margin"].to_list()
    assert margins[0] == pytest.approx(2)
    assert margins[1] is None or math.isnan(margins[1])


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one = suite([("ab"[i % 2], str(i), f"{x:.3f}", f"{y:.3f}") for i, (x, y) in enumerate(rng.normal(size=(80, 2)))])
    for folder in ("first", "second"):
        evaluate(Numbers(), [one], tmp_path / folder)
    for name in ("results.json", "items.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_file_of_pairs_and_a_description_give_the_same_items(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "chosen": "2", "rejected": "1", "kind": "ab"[i % 2]} for i in range(4)] + [{"question": "q", "chosen": "x", "rejected": "x", "kind": "a"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text("name: described\ndata: mine.jsonl\nsubset: kind\ncolumns: {question: prompt}\n")
    described = load_suite(str(tmp_path / "mine.yaml"))
    assert (described.name, described.rule, described.subsets, len(described.items)) == ("described", "pairs", ["a", "b"], 4)
    assert load_suite(f"other={tmp_path / 'mine.yaml'}").name == "other"
    result = measured(described)
    assert (result["overall"]["value"], result["rows_aside"], sum(result["reasons_aside"].values())) == (1.0, 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "data: Field required"),
        ("name: x\ndata: y.jsonl\nrul: pairs\n", "rul: Extra inputs are not permitted. Did you mean `rule`?"),
        ("name: x\ndata: y.jsonl\nrule: pair\n", "rule: there is no `pair`. Did you mean `pairs`?"),
        ("name: [", "not readable as YAML"),
        ("- a\n", "the file: "),
    ],
)
def test_a_description_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(AssayError) as error:
        load_suite(str(tmp_path / "wrong.yaml"))
    assert message in str(error.value)
    assert "wrong.yaml" in str(error.value)


def test_a_description_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"nothing\.yaml: no such file"):
        load_suite(str(tmp_path / "nothing.yaml"))


def test_the_length_rule_reproduces_the_published_baseline(shared_data: Path) -> None:
    result = evaluate(load_scorer("rule:length"), [load_suite(f"rewardbench={shared_data / 'eval_llmbar'}")])["suites"]["rewardbench"]
    neighbor = result["subsets"]["llmbar-adver-neighbor"]
    assert neighbor["length"] == pytest.approx(0.14, abs=0.006)
    assert neighbor["value"] <= neighbor["length"]
    assert list(result["sections"]) == ["Chat Hard"]
