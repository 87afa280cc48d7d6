"""RewardBench 2, RM-Bench, JudgeBench and RMB against the numbers the official code returned (tests/golden/*.json), by their own functions and by the path of `assay evaluate`: a suite, a matrix of scores and its rule."""

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.errors import AssayError
from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Suite, padded
from assay.evaluate.suites import RULES, judgebench, pairs, rewardbench, rewardbench2, rm_bench, rmb

FOLDER = Path(__file__).parents[1] / "golden"


def golden(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def by_name(file: Any) -> dict[str, Any]:
    return {case["name"]: case for case in file["cases"]}


V1, V2, RM, JUDGE, RMB = (golden(name) for name in ("rewardbench_v1", "rewardbench_v2", "rm_bench", "judgebench", "rmb"))
V1_CASES, V2_CASES, RM_CASES, JUDGE_CASES, RMB_CASES = (by_name(file) for file in (V1, V2, RM, JUDGE, RMB))
TERM_NAMES = {
    "tied_accuracy": "Ties: tied accurate",
    "ref_accuracy": "Ties: reference accurate",
    "correctness_preferred": "Ties: gap beyond spread",
    "correctness_preferred_hard": "Ties: both gaps beyond spread",
    "margin_term": "Ties: margin",
}
FINAL_NAMES = {
    "Pairwise Helpfulness": "pairwise, helpfulness",
    "Pairwise Harmlessness": "pairwise, harmlessness",
    "BoN Helpfulness": "best of n, helpfulness",
    "BoN Harmlessness": "best of n, harmlessness",
}


def numbers(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]


def same(ours: Any, official: Any, what: str = "") -> None:
    """Equal to 1e-12, NaN equal to NaN; 1e-15 beside 0, where a weighted sum cancels."""
    expected = float(official)
    assert (math.isnan(ours) and math.isnan(expected)) or ours == pytest.approx(expected, rel=1e-12, abs=1e-15), what


def item(name: str, subset: str, gold: Sequence[float], **about: Any) -> Item:
    prompt = [{"role": "user", "content": name}]
    return Item(name, subset, prompt, [[{"role": "assistant", "content": str(i)}] for i in range(len(gold))], tuple(gold), name, about)


def measured(rule: str, made: Sequence[tuple[Item, Sequence[float]]]) -> dict[str, float]:
    suite = Suite(rule, rule, [one for one, _ in made])
    return RULES[rule].measure(suite, padded([scores for _, scores in made], suite.width)).values()


# RewardBench 1


def v1_items(given: dict[str, Any]) -> list[tuple[Item, list[float]]]:
    made = []
    for subset, value in {**given["eval"], **(given["prior"] or {})}.items():
        rows = [(float(v), 1 - float(v)) for v in value] if isinstance(value, list) else zip(numbers(value["chosen"]), numbers(value["rejected"]), strict=True)
        made += [(item(f"{subset} {i}", subset, (1.0, 0.0)), list(row)) for i, row in enumerate(rows)]
    return made


@pytest.mark.parametrize("name", [name for name in V1_CASES if name != "generative_half_points"])
def test_rewardbench_1_as_a_suite(name: str) -> None:
    case = V1_CASES[name]
    columns = {subset for given in case["input"]["models"].values() for subset in given["eval"]}
    for model, given in case["input"]["models"].items():
        official = case["output"]["models"][model]
        if not any(subset in rewardbench.WEIGHTS for subset in given["eval"]):
            with pytest.raises(AssayError, match="none of the subsets"):
                measured("rewardbench", v1_items(given))
            continue
        ours = measured("rewardbench", v1_items(given))
        for subset, value in {**official["per_subset"], **(official.get("prior_per_set") or {})}.items():
            same(ours[subset], value, subset)
        for section, value in official["sections_logged"].items():
            if any(subset in given["eval"] for subset in rewardbench.SECTIONS[section]):
                same(ours[section], value, section)
            else:
                assert section not in ours
        row = case["output"]["leaderboard"].get(model)
        whole = all({s for s in subsets if s in columns} <= set(given["eval"]) or not set(subsets) & set(given["eval"]) for subsets in rewardbench.SECTIONS.values())
        if row is not None and whole:
            same(ours["overall"], row["average"], "average")


# RewardBench 2


def best_of(given: Any) -> list[float]:
    return numbers(given["scores"] if isinstance(given, dict) else given)


def ties_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**one, "scores": numbers(one["scores"])} for one in case["input"]["ties"]]


def v2_items(case: dict[str, Any]) -> list[tuple[Item, list[float]]]:
    made = []
    for subset, rows in case["input"]["best_of_n"].items():
        for i, row in enumerate(rows):
            scores = best_of(row)
            made.append((item(f"{subset} {i}", subset, [1.0] + [0.0] * (len(scores) - 1)), scores))
    for one in ties_of(case):
        right = one["num_correct"]
        made.append((item(one["id"], rewardbench2.TIES, [1.0] * right + [0.0] * (len(one["scores"]) - right)), one["scores"]))
    return made


@pytest.mark.parametrize("name", V2_CASES)
def test_rewardbench_2(name: str) -> None:
    case = V2_CASES[name]
    output = case["output"]
    if "error" in output:
        with pytest.raises(AssayError, match="a tied prompt needs several right answers"):
            rewardbench2.ties_score(ties_of(case))
        return
    figures = {}
    for subset, rows in case["input"]["best_of_n"].items():
        ours = rewardbench2.best_of_n([best_of(row) for row in rows])
        for mine, official in zip(ours, output["per_item"][subset], strict=True):
            same(mine, official, subset)
        figures[subset] = float(np.mean(ours))
    if case["input"]["ties"]:
        found = rewardbench2.ties_score(ties_of(case))
        figures[rewardbench2.TIES] = found["score"]
        same(found["score"], output["ties"]["score"])
        for theirs, mine in TERM_NAMES.items():
            same(found[mine], output["ties"][theirs], theirs)
    assert set(figures) == set(output["per_subset"])
    for subset, official in output["per_subset"].items():
        same(figures[subset], official, subset)
    same(rewardbench2.average(figures), output["average"])


@pytest.mark.parametrize("name", [name for name, case in V2_CASES.items() if "ties" in case["output"]])
def test_ties_prompt_by_prompt(name: str) -> None:
    case = V2_CASES[name]
    official = case["output"]["ties"]
    made = [(one, scores) for one, scores in v2_items(case) if one.subset == rewardbench2.TIES]
    suite = Suite("ties", "rewardbench2", [one for one, _ in made])
    scores = padded([row for _, row in made], suite.width)
    found = rewardbench2.ties([one.id for one in suite.items], scores, suite.gold == 1, suite.there)
    margin = found["Ties: margin"]
    ours = {suite.items[row].id.partition(":")[2]: value for row, value in zip(margin.rows, margin.values, strict=True)}
    assert set(ours) == set(official["margin_per_prompt"])
    for number, value in official["margin_per_prompt"].items():
        same(ours[number], value, number)
    for form, term in (("ref", "Ties: reference accurate"), ("tied", "Ties: tied accurate")):
        accurate = {suite.items[row].id: bool(value) for row, value in zip(found[term].rows, found[term].values, strict=True)}
        assert accurate == {f"{form}:{number}": stats["accurate"] for number, stats in official[f"{form}_stats"].items()}
    beyond = {suite.items[row].id: bool(value) for row, value in zip(found["Ties: gap beyond spread"].rows, found["Ties: gap beyond spread"].values, strict=True)}
    assert beyond == {f"tied:{n}": stats["gap"] > stats["spread"] for n, stats in official["tied_stats"].items() if n in official["ref_stats"]}


@pytest.mark.parametrize("name", V2_CASES)
def test_rewardbench_2_as_a_suite(name: str) -> None:
    case = V2_CASES[name]
    output = case["output"]
    if "error" in output:
        with pytest.raises(AssayError, match="a tied prompt needs several right answers"):
            measured("rewardbench2", v2_items(case))
        return
    ours = measured("rewardbench2", v2_items(case))
    for subset, official in output["per_subset"].items():
        same(ours[subset], official, subset)
    if "ties" in output:
        for theirs, mine in TERM_NAMES.items():
            same(ours[mine], output["ties"][theirs], theirs)
    same(ours["overall"], output["average"])


@pytest.mark.parametrize("row", V2["generative_ratings"], ids=lambda row: str(row["ratings"]))
def test_rewardbench_2_ratings(row: dict[str, Any]) -> None:
    same(rewardbench2.rated([row["ratings"]])[0], row["credit"])


@pytest.mark.parametrize("row", V2["generative_ranking"], ids=lambda row: f"{row['verdict_text']} {row['position_of_correct']}")
def test_rewardbench_2_ranking(row: dict[str, Any]) -> None:
    same(rewardbench2.ranked(row["verdict_text"], rewardbench2.LETTERS[row["position_of_correct"]]), row["credit"])


def test_ties_without_a_prompt_in_both_forms_has_no_score() -> None:
    """The official score is then NaN, and the average leaves NaN out; so must the suite's figure for all."""
    prompts = [{"id": "ref:0", "num_correct": 1, "scores": [1.0, 0.0]}, {"id": "tied:1", "num_correct": 2, "scores": [1.0, 0.9, 0.0]}]
    assert math.isnan(rewardbench2.ties_score(prompts)["score"])
    assert rewardbench2.average({"Math": 0.5, "Ties": float("nan")}) == 0.5
    ours = measured("rewardbench2", v2_items({"input": {"best_of_n": {"Math": [[1.0, 0.0], [0.0, 1.0]]}, "ties": prompts}}))
    assert math.isnan(ours["Ties"])
    assert ours["overall"] == 0.5


def test_rows_of_ties_with_one_id_are_one_prompt() -> None:
    apart = [
        {"id": "ref:0", "num_correct": 1, "scores": [3.0, 1.0]},
        {"id": "ref:0", "num_correct": 0, "scores": [2.5]},
        {"id": "tied:0", "num_correct": 1, "scores": [3.0, 0.0]},
        {"id": "tied:0", "num_correct": 1, "scores": [2.0, 1.5]},
    ]
    together = [{"id": "ref:0", "num_correct": 1, "scores": [3.0, 1.0, 2.5]}, {"id": "tied:0", "num_correct": 2, "scores": [3.0, 2.0, 0.0, 1.5]}]
    assert rewardbench2.ties_score(apart) == rewardbench2.ties_score(together)


@pytest.mark.parametrize(("prompt", "reason"), [({"id": "ref:0", "num_correct": 1, "scores": [1.0]}, "no wrong answer"), ({"id": "ref:0", "num_correct": 0, "scores": [1.0]}, "no right answer")])
def test_a_prompt_of_ties_without_a_gap_is_an_error(prompt: dict[str, Any], reason: str) -> None:
    with pytest.raises(AssayError, match=reason):
        rewardbench2.ties_score([prompt])


# RM-Bench


def rm_items(case: dict[str, Any]) -> list[tuple[Item, list[float]]]:
    made = []
    for i, one in enumerate(case["input"]["items"]):
        domain = rm_bench.domain_of(one.get("domain", "chat"))
        scores = [value for side in ("score_chosen", "score_rejected") for value in [*numbers(one[side]), *[float("nan")] * 3][:3]]
        if domain is not None:
            made.append((item(str(i), domain, (1.0,) * 3 + (0.0,) * 3), scores))
    return made


@pytest.mark.parametrize("name", RM_CASES)
def test_rm_bench(name: str) -> None:
    case = RM_CASES[name]
    given = copy.deepcopy(case["input"]["items"])
    if "error" in case["output"]:
        with pytest.raises(AssayError, match="no item of the domain code"):
            rm_bench.official(given)
        return
    ours = rm_bench.official(given)
    assert given == case["input"]["items"]
    assert set(ours) == set(case["output"]["result"])
    for figure, official in case["output"]["result"].items():
        same(ours[figure], official, figure)
    for domain, table in case["output"].get("per_domain", {}).items():
        alone = rm_bench.official([{k: v for k, v in one.items() if k != "domain"} for one in given if one["domain"].startswith(domain)])
        for figure, official in table.items():
            same(alone[figure], official, f"{domain}, {figure}")


@pytest.mark.parametrize("name", RM_CASES)
def test_rm_bench_as_a_suite(name: str) -> None:
    case = RM_CASES[name]
    made = rm_items(case)
    ours = measured("rm-bench", made)
    warnings = RULES["rm-bench"].warnings(Suite("rm-bench", "rm-bench", [one for one, _ in made]))
    if "error" in case["output"]:
        present = [domain for domain in rm_bench.DOMAINS if domain in ours]
        assert "code" not in present
        same(ours["overall"], np.mean([ours[domain] for domain in present]))
        assert "RM-Bench has no item of code" in warnings[0]
        return
    result = case["output"]["result"]
    for difficulty in rm_bench.DIFFICULTIES:
        same(ours[difficulty], result[f"{difficulty}_acc"], difficulty)
    if "total_avg_acc" not in result:
        return
    assert not warnings
    for domain in rm_bench.DOMAINS:
        same(ours[domain], result[domain], domain)
        for difficulty in rm_bench.DIFFICULTIES:
            same(ours[f"{domain}, {difficulty}"], case["output"]["per_domain"][domain][f"{difficulty}_acc"], f"{domain}, {difficulty}")
    same(ours["overall"], result["total_avg_acc"])


# JudgeBench


def is_error(value: Any) -> bool:
    return isinstance(value, dict) and "error" in value


def judge_scores(pair: dict[str, Any], single: bool) -> list[float]:
    """What a suite gets of a pair: the scores of a reward model asked once; or half the sum of a judge's two verdicts for A and for B, NaN where they say nothing."""
    if single:
        if "scores" in pair:
            return numbers(pair["scores"])
        return {"A>B": [1.0, 0.0], "B>A": [0.0, 1.0]}.get(pair["decisions"][0], [float("nan")] * 2)
    votes = {"A>B": 1, "B>A": -1}
    total = votes.get(pair["decisions"][0], 0) - votes.get(pair["decisions"][1], 0)
    return [total / 2, -total / 2] if total else [float("nan")] * 2


@pytest.mark.parametrize("name", JUDGE_CASES)
def test_judgebench(name: str) -> None:
    case = JUDGE_CASES[name]
    single, rows, official = case["input"]["single_game"], case["input"]["pairs"], case["output"]["percent"]
    if is_error(official["Overall"]):
        with pytest.raises(AssayError, match="gave no verdict, and it was asked only once"):
            judgebench.percent(rows, single)
        return
    ours = judgebench.percent(rows, single)
    assert set(ours) == {source for source, value in official.items() if not is_error(value)}
    for source, value in ours.items():
        same(value, official[source], source)
    for line in case["output"]["printed"]:
        source = line.partition(":")[0]
        assert line == f"{source}: {ours[source]:.2f}%."
    for pair in rows:
        if "scores" in pair:
            a, b = pair["scores"]
            assert [judgebench.verdict(a, b), judgebench.verdict(b, a)][: len(pair["decisions"])] == pair["decisions"]


@pytest.mark.parametrize("name", JUDGE_CASES)
def test_judgebench_as_a_suite(name: str) -> None:
    case = JUDGE_CASES[name]
    single, rows, official = case["input"]["single_game"], case["input"]["pairs"], case["output"]["percent"]
    made = [(item(str(i), judgebench.category(pair["source"]), (1.0, 0.0) if pair["label"] == "A>B" else (0.0, 1.0)), judge_scores(pair, single)) for i, pair in enumerate(rows)]
    ours = measured("judgebench", made)
    if is_error(official["Overall"]):
        right = [pair["decisions"][0] == pair["label"] for pair in rows]
        same(ours["overall"], sum(right) / len(right))
        return
    for source, value in official.items():
        if source == "Overall":
            same(100 * ours["overall"], value)
        elif is_error(value):
            assert source not in ours
        else:
            same(100 * ours[source], value, source)
    there = [value for source, value in official.items() if source != "Overall" and not is_error(value)]
    same(100 * ours["macro average"], sum(there) / len(there))


@pytest.mark.parametrize("kind", JUDGE["pair_truth_table"])
def test_judgebench_verdict_by_verdict(kind: str) -> None:
    for row in JUDGE["pair_truth_table"][kind]:
        decisions = row["decisions"] if isinstance(row["decisions"], list) else [row["decisions"]]
        if is_error(row["correct"]) or "error" in row:
            with pytest.raises(AssayError, match="gave no verdict"):
                judgebench.is_right(row["label"], decisions)
        else:
            assert judgebench.is_right(row["label"], decisions) == row["correct"], row


def test_judgebench_of_nothing_is_an_error() -> None:
    with pytest.raises(AssayError, match="no pairs"):
        judgebench.percent([])


# RMB


def won(rows: Sequence[dict[str, Any]]) -> Floats:
    return pairs.right([float(row["chosen"]) for row in rows], [float(row["rejected"]) for row in rows])


def parts_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {category: [row for row in rows if row["category"] == category] for category in {row["category"] for row in rows}}


def floated(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "winner": float(row["winner"]), "losers": numbers(row["losers"])} if "winner" in row else row for row in rows]


@pytest.mark.parametrize("name", RMB_CASES)
def test_rmb(name: str) -> None:
    case = RMB_CASES[name]
    accuracies = {}
    for goal, rows in (case["input"]["pairwise"] or {}).items():
        official = case["output"]["pairwise"][goal]
        ours = won(rows)
        assert ours.tolist() == official["correct"]
        accuracies[f"Pairwise {goal.capitalize()}"] = float(np.mean(ours))
        same(np.mean(ours), official["accuracy"])
        same(np.mean(ours), official["overall_accuracy"])
        assert {c: pytest.approx(float(np.mean(won(mine))), rel=1e-12) for c, mine in parts_of(rows).items()} == official["per_category"]
    for goal, rows in (case["input"]["best_of_n"] or {}).items():
        official = case["output"]["best_of_n"][goal]
        found = rmb.best_of_n(floated(rows))
        accuracies[f"BoN {goal.capitalize()}"] = found["bon_accuracy"]
        for figure in ("bon_accuracy", "bon_correct", "bon_total", "pair_accuracy_inside_bon"):
            same(found[figure], official[figure], figure)
        for category, mine in parts_of(floated(rows)).items():
            same(rmb.best_of_n(mine)["bon_accuracy"], official["per_category"][category], category)
    if "final" in case["output"]:
        final = case["output"]["final"]
        for figure, value in accuracies.items():
            same(value, final[figure], figure)
        same(rmb.final(accuracies), final["Accuracy Averaged from Four Sections"])


def rmb_items(case: dict[str, Any]) -> list[tuple[Item, list[float]]]:
    made = []
    for goal, rows in (case["input"]["pairwise"] or {}).items():
        made += [(item(f"p {goal} {i}", f"pairwise, {goal}", (1.0, 0.0)), [float(row["chosen"]), float(row["rejected"])]) for i, row in enumerate(rows)]
    for goal, rows in (case["input"]["best_of_n"] or {}).items():
        for i, row in enumerate(floated(rows)):
            assert not {"idx", "verdicts"} & set(row), "the suite has no such rows; write them out here"
            made.append((item(f"b {goal} {i}", f"best of n, {goal}", [1.0] + [0.0] * len(row["losers"])), [row["winner"], *row["losers"]]))
    return made


@pytest.mark.parametrize("name", RMB_CASES)
def test_rmb_as_a_suite(name: str) -> None:
    case = RMB_CASES[name]
    made = rmb_items(case)
    ours = measured("rmb", made)
    for goal, official in (case["output"].get("pairwise") or {}).items():
        same(ours[f"pairwise, {goal}"], official["accuracy"], goal)
    for goal, official in case["output"]["best_of_n"].items():
        same(ours[f"best of n, {goal}"], official["bon_accuracy"], goal)
    missing = RULES["rmb"].warnings(Suite("rmb", "rmb", [one for one, _ in made]))
    if "final" in case["output"]:
        for theirs, mine in FINAL_NAMES.items():
            same(ours[mine], case["output"]["final"][theirs], theirs)
        same(ours["overall"], case["output"]["final"]["Accuracy Averaged from Four Sections"])
        assert not missing
    else:
        assert "RMB has no items of" in missing[0]


def test_rmb_ranks() -> None:
    given = {name: row["ACC"] for name, row in RMB["rm_rank"]["input"].items()}
    assert rmb.rank(given) == {name: row["rank"] for name, row in RMB["rm_rank"]["output"].items()}
    assert list(rmb.rank(given)) == list(RMB["rm_rank"]["output"])


def test_rmb_rows_of_one_item_and_verdicts() -> None:
    """The documented rules for which the golden file has no case: rows of equal ``idx`` are one item, half a verdict is no win, and an item without losers does not count."""
    rows = [{"idx": 0, "winner": 2.0, "losers": [1.0]}, {"idx": 0, "winner": 2.0, "losers": [3.0]}, {"idx": 1, "winner": 2.0, "losers": [1.0]}, {"idx": 2, "winner": 1.0, "losers": []}]
    assert rmb.best_of_n(rows) == {"bon_accuracy": 0.5, "bon_correct": 1, "bon_total": 2, "pair_accuracy_inside_bon": pytest.approx(2 / 3)}
    judged = rmb.best_of_n([{"verdicts": [1, 1]}, {"verdicts": [1, 0.5]}])
    assert judged == {"bon_accuracy": 0.5, "bon_correct": 1, "bon_total": 2, "pair_accuracy_inside_bon": 0.75}
    assert math.isnan(rmb.best_of_n([])["bon_accuracy"])
