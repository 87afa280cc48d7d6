"""Reading suites: the published layout of each, what becomes of malformed rows, descriptions in YAML, copies of hub data sets, and names that mean nothing."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.errors import AssayError
from assay.evaluate.evaluate import evaluate
from assay.evaluate.load import load_groups, load_suite
from assay.evaluate.suite import Item, Suite
from assay.evaluate.suites import PUBLISHED, RULES
from assay.pairs.schema import Message, prompt_id
from assay.score.scorer import Scores
from conftest import turn

Row = dict[str, Any]
both_types = pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])


@pytest.fixture(autouse=True)
def no_other_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_DATA", raising=False)


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Rows as a file of the type that its name says; a text among them is a line as it stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def said(item: Item) -> list[str]:
    assert all(message["role"] == "assistant" for answer in item.answers for message in answer)
    return ["".join(message["content"] for message in answer) for answer in item.answers]


def asked(item: Item) -> str:
    return item.prompt[-1]["content"]


def v1(name: str, subset: str, **more: Any) -> Row:
    return {"prompt": f"q{name}", "chosen": f"good{name}", "chosen_model": "m", "rejected": f"bad{name}", "rejected_model": "n", "subset": subset, "id": int(name), **more}


def v2(name: str, subset: str | None, chosen: Any, rejected: Any, **more: Any) -> Row:
    sizes = {"num_correct": len(chosen or []), "num_rejected": len(rejected or [])}
    return {"id": name, "prompt": f"q{name.partition(':')[2] or name}", "models": ["m"], "chosen": chosen, "rejected": rejected, **sizes, "subset": subset, **more}


def rm(name: str, domain: str | None, **more: Any) -> Row:
    three = {side: [f"{side}{style}{name}" for style in range(3)] for side in ("chosen", "rejected")}
    return {"id": name, "prompt": f"q{name}", **three, "domain": domain, **more}


def rm_cells(name: str, domain: str, order: Sequence[int] = range(9), **more: Any) -> list[Row]:
    styles = ("concise", "detailed_plain", "detailed_markdown")
    cells = [
        {
            "item_id": name,
            "subset": domain,
            "prompt": [turn("user", f"q{name}")],
            "chosen": [turn("assistant", f"chosen{i}{name}")],
            "rejected": [turn("assistant", f"rejected{j}{name}")],
            "style_chosen": styles[i],
            "style_rejected": styles[j],
            **more,
        }
        for i in range(3)
        for j in range(3)
    ]
    return [cells[k] for k in order]


def judge(name: str, source: Any, label: str | None, **more: Any) -> Row:
    return {"pair_id": name, "source": source, "question": f"q{name}", "response_model": "m", "response_A": f"a{name}", "response_B": f"b{name}", "label": label, **more}


def vote(name: str, winner: Any, **more: Any) -> Row:
    return {"question_id": name, "prompt": f"q{name}", "response_1": f"one{name}", "response_2": f"two{name}", "winner": winner, "language": "English", **more}


def best_of_k(name: str, scores: Any, conflicts: Any, **more: Any) -> Row:
    answers = {f"response_{i + 1}": f"r{i}{name}" for i in range(3)}
    return {"question_id": name, "prompt": f"q{name}", **answers, "scores": scores, "sampled_conflict_pairs": conflicts, "benchmark": "math", **more}


def rmb_pair(name: str, path: str, **more: Any) -> Row:
    both = {"chosen": {"answer": f"good{name}", "llm_name": "m"}, "reject": {"answer": f"bad{name}", "llm_name": "n"}}
    return {"pair_uid": name, "conversation_input": [turn("user", f"q{name}")], "category_path": path, **both, **more}


def rmb_best(name: str, path: str, losers: int = 2, **more: Any) -> Row:
    answers = {"bon_best": {"answer": f"best{name}", "llm_name": "m"}, "loser_list": [{"answer": f"loser{i}{name}", "llm_name": "n"} for i in range(losers)]}
    return {"bon_uid": name, "conversation_input": [turn("user", f"q{name}")], "category_path": path, **answers, **more}


def labelled(name: str, **more: Any) -> Row:
    return {"prompt": f"q{name}", "completions": ["s1", "s2", "s3"], "labels": [True, False, True], **more}


def first_wrong(name: str, label: Any, **more: Any) -> Row:
    return {"id": name, "problem": f"q{name}", "steps": ["s1", "s2", "s3"], "label": label, **more}


def error_steps(name: str, wrong: Any, **more: Any) -> Row:
    return {"question": f"q{name}", "modified_process": ["s1", "s2", "s3"], "error_steps": wrong, **more}


def rated(name: str, **more: Any) -> Row:
    return {"prompt": f"q{name}", "response": f"r{name}", "helpfulness": 3, "verbosity": 1, **more}


def answered(name: str, text: str, gold: Any, **more: Any) -> Row:
    return {"question_id": name, "question": f"q{name}", "response": text, "is_correct": gold, **more}


# The published layouts


@both_types
def test_rewardbench(tmp_path: Path, suffix: str) -> None:
    suite = load_suite(f"rewardbench={write(tmp_path / f'x{suffix}', [v1('1', 'math-prm'), v1('2', 'hep-go'), v1('3', 'hep-go')])}")
    assert (suite.name, suite.rule, suite.aside) == ("rewardbench", "rewardbench", [])
    assert [(asked(i), said(i), i.gold, i.subset) for i in suite.items] == [(f"q{n}", [f"good{n}", f"bad{n}"], (1.0, 0.0), s) for n, s in ((1, "math-prm"), (2, "hep-go"), (3, "hep-go"))]
    assert [i.cluster for i in suite.items] == [prompt_id([turn("user", f"q{n}")]) for n in (1, 2, 3)]
    assert "donotanswer" in suite.warnings[0]
    assert "hep-go" not in suite.warnings[0]


@both_types
def test_rewardbench_2(tmp_path: Path, suffix: str) -> None:
    rows = [
        v2("7", "Math", ["right"], ["w1", "w2", "w3"]),
        v2("ref:0", "Ties", ["red"], ["sky", "dog"]),
        v2("tied:0", "Ties", ["red", "blue"], ["sky"]),
        v2("8", "Focus", ["right"], ["w1", "w2", "w3"]),
        v2("tied:0", "Ties", ["green"], ["dog"]),
    ]
    suite = load_suite(f"rewardbench2={write(tmp_path / f'x{suffix}', rows)}")
    found = {i.id: i for i in suite.items}
    assert set(found) == {"7", "8", "ref:0", "tied:0"}
    assert (said(found["7"]), found["7"].gold) == (["right", "w1", "w2", "w3"], (1.0, 0.0, 0.0, 0.0))
    assert (said(found["tied:0"]), found["tied:0"].gold) == (["red", "blue", "green", "sky", "dog"], (1.0, 1.0, 1.0, 0.0, 0.0))
    assert (said(found["ref:0"]), found["ref:0"].gold) == (["red", "sky", "dog"], (1.0, 0.0, 0.0))
    assert {i.id: i.subset for i in suite.items} == {"7": "Math", "8": "Focus", "ref:0": "Ties", "tied:0": "Ties"}
    assert found["ref:0"].cluster == found["tied:0"].cluster != found["7"].cluster
    assert suite.aside == []


@pytest.mark.parametrize(
    ("rule", "rows", "warnings"),
    [
        ("rewardbench2", [v2("7", "Math", ["r"], ["w"]), v2("8", "Focus", ["r"], ["w"])], ["RewardBench 2 has no item of Factuality, Precise IF, Safety, Ties; the figure for all is the mean of the others and not comparable with published ones"]),
        ("rewardbench2", [v2(f"ref:{i}", name, ["r"], ["w"]) for i, name in enumerate(("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties"))], ["no prompt of Ties is there in both forms (ref:N and tied:N), so Ties has no figure and does not count in the figure for all"]),
        ("judgebench", [judge("1", "mmlu-pro-law", "A>B"), judge("2", "elsewhere", "B>A")], ["JudgeBench has no pair of livebench-reasoning, livebench-math, livecodebench; its figures are of the other sources and not comparable with published ones"]),
        ("judgebench", [judge(str(i), name, "A>B") for i, name in enumerate(("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"))], []),
        ("ppe-correctness", [best_of_k("1", [1, 0, 0], [[0, 1]]), best_of_k("2", [1, 0, 0], [[0, 1]], benchmark="IFEval")], ["PPE has no prompt of MMLU-Pro, GPQA, MBPP-Plus; the figure for all is the mean of the others and not comparable with published ones"]),
    ],
)
def test_missing_parts_are_named(tmp_path: Path, rule: str, rows: list[Row], warnings: list[str]) -> None:
    assert load_suite(f"{rule}={write(tmp_path / 'x.jsonl', rows)}").warnings == warnings


def test_rewardbench_2_with_several_right_answers_counts_the_first_alone(tmp_path: Path) -> None:
    (item,) = load_suite(f"rewardbench2={write(tmp_path / 'x.jsonl', [v2('1', 'Math', ['r1', 'r2'], ['w'])])}").items
    assert (said(item), item.gold) == (["r1", "r2", "w"], (1.0, 0.0, 0.0))


@both_types
def test_rm_bench(tmp_path: Path, suffix: str) -> None:
    suite = load_suite(f"rm-bench={write(tmp_path / f'x{suffix}', [rm('1', 'chat'), rm('2', 'safety-refuse'), rm('3', 'safety-response'), rm('4', 'math')])}")
    assert [i.subset for i in suite.items] == ["chat", "safety", "safety", "math"]
    assert [i.about["domain"] for i in suite.items] == ["chat", "safety-refuse", "safety-response", "math"]
    assert said(suite.items[0]) == ["chosen01", "chosen11", "chosen21", "rejected01", "rejected11", "rejected21"]
    assert all(i.gold == (1.0, 1.0, 1.0, 0.0, 0.0, 0.0) for i in suite.items)
    assert "no item of code" in suite.warnings[0]


@both_types
def test_rm_bench_one_row_a_cell(tmp_path: Path, suffix: str) -> None:
    rows = rm_cells("a", "code", order=(8, 3, 1, 0, 5, 7, 2, 4, 6)) + rm_cells("b", "safety-refuse")
    mixed = rows[:5] + rows[9:] + rows[5:9]
    suite = load_suite(f"rm-bench={write(tmp_path / f'x{suffix}', mixed)}")
    assert [(i.id, i.subset) for i in suite.items] == [("a", "code"), ("b", "safety")]
    assert said(suite.items[0]) == ["chosen0a", "chosen1a", "chosen2a", "rejected0a", "rejected1a", "rejected2a"]
    assert suite.items[0].gold == (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert suite.aside == []


@both_types
def test_judgebench(tmp_path: Path, suffix: str) -> None:
    rows = [judge("1", "mmlu-pro-law", "A>B"), judge("2", "livebench-math", "B>A"), judge("3", "livecodebench", "A>B"), judge("4", "elsewhere", "B>A")]
    suite = load_suite(f"judgebench={write(tmp_path / f'x{suffix}', rows)}")
    assert [i.subset for i in suite.items] == ["mmlu-pro", "livebench-math", "livecodebench", "elsewhere"]
    assert [(i.id, said(i), i.gold) for i in suite.items[:2]] == [("1", ["a1", "b1"], (1.0, 0.0)), ("2", ["a2", "b2"], (0.0, 1.0))]
    assert [i.about["label"] for i in suite.items] == ["A>B", "B>A", "A>B", "B>A"]


@both_types
def test_ppe_preference(tmp_path: Path, suffix: str) -> None:
    rows = [vote("1", "model_a"), vote("2", "tie"), vote("3", "model_b", language="German"), vote("4", "tie (bothbad)"), vote("5", "model_a", language=None)]
    path = write(tmp_path / f"x{suffix}", rows)
    suite = load_suite(f"ppe-preference={path}")
    assert [(i.id, said(i), i.gold, i.subset) for i in suite.items] == [
        ("1", ["one1", "two1"], (1.0, 0.0), "English"),
        ("3", ["two3", "one3"], (1.0, 0.0), "German"),
        ("5", ["one5", "two5"], (1.0, 0.0), "unknown"),
    ]
    assert [(a["file"], a["row"], a["reason"]) for a in suite.aside] == [(str(path), 2, "no winner (tie): a vote that is a tie is not measured"), (str(path), 4, "no winner (tie (bothbad)): a vote that is a tie is not measured")]


@both_types
def test_ppe_correctness(tmp_path: Path, suffix: str) -> None:
    rows = [best_of_k("1", [True, False, True], [[0, 1], [1, 2]]), best_of_k("2", [False, True, False], [[0, 1], [0, 2]], benchmark=None), best_of_k("3", [True, True, True], [])]
    suite = load_suite(f"ppe-correctness={write(tmp_path / f'PPE-IFEval-Best-of-K{suffix}', rows)}")
    assert [i.gold for i in suite.items] == [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)]
    assert [i.about["pairs"] for i in suite.items] == [[(0, 1), (2, 1)], [(1, 0)], []]
    assert said(suite.items[0]) == ["r01", "r11", "r21"]
    assert [i.subset for i in suite.items] == ["math", "IFEval", "math"]


def test_ppe_correctness_takes_the_set_from_the_name_of_the_file(tmp_path: Path) -> None:
    row = {key: value for key, value in best_of_k("1", [1, 0, 0], [[0, 1]]).items() if key != "benchmark"}
    assert load_suite(f"ppe-correctness={write(tmp_path / 'PPE-IFEval-Best-of-K.jsonl', [row])}").items[0].subset == "IFEval"


@both_types
def test_rmb(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"rmb/Pairwise_set/Helpfulness/x{suffix}", [rmb_pair("1", "Pairwise_set/Helpfulness/Code")])
    write(tmp_path / f"rmb/Pairwise_set/Harmlessness/x{suffix}", [rmb_pair("2", "Pairwise_set/Harmlessness/S1")])
    write(tmp_path / f"rmb/BoN_set/Harmlessness/x{suffix}", [rmb_best("3", "BoN_set/Harmlessness/S1", 3), rmb_best("4", "BoN_set/Harmlessness/S2", 2)])
    suite = load_suite(f"rmb={tmp_path / 'rmb'}")
    found = {i.id: (i.subset, said(i), i.gold) for i in suite.items}
    assert found == {
        "1": ("pairwise, helpfulness", ["good1", "bad1"], (1.0, 0.0)),
        "2": ("pairwise, harmlessness", ["good2", "bad2"], (1.0, 0.0)),
        "3": ("best of n, harmlessness", ["best3", "loser03", "loser13", "loser23"], (1.0, 0.0, 0.0, 0.0)),
        "4": ("best of n, harmlessness", ["best4", "loser04", "loser14"], (1.0, 0.0, 0.0)),
    }
    assert suite.warnings == ["RMB has no items of best of n, helpfulness; the figure for all is the mean of the others"]


@both_types
def test_rmb_both_kinds_in_one_file(tmp_path: Path, suffix: str) -> None:
    """A column file gives every row all columns, null where it has none."""
    keys = [*rmb_pair("1", "Helpfulness"), *rmb_best("2", "Helpfulness")]
    rows = [{key: row.get(key) for key in keys} for row in (rmb_pair("1", "Helpfulness"), rmb_best("2", "Harmlessness"))]
    suite = load_suite(f"rmb={write(tmp_path / f'x{suffix}', rows)}")
    assert [i.subset for i in suite.items] == ["pairwise, helpfulness", "best of n, harmlessness"]


@both_types
def test_steps_with_labels(tmp_path: Path, suffix: str) -> None:
    suite = load_suite(f"steps={write(tmp_path / f'x{suffix}', [labelled('1'), labelled('2', labels=[True, True, True])])}")
    assert [said(i) for i in suite.items] == [["s1", "s1\ns2", "s1\ns2\ns3"]] * 2
    assert [i.gold for i in suite.items] == [(1.0, 0.0, 1.0), (1.0, 1.0, 1.0)]
    assert [asked(i) for i in suite.items] == ["q1", "q2"]


@both_types
def test_steps_with_the_first_wrong_one(tmp_path: Path, suffix: str) -> None:
    suite = load_suite(f"steps={write(tmp_path / f'x{suffix}', [first_wrong('a', 1), first_wrong('b', -1), first_wrong('c', 0, subset='hard')])}")
    assert [(i.id, i.gold) for i in suite.items] == [("a", (1.0, 0.0, 0.0)), ("b", (1.0, 1.0, 1.0)), ("c", (0.0, 0.0, 0.0))]


@both_types
def test_steps_with_the_wrong_ones(tmp_path: Path, suffix: str) -> None:
    rows = [error_steps("1", [2], error_type="circular"), error_steps("2", [1, 3], error_type="redundant")]
    suite = load_suite(f"steps={write(tmp_path / f'x{suffix}', rows)}")
    assert [(i.subset, i.gold) for i in suite.items] == [("circular", (1.0, 0.0, 1.0)), ("redundant", (0.0, 1.0, 0.0))]
    lines = {"prompt": [turn("user", "q")], "chosen": [turn("assistant", "1. a")], "rejected": [turn("assistant", "1. a\n2. b")], "error_steps": [2]}
    (item,) = load_suite(f"steps={write(tmp_path / f'y{suffix}', [lines])}").items
    assert (said(item), item.gold) == (["1. a", "1. a\n2. b"], (1.0, 0.0))


@both_types
def test_ratings(tmp_path: Path, suffix: str) -> None:
    rows = [rated("1"), rated("2", helpfulness=None, attr_truth=0.5), rated("3", prompt="q3\n<extra_id_1>Assistant\na\n<extra_id_1>User\nmore")]
    suite = load_suite(f"ratings={write(tmp_path / f'x{suffix}', [{'attr_truth': None, **row} for row in rows])}")
    assert [i.about["ratings"] for i in suite.items] == [{"helpfulness": 3.0, "verbosity": 1.0}, {"verbosity": 1.0, "truth": 0.5}, {"helpfulness": 3.0, "verbosity": 1.0}]
    assert [said(i) for i in suite.items] == [["r1"], ["r2"], ["r3"]]
    assert all(len(i.gold) == 1 and math.isnan(i.gold[0]) for i in suite.items)
    assert [m["role"] for m in suite.items[2].prompt] == ["user", "assistant", "user"]


@both_types
def test_best_of_n_one_answer_a_row(tmp_path: Path, suffix: str) -> None:
    rows = [answered("a", "x", True), answered("b", "u", False), answered("a", "y", False), answered("b", "v", True), answered("a", "z", True)]
    suite = load_suite(f"best-of-n={write(tmp_path / f'x{suffix}', rows)}")
    assert [(i.id, asked(i), said(i), i.gold) for i in suite.items] == [("a", "qa", ["x", "y", "z"], (1.0, 0.0, 1.0)), ("b", "qb", ["u", "v"], (0.0, 1.0))]


@both_types
def test_best_of_n_all_answers_in_a_row(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": "q1", "responses": ["x", "y", "z"], "scores": [0.5, 2.0, 1.0], "subset": "s"}, {"prompt": "q2", "responses": ["x", "y"], "scores": [1.0, 0.0], "subset": None}]
    suite = load_suite(f"best-of-n={write(tmp_path / f'x{suffix}', rows)}")
    assert [(i.subset, said(i), i.gold) for i in suite.items] == [("s", ["x", "y", "z"], (0.5, 2.0, 1.0)), ("all", ["x", "y"], (1.0, 0.0))]


@both_types
def test_best_of_n_right_and_wrong_answers(tmp_path: Path, suffix: str) -> None:
    suite = load_suite(f"best-of-n={write(tmp_path / f'x{suffix}', [{'id': 'a', 'prompt': 'q', 'chosen': ['x', 'y'], 'rejected': ['u', 'v', 'w']}])}")
    assert [(i.id, said(i), i.gold) for i in suite.items] == [("a", ["x", "y", "u", "v", "w"], (1.0, 1.0, 0.0, 0.0, 0.0))]


def test_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [v1("1", "s"), {key: value for key, value in v1("2", "s").items() if key != "subset"}])
    suite = load_suite(str(path))
    assert (suite.name, suite.rule, [i.subset for i in suite.items]) == ("mine", "pairs", ["s", "mine"])
    assert load_suite(f"other={path}").name == "other"
    assert load_suite(f"pairs={path}").rule == "pairs"


# Rows that cannot be read


def pair_rows() -> list[Row]:
    return [v1("1", "math-prm"), v1("2", "math-prm")]


GOOD: dict[str, list[Row]] = {
    "rewardbench": pair_rows(),
    "rewardbench2": [v2("1", "Math", ["r"], ["w"]), v2("2", "Math", ["r"], ["w"])],
    "rm-bench": [rm("1", "chat"), rm("2", "math")],
    "judgebench": [judge("1", "mmlu-pro", "A>B"), judge("2", "mmlu-pro", "B>A")],
    "ppe-preference": [vote("1", "model_a"), vote("2", "model_b")],
    "ppe-correctness": [best_of_k("1", [1, 0, 0], [[0, 1]]), best_of_k("2", [1, 0, 0], [[0, 1]])],
    "rmb": [rmb_pair("1", "Helpfulness"), rmb_best("2", "Harmlessness")],
    "steps": [labelled("1"), first_wrong("2", 1)],
    "ratings": [rated("1"), rated("2")],
    "best-of-n": [{"prompt": "q1", "chosen": ["x"], "rejected": ["y"]}, {"prompt": "q2", "responses": ["x", "y"], "scores": [1, 0]}],
}
HUGE = 10**400
BAD: list[tuple[str, Row, str]] = [
    ("rewardbench", v1("3", "math-prm", chosen=None), "no `chosen`|chosen is null"),
    ("rewardbench", v1("3", "math-prm", rejected=""), "rejected is empty"),
    ("rewardbench", v1("3", "math-prm", rejected="good3"), "identical answers"),
    ("rewardbench", v1("3", "math-prm", prompt=4), "prompt is a number, expected text"),
    ("rewardbench2", v2("3", None, ["r"], ["w"]), "has no `subset`"),
    ("rewardbench2", v2("3", "Math", ["r"], []), "rejected is an empty list"),
    ("rewardbench2", v2("3", "Math", "r", ["w"]), "chosen is text, expected a list"),
    ("rewardbench2", v2("3", "Math", ["r"], ["w", None]), r"rejected\[1\] is null, expected text"),
    ("rewardbench2", v2("3", "Math", ["r"], ["w"], prompt=None), "has no `prompt`"),
    ("rewardbench2", v2("3", "Ties", ["r"], ["w"]), "the id of a row of Ties is '3', expected ref:N or tied:N"),
    ("rewardbench2", v2("ref:3", "Ties", ["r"], ["w"], id=3), "id is a number, expected text"),
    ("rewardbench2", v2("ref:3", "Ties", ["r"], ["w"], prompt=5), "prompt is a number, expected text"),
    ("rm-bench", rm("3", "chat", chosen=["a", "b"]), "has 2 chosen and 3 rejected answers, expected three of each"),
    ("rm-bench", rm("3", "poetry"), "the domain is 'poetry'"),
    ("rm-bench", rm("3", None), "has no `domain`"),
    ("rm-bench", rm("3", "chat", prompt=None), "has no `prompt`"),
    ("rm-bench", rm("3", "chat", rejected=["a", 2, "c"]), r"rejected\[1\] is a number, expected text"),
    ("rm-bench", {**rm_cells("3", "chat")[0], "item_id": None}, "has no `item_id`"),
    ("rm-bench", {**rm_cells("3", "chat")[0], "prompt": None}, "has no `prompt`"),
    ("judgebench", judge("3", "mmlu-pro", "A=B"), "the label is 'A=B', expected A>B or B>A"),
    ("judgebench", judge("3", "mmlu-pro", None), "has no `label`"),
    ("judgebench", judge("3", "mmlu-pro", "A>B", response_B=None), "has no `response_B`"),
    ("judgebench", judge("3", ["x"], "A>B"), "source is a list, expected text"),
    ("judgebench", judge("3", "mmlu-pro", "A>B", question={"text": "x"}), "prompt is an object, expected text"),
    ("ppe-preference", vote("3", None), "has no `winner`"),
    ("ppe-preference", vote("3", "model_a", prompt=None), "has no `prompt`"),
    ("ppe-preference", vote("3", "model_a", response_2=5), "response_2 is a number, expected text"),
    ("ppe-correctness", best_of_k("3", "101", [[0, 1]]), "scores is text, expected a list"),
    ("ppe-correctness", best_of_k("3", [1, None, 0], [[0, 1]]), "scores holds null, expected numbers"),
    ("ppe-correctness", best_of_k("3", [1, 0, 0, 0], [[0, 1]]), "has no `response_4`"),
    ("ppe-correctness", best_of_k("3", [1, 0, 0], [[0, 3]]), "names an answer that is not there"),
    ("ppe-correctness", best_of_k("3", [1, 0, 0], [[-1, 1]]), "names an answer that is not there"),
    ("ppe-correctness", best_of_k("3", [1, 0, 0], [[0]]), "sampled_conflict_pairs"),
    ("ppe-correctness", best_of_k("3", [1, 0, 0], [["a", "b"]]), "sampled_conflict_pairs"),
    ("ppe-correctness", best_of_k("3", [1, 0, 0], 5), "sampled_conflict_pairs"),
    ("ppe-correctness", best_of_k("3", [HUGE, 0, 0], [[0, 1]]), "scores"),
    ("rmb", rmb_pair("3", "Pairwise_set/Politeness"), "expected one with Helpfulness or Harmlessness"),
    ("rmb", rmb_pair("3", "Helpfulness", conversation_input=None), "has no `conversation_input`"),
    ("rmb", rmb_pair("3", "Helpfulness", conversation_input=[{"role": "king", "content": "x"}]), "has the role 'king'"),
    ("rmb", rmb_pair("3", "Helpfulness", reject=None), "has no `reject"),
    ("rmb", rmb_pair("3", "Helpfulness", chosen={"answer": 3}), "answer is a number, expected text"),
    ("rmb", rmb_best("3", "Helpfulness", 0), "loser_list is an empty list"),
    ("steps", labelled("3", labels=[True, False]), "3 steps with 2 labels"),
    ("steps", labelled("3", completions=["s1", 2, "s3"]), "step 2 is a number, expected text"),
    ("steps", labelled("3", completions=[]), "completions is an empty list"),
    ("steps", labelled("3", prompt=None), "prompt is null, expected text"),
    ("steps", labelled("3", labels=["yes", "no", "yes"]), "label"),
    ("steps", labelled("3", labels=[1, None, 1]), "label"),
    ("steps", first_wrong("3", None), "has no `label`"),
    ("steps", first_wrong("3", "1"), "label"),
    ("steps", first_wrong("3", 3), "label"),
    ("steps", error_steps("3", [4]), "error_steps names step 4 of 3"),
    ("steps", error_steps("3", ["2"]), "error_steps"),
    ("steps", error_steps("3", ["a", 5]), "error_steps"),
    ("steps", error_steps("3", [[2]]), "error_steps"),
    ("steps", error_steps("3", [2], modified_process="abc"), "modified_process"),
    ("ratings", rated("3", helpfulness=None, verbosity=None), "has no rating"),
    ("ratings", rated("3", helpfulness=True, verbosity="4"), "has no rating"),
    ("ratings", rated("3", prompt=None), "prompt is null, expected text"),
    ("ratings", rated("3", response=None), "has no `response`"),
    ("ratings", rated("3", prompt=[turn("user", "x"), turn("assistant", "y")]), "the last turn of the prompt is the assistant's"),
    ("ratings", rated("3", helpfulness=HUGE), "helpfulness"),
    ("best-of-n", {"prompt": "q3", "response": "x"}, "has no gold value"),
    ("best-of-n", {"prompt": "q3", "response": "x", "gold": "good"}, "gold is text, expected a number, true or false"),
    ("best-of-n", {"prompt": "q3", "gold": 1}, "has no `response`"),
    ("best-of-n", {"response": "x", "gold": 1}, "prompt is null, expected text"),
    ("best-of-n", {"prompt": "q3", "responses": ["x", "y"], "scores": [1]}, "2 responses with 1 scores"),
    ("best-of-n", {"prompt": "q3", "responses": ["x", "y"], "scores": [1, None]}, "scores is null"),
    ("best-of-n", {"prompt": "q3", "responses": ["x", "y"], "scores": 1}, "scores"),
    ("best-of-n", {"prompt": "q3", "responses": "xy", "scores": [1, 0]}, "responses is text, expected a list"),
    ("best-of-n", {"prompt": "q3", "responses": ["x", "y"], "scores": [HUGE, 0]}, "scores"),
    ("best-of-n", {"prompt": "q3", "responses": ["x", "y"], "scores": [float("nan"), float("nan")]}, "scores|gold|number"),
    ("best-of-n", {"prompt": "q3", "chosen": ["x"], "rejected": []}, "rejected is an empty list"),
]


@pytest.mark.parametrize(("rule", "row", "reason"), BAD, ids=[f"{rule} {i}: {reason[:40]}" for i, (rule, _, reason) in enumerate(BAD)])
def test_a_bad_row_is_set_aside_with_its_reason(tmp_path: Path, rule: str, row: Row, reason: str) -> None:
    first, last = GOOD[rule]
    path = write(tmp_path / "x.jsonl", [first, row, last])
    suite = load_suite(f"{rule}={path}")
    assert len(suite.items) == 2
    assert [(a["file"], a["row"]) for a in suite.aside] == [(str(path), 2)]
    assert set(suite.aside[0]) == {"file", "row", "reason", "raw"}
    assert re.search(reason, suite.aside[0]["reason"]), suite.aside[0]["reason"]
    assert len(suite.aside[0]["raw"]) <= 500


@pytest.mark.parametrize("rule", GOOD)
def test_lines_that_are_no_rows_are_set_aside(tmp_path: Path, rule: str) -> None:
    first, last = GOOD[rule]
    path = write(tmp_path / "x.jsonl", ["{oops", first, "[1]", "", last, "null"])
    suite = load_suite(f"{rule}={path}")
    assert len(suite.items) == 2
    assert [(a["row"], a["reason"].split(" (")[0]) for a in suite.aside] == [(1, "not JSON"), (3, "not an object but a list"), (6, "not an object but null")]
    assert all(a["file"] == str(path) for a in suite.aside)


@pytest.mark.parametrize("rule", GOOD)
def test_nothing_readable_is_an_error_with_the_reason(tmp_path: Path, rule: str) -> None:
    with pytest.raises(AssayError, match=r"no item could be read|no row could be read|not.*format|holds no rows"):
        load_suite(f"{rule}={write(tmp_path / 'x.jsonl', [{'nothing': 1}])}")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(AssayError, match="the file is empty"):
        load_suite(f"{rule}={tmp_path / 'empty.jsonl'}")


def test_steps_of_minus_one_are_not_right(tmp_path: Path) -> None:
    """PRM800K calls a wrong step -1."""
    suite = load_suite(f"steps={write(tmp_path / 'x.jsonl', [labelled('1'), labelled('2', labels=[1, -1, 1])])}")
    assert suite.items[-1].gold == (1.0, 0.0, 1.0) or len(suite.aside) == 1


@pytest.mark.parametrize(("bad", "reason"), [({"subset": "poetry"}, "the domain is 'poetry'"), ({"prompt": 5}, "prompt is a number")], ids=["domain", "prompt"])
def test_a_bad_item_of_cells_is_set_aside(tmp_path: Path, bad: Row, reason: str) -> None:
    suite = load_suite(f"rm-bench={write(tmp_path / 'x.jsonl', rm_cells('a', 'chat', **bad) + rm_cells('b', 'chat'))}")
    assert [i.id for i in suite.items] == ["b"]
    assert any(reason in a["reason"] for a in suite.aside)


def test_a_cell_of_an_unknown_style_is_set_aside(tmp_path: Path) -> None:
    cells = rm_cells("a", "chat")
    path = write(tmp_path / "x.jsonl", [*cells[:3], {**cells[3], "style_chosen": "baroque"}, *cells[3:]])
    suite = load_suite(f"rm-bench={path}")
    assert [(i.id, said(i)[1]) for i in suite.items] == [("a", "chosen1a")]
    assert [(a["row"], a["reason"]) for a in suite.aside] == [(4, "style_chosen is 'baroque', expected one of concise, detailed_plain, detailed_markdown")]


def test_an_item_without_all_its_cells_is_set_aside_where_it_stands(tmp_path: Path) -> None:
    """Which is found out at the end of the file, but the row to look at is one of the item's own."""
    path = write(tmp_path / "x.jsonl", rm_cells("a", "chat")[:3] + rm_cells("b", "chat"))
    suite = load_suite(f"rm-bench={path}")
    assert [i.id for i in suite.items] == ["b"]
    (aside,) = suite.aside
    assert "item a has no chosen detailed_plain, chosen detailed_markdown answer" in aside["reason"]
    assert aside["row"] in (1, 2, 3)
    assert '"a"' in aside["raw"] or "'a'" in aside["raw"]


def test_a_long_row_is_shortened(tmp_path: Path) -> None:
    suite = load_suite(f"judgebench={write(tmp_path / 'x.jsonl', [*GOOD['judgebench'], judge('3', 'mmlu-pro', 'C', question='x' * 9_000)])}")
    assert 100 < len(suite.aside[0]["raw"]) <= 500


def test_rows_of_several_files_are_named_by_their_own(tmp_path: Path) -> None:
    write(tmp_path / "d/a.jsonl", GOOD["judgebench"])
    write(tmp_path / "d/b.jsonl", [judge("3", "mmlu-pro", "C"), judge("4", "mmlu-pro", "A>B")])
    suite = load_suite(f"judgebench={tmp_path / 'd'}")
    assert [i.id for i in suite.items] == ["1", "2", "4"]
    assert [(Path(a["file"]).name, a["row"]) for a in suite.aside] == [("b.jsonl", 1)]


def test_a_bad_row_of_parquet_has_its_number(tmp_path: Path) -> None:
    rows = [judge(str(n), "mmlu-pro", "C" if n == 7 else "A>B") for n in range(1, 11)]
    suite = load_suite(f"judgebench={write(tmp_path / 'x.parquet', rows)}")
    assert (len(suite.items), [a["row"] for a in suite.aside]) == (9, [7])


# Descriptions


def describe(tmp_path: Path, text: str) -> str:
    (tmp_path / "suite.yaml").write_text(text)
    return str(tmp_path / "suite.yaml")


def test_a_description(tmp_path: Path) -> None:
    write(tmp_path / "data/x.jsonl", GOOD["judgebench"])
    suite = load_suite(describe(tmp_path, "name: my judges\ndata: data/x.jsonl\nrule: judgebench\n"))
    assert (suite.name, suite.rule, [i.id for i in suite.items]) == ("my judges", "judgebench", ["1", "2"])


def test_a_description_of_pairs_is_the_default(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", pair_rows())
    assert load_suite(describe(tmp_path, "name: mine\ndata: x.jsonl\n")).rule == "pairs"


def test_a_description_with_an_absolute_path_and_another_name(tmp_path: Path) -> None:
    path = write(tmp_path / "elsewhere/x.jsonl", pair_rows())
    assert load_suite(f"other={describe(tmp_path, f'name: mine{chr(10)}data: {path}{chr(10)}')}").name == "other"


def test_a_description_renames_columns(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [{"ask": "q1", "a1": "x", "ok": 1, "topic": "t"}, {"ask": "q1", "a1": "y", "ok": 0, "topic": "t"}])
    suite = load_suite(describe(tmp_path, "name: mine\ndata: x.jsonl\nrule: best-of-n\ncolumns: {ask: prompt, a1: response, ok: gold}\nsubset: topic\n"))
    assert [(asked(i), said(i), i.gold, i.subset) for i in suite.items] == [("q1", ["x", "y"], (1.0, 0.0), "t")]


def test_a_description_of_pairs_renames_columns(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [{"ask": "q1", "good": "x", "bad": "y", "topic": "t", "subset": "not this"}])
    (item,) = load_suite(describe(tmp_path, "name: mine\ndata: x.jsonl\ncolumns: {ask: prompt, good: chosen, bad: rejected}\nsubset: topic\n")).items
    assert (asked(item), said(item), item.subset) == ("q1", ["x", "y"], "t")


def test_a_description_that_renames_nothing_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", pair_rows())
    with pytest.raises(AssayError, match="no row has a column topic"):
        load_suite(describe(tmp_path, "name: mine\ndata: x.jsonl\nsubset: topic\n"))


def test_a_description_with_a_split(tmp_path: Path) -> None:
    write(tmp_path / "hub/me/data/train.jsonl", [v1("1", "s")])
    write(tmp_path / "hub/me/data/test.jsonl", [v1("2", "s")])
    for line, expected in (("", "q2"), ("split: train\n", "q1")):
        (item,) = load_suite(describe(tmp_path, f"name: mine\ndata: me/data\n{line}"), tmp_path / "hub").items
        assert asked(item) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: a\ndata: x.jsonl\nruel: pairs\n", "suite.yaml, ruel: .*Did you mean `rule`.*name, data, rule, split, columns, subset"),
        ("name: a\ndata: x.jsonl\nrule: judgebnech\n", "suite.yaml, rule: there is no `judgebnech`. Did you mean `judgebench`"),
        ("name: a\ndata: x.jsonl\nrule: zzz\n", "suite.yaml, rule: there is no `zzz`. Rules: pairs, best-of-n"),
        ("data: x.jsonl\n", "suite.yaml, name: Field required"),
        ("name: a\n", "suite.yaml, data: Field required"),
        ("name: a\ndata: 5\n", "suite.yaml, data: "),
        ("name: a\ndata: x.jsonl\ncolumns: [a]\n", "suite.yaml, columns: "),
        ("", "suite.yaml, the file: "),
        ("- a\n- b\n", "suite.yaml, the file: "),
        ("name: [a\n", "suite.yaml: not readable as YAML"),
        ("name: a\ndata: nowhere.jsonl\n", "nowhere.jsonl: no such file or folder"),
    ],
)
def test_a_wrong_description_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    write(tmp_path / "x.jsonl", pair_rows())
    with pytest.raises(AssayError, match=reason):
        load_suite(describe(tmp_path, text))


def test_a_description_that_is_no_text_or_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="none.yaml: no such file"):
        load_suite(str(tmp_path / "none.yaml"))
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AssayError, match="x.yaml: not readable as YAML"):
        load_suite(str(tmp_path / "x.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(AssayError, match="folder.yaml"):
        load_suite(str(tmp_path / "folder.yaml"))


# Names


def copies(root: Path) -> None:
    """Copies of the published data sets, by split as the hub names files, with a split beside that must not be read."""
    write(root / "allenai/reward-bench/data/filtered-00000-of-00001.parquet", pair_rows())
    write(root / "allenai/reward-bench/data/raw-00000-of-00001.parquet", [v1("9", "math-prm")])
    write(root / "allenai/reward-bench-2/data/test-00000-of-00001.parquet", [*GOOD["rewardbench2"], v2("ref:0", "Ties", ["r"], ["w"])])
    write(root / "THU-KEG/RM-Bench/total_dataset.json", GOOD["rm-bench"])
    write(root / "ScalerLab/JudgeBench/data/gpt-00000-of-00001.parquet", [judge("g", "mmlu-pro-law", "A>B")])
    write(root / "ScalerLab/JudgeBench/data/claude-00000-of-00001.parquet", [judge("c", "livebench-math", "B>A")])
    write(root / "lmarena-ai/PPE-Human-Preference-V1/data/test-00000-of-00001.parquet", GOOD["ppe-preference"])
    for name in ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus"):
        row = {key: value for key, value in best_of_k(name, [1, 0, 0], [[0, 1]]).items() if key != "benchmark"}
        write(root / f"lmarena-ai/PPE-{name}-Best-of-K/data/train-00000-of-00001.parquet", [row])


PUBLISHED_ITEMS = {
    "rewardbench": ["math-prm", "math-prm"],
    "rewardbench2": ["Math", "Math", "Ties"],
    "rm-bench": ["chat", "math"],
    "judgebench": ["gpt, mmlu-pro", "claude, livebench-math"],
    "ppe-preference": ["English", "English"],
    "ppe-correctness": ["MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus"],
}


@pytest.mark.parametrize("name", PUBLISHED_ITEMS)
def test_a_published_suite_from_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    copies(tmp_path)
    suite = load_suite(name, tmp_path)
    assert (suite.name, suite.rule, suite.aside, [i.subset for i in suite.items]) == (name, name, [], PUBLISHED_ITEMS[name])
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    assert len(load_suite(name).items) == len(suite.items)


def test_the_splits_of_judgebench_are_measured_apart(tmp_path: Path) -> None:
    copies(tmp_path)
    suite = load_suite("judgebench", tmp_path)
    found = RULES["judgebench"].measure(suite, np.array([[1.0, 0.0], [1.0, 0.0]])).values()
    assert found == {"gpt, mmlu-pro": 1, "claude, livebench-math": 0, "gpt, macro average": 1, "claude, macro average": 0, "overall": 0.5}
    (missing,) = RULES["judgebench"].warnings(suite)
    assert missing.startswith("JudgeBench has no pair of mmlu-pro (claude), livebench-reasoning (claude), livecodebench (claude), livebench-reasoning (gpt), livebench-math (gpt), livecodebench (gpt);")


@pytest.mark.parametrize("rule", ["judgebench", "rm-bench", "rewardbench", "ppe-preference"])
def test_published_data_by_the_name_of_its_data_set(tmp_path: Path, rule: str) -> None:
    copies(tmp_path)
    (data, *_), *_ = PUBLISHED[rule]
    named = load_suite(f"mine:{rule}={data}", tmp_path)
    assert (named.name, named.items) == ("mine", load_suite(rule, tmp_path).items)
    assert named.hub == [one for one in PUBLISHED[rule] if one[0] == data]


def test_a_local_file_is_not_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine/judges/x.jsonl", GOOD["judgebench"])
    monkeypatch.chdir(tmp_path)
    assert [load_suite(f"judgebench={path}").hub for path in ("mine/judges", "mine/judges/x.jsonl")] == [[], []]


def test_a_copy_without_the_split_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "allenai/reward-bench/data/raw-00000-of-00001.parquet", pair_rows())
    with pytest.raises(AssayError, match="has no split `filtered`, only raw"):
        load_suite("rewardbench", tmp_path)


def test_rmb_needs_a_path() -> None:
    with pytest.raises(AssayError, match="rmb=PATH"):
        load_suite("rmb")


@pytest.mark.parametrize("name", ["rewardbench3", "judgbench", "", "best-of-n", "steps", "mine=", "mine=nowhere.jsonl", "judgebench=nowhere.parquet"])
def test_a_name_that_means_nothing_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssayError, match=r"no such file or folder|is empty|no such file, and not a published suite"):
        load_suite(name, tmp_path)


@pytest.mark.parametrize("rule", RULES)
def test_the_name_of_a_rule_is_the_rule(tmp_path: Path, rule: str) -> None:
    path = write(tmp_path / "x.jsonl", GOOD.get(rule, pair_rows()))
    for spec, name in ((f"{rule}={path}", rule), (f"mine:{rule}={path}", "mine"), (f":{rule}={path}", "x"), (f"a:b:{rule}={path}", "a:b")):
        suite = load_suite(spec)
        assert (suite.name, suite.rule, len(suite.items)) == (name, rule, 2)


@pytest.mark.parametrize("name", ["mine", "rmb2", "steps-mine", "judge bench"])
def test_another_name_means_pairs(tmp_path: Path, name: str) -> None:
    suite = load_suite(f"{name}={write(tmp_path / 'x.jsonl', pair_rows())}")
    assert (suite.name, suite.rule, len(suite.items)) == (name, "pairs", 2)


def test_an_unknown_rule_in_a_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="there is no rule `judgebnech`. Did you mean `judgebench`"):
        load_suite(f"mine:judgebnech={write(tmp_path / 'x.jsonl', pair_rows())}")


@pytest.mark.parametrize("name", ["judgebench=", "mine:judgebench="])
def test_a_folder_with_an_equals_sign(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "day=1/x.jsonl", GOOD["judgebench"])
    assert load_suite(f"{name}{path}").rule == "judgebench"


def test_groups_by_a_named_column(tmp_path: Path) -> None:
    rows = [answered("a", "x", True, truth=0), answered("a", "y", False, truth=1)]
    path = write(tmp_path / "samples.jsonl", rows)
    assert [i.gold for i in load_groups(str(path)).items] == [(1.0, 0.0)]
    suite = load_groups(str(path), "truth")
    assert (suite.name, suite.rule, [i.gold for i in suite.items]) == ("samples", "best-of-n", [(0.0, 1.0)])
    with pytest.raises(AssayError, match="no row has a column nothing"):
        load_groups(str(path), "nothing")


def test_two_names_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", pair_rows())
    with pytest.raises(AssayError, match="no such file or folder"):
        load_suite("first=second=nowhere.jsonl", tmp_path)


class Lengths:
    """Scores an answer by its length."""

    spec = "lengths"
    attributes: tuple[str, ...] = ("reward",)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([len(c[-1]["content"]) for c in conversations], dtype=np.float32)
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool))


def test_two_suites_of_one_name_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", pair_rows())
    with pytest.raises(AssayError, match="two suites have the same name"):
        evaluate(Lengths(), [load_suite(str(path)), load_suite(str(path))], cache=False)


def content(suite: Suite) -> list[str]:
    return [repr((i.id, i.subset, i.prompt, i.answers, i.gold, i.cluster)) for i in suite.items]


@pytest.mark.parametrize("rule", [rule for rule in GOOD if rule not in ("rmb", "steps", "best-of-n")])
def test_both_file_types_give_the_same_items(tmp_path: Path, rule: str) -> None:
    lines, columns = (load_suite(f"{rule}={write(tmp_path / f'x{suffix}', GOOD[rule])}") for suffix in (".jsonl", ".parquet"))
    assert content(lines) == content(columns)
