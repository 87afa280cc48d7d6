"""Rankings: every figure that the four tools returned for made-up runs (tests/golden/ranking.json), a few worked by hand, and what holds of any run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import AssayError
from assay.evaluate.ranking import CUTS, Run, beir, beir_own, ms_marco, ranx, trec, without_self
from assay.evaluate.ranking import means as mean_of

CASES = {case["name"]: case for case in json.loads((Path(__file__).parents[1] / "golden" / "ranking.json").read_text())["cases"]}
TIED = {"many_ties", "all_scores_equal", "two_way_tie_both_orders"}
"""Cases in which ranx orders documents of different grades by its own sort."""
OWN = {"mrr": "MRR", "recall_cap": "R_cap", "hole": "Hole", "top_k_accuracy": "Accuracy"}
RAISES = {"query_without_judgements": {"mrr": "'1002' of the run is not judged", "recall_cap": "'1002' of the run is not judged", "top_k_accuracy": "'1002' of the run is not judged"}, "no_relevant_documents": {"recall_cap": "'9002' has no relevant document"}}


def given_of(name: str) -> tuple[dict[str, dict[str, int]], dict[str, list[tuple[str, float]]]]:
    case = CASES[name]["input"]
    return case["qrels"], {query: [(document, float(score)) for document, score in found] for query, found in case["run"].items()}


def same(ours: Any, official: dict[str, float]) -> None:
    assert ours == pytest.approx(official, rel=1e-12, abs=0)


# what the tools returned


@pytest.mark.parametrize("name", CASES)
def test_pytrec_eval(name: str) -> None:
    qrels, run = given_of(name)
    official = CASES[name]["output"]["pytrec_eval"]
    each = trec(qrels, run, list(next(iter(official["per_query"].values()))))
    assert each.keys() == official["per_query"].keys()
    for query, values in official["per_query"].items():
        same(each[query], values)
    same(mean_of(trec(qrels, run, list(official["mean_over_returned_queries"]))), official["mean_over_returned_queries"])


@pytest.mark.parametrize("name", CASES)
def test_beir(name: str) -> None:
    qrels, run = given_of(name)
    official = CASES[name]["output"]["beir"]
    ours = beir(qrels, run)
    for metric, label in OWN.items():
        if metric in official:
            assert "error" in official[metric]
            with pytest.raises(AssayError, match=RAISES[name][metric]):
                beir_own(metric, qrels, run)
        else:
            found = beir_own(metric, qrels, run)
            assert set(found) == {f"{label}@{cut}" for cut in CUTS}
            ours |= found
    same(ours, {key: value for key, value in official.items() if key not in OWN})


def test_every_error_of_beir_is_looked_at() -> None:
    assert {name: {key for key in case["output"]["beir"] if key in OWN} for name, case in CASES.items() if OWN.keys() & case["output"]["beir"].keys()} == {name: set(those) for name, those in RAISES.items()}


@pytest.mark.parametrize("name", sorted(CASES.keys() - TIED))
def test_ranx(name: str) -> None:
    qrels, run = given_of(name)
    official = CASES[name]["output"]["ranx"]
    ours = ranx(qrels, run, list(official["mean"]))
    same(mean_of(ours), official["mean"])
    same({query: values["mrr@10"] for query, values in ours.items()}, official["per_query_mrr10"])
    same({query: values["ndcg@10"] for query, values in ours.items()}, official["per_query_ndcg10"])


@pytest.mark.parametrize("name", sorted(TIED))
def test_ranx_is_not_guessed_at_on_ties(name: str) -> None:
    with pytest.raises(AssayError, match="break the ties, or take `trec`"):
        ranx(*given_of(name), ["mrr@10"])


@pytest.mark.parametrize("name", CASES)
def test_ms_marco(name: str) -> None:
    same(ms_marco(*given_of(name)), CASES[name]["output"]["ms_marco"])


# by hand


def test_one_query_by_hand() -> None:
    qrels = {"q": {"a": 3, "b": 1, "c": 0, "d": 2, "e": -1}}
    run = {"q": [("c", 9.0), ("a", 8.0), ("x", 7.0), ("b", 6.0), ("e", 5.0)]}
    found = trec(qrels, run, ["recip_rank", "map", "ndcg", "ndcg_cut_2", "map_cut_2", "recall_4", "P_4", "P_10", "success_1", "success_2"])["q"]
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert found == pytest.approx({
        "recip_rank": 1 / 2,
        "map": (1 / 2 + 2 / 4) / 3,
        "ndcg": (3 / math.log2(3) + 1 / math.log2(5)) / best,
        "ndcg_cut_2": (3 / math.log2(3)) / (3 + 2 / math.log2(3)),
        "map_cut_2": 1 / 2 / 3,
        "recall_4": 2 / 3,
        "P_4": 2 / 4,
        "P_10": 2 / 10,
        "success_1": 0,
        "success_2": 1,
    })  # fmt: skip
    burges = ranx(qrels, run, ["ndcg_burges", "precision"])["q"]
    assert burges == pytest.approx({"ndcg_burges": (7 / math.log2(3) + 1 / math.log2(5)) / (7 + 3 / math.log2(3) + 1 / 2), "precision": 2 / 5})


def test_one_run_has_three_mrrs_at_10() -> None:
    qrels = {"q": {"10": 1}, "r": {"1": 1}}
    run = {"q": [("10", 1.0), ("9", 1.0)]}
    assert mean_of(trec(qrels, run, ["recip_rank"])) == {"recip_rank": 0.5}  # "9" is after "10" as text, and r is left out
    assert beir_own("mrr", qrels, run, [10]) == {"MRR@10": 0.5}  # rank 1, over two queries
    assert ms_marco(qrels, run) == {"MRR @10": 0.5, "QueriesRanked": 1}
    assert beir(qrels, run, [1])["NDCG@1"] == 0
    with pytest.raises(AssayError, match="break the ties"):
        ranx(qrels, run, ["mrr@10"])


def test_ties_that_cannot_matter_are_no_obstacle_to_ranx() -> None:
    run = {"q": [("a", 2.0), ("x", 1.0), ("y", 1.0), ("b", 1.0)]}
    assert ranx({"q": {"a": 1, "b": 0}}, run, ["mrr"]) == {"q": {"mrr": 1.0}}


def test_what_a_script_of_beir_sees_after_its_first_call() -> None:
    qrels, run = given_of("query_id_is_a_document_id")
    assert beir_own("mrr", qrels, run, [10]) == {"MRR@10": 1.0}
    assert beir_own("mrr", qrels, without_self(run), [10]) == {"MRR@10": 0.5}
    assert run["5"][0] == ("5", 3.0)  # ours is not edited


def test_a_hole_is_a_document_that_no_query_judges() -> None:
    qrels = {"q": {"a": 1}, "r": {"b": 0}}
    assert beir_own("hole", qrels, {"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)]}, [1, 3]) == {"Hole@1": 0.0, "Hole@3": round(1 / 3 / 2, 5)}


def test_scores_beyond_float32_are_ties_of_trec() -> None:
    assert trec({"q": {"a": 1}}, {"q": [("a", 1e300), ("b", 1e200)]}, ["recip_rank"]) == {"q": {"recip_rank": 0.5}}


# what cannot be measured


@pytest.mark.parametrize(
    ("measure", "says"),
    [
        ("ndcg_cut", "Did you mean `ndcg_cut_10`"),
        ("P_0", "no measure 'P_0'"),
        ("recip_rank_10", "no measure"),
        ("mrr@10", "Known, with any number: recip_rank"),
    ],
)
def test_trec_has_only_its_own_names(measure: str, says: str) -> None:
    with pytest.raises(AssayError, match=says):
        trec({"q": {"a": 1}}, {"q": [("a", 1.0)]}, [measure])


@pytest.mark.parametrize(("found", "says"), [([("a", math.nan)], "'a' has the score NaN"), ([("a", 1.0), ("a", 2.0)], "'a' is listed twice")])
def test_lists_that_have_no_order(found: list[tuple[str, float]], says: str) -> None:
    qrels, run = {"q": {"a": 1}}, {"q": found}
    for tool in (lambda: trec(qrels, run, ["map"]), lambda: beir(qrels, run), lambda: beir_own("mrr", qrels, run), lambda: ranx(qrels, run, ["map"]), lambda: ms_marco(qrels, run)):
        with pytest.raises(AssayError, match=says):
            tool()


def test_other_faults_are_said() -> None:
    qrels, run = {"q": {"a": 1}}, {"r": [("a", 1.0)]}
    with pytest.raises(AssayError, match="no query is both judged and run"):
        mean_of(trec(qrels, run, ["map"]))
    with pytest.raises(AssayError, match="no query is both judged and run"):
        ms_marco(qrels, run)
    with pytest.raises(AssayError, match="each must be 1 or more"):
        beir(qrels, run, [0])
    with pytest.raises(AssayError, match="each must be 1 or more"):
        beir_own("hole", qrels, run, [0])
    with pytest.raises(AssayError, match="Did you mean `recall_cap`"):
        beir_own("recall_cup", qrels, run)
    with pytest.raises(AssayError, match="Did you mean `hit_rate`"):
        ranx(qrels, run, ["hitrate"])
    with pytest.raises(AssayError, match="no query is judged"):
        ranx({}, run, ["map"])
    with pytest.raises(AssayError, match="no query is judged"):
        beir_own("hole", {}, run)


# what holds of any run

DOCUMENTS = [str(i) for i in range(12)]
JUDGED = st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1)
LISTS = st.dictionaries(st.sampled_from(DOCUMENTS), st.sampled_from([-1.5, 0.0, -0.0, 1.0, 1.0 + 1e-12, 2.0])).map(lambda found: list(found.items()))
ALL_TREC = ["recip_rank", "map", "ndcg", *(f"{family}_{cut}" for family in ("ndcg_cut", "map_cut", "recall", "P", "success") for cut in (1, 3, 10))]


@given(JUDGED, LISTS, st.randoms(use_true_random=False))
def test_trec_does_not_see_the_input_order(judged: dict[str, int], found: list[tuple[str, float]], random: Any) -> None:
    other = random.sample(found, len(found))
    assert trec({"q": judged}, {"q": found}, ALL_TREC) == trec({"q": judged}, {"q": other}, ALL_TREC)
    assert beir({"q": judged}, {"q": found}) == beir({"q": judged}, {"q": other})


@given(JUDGED, LISTS)
def test_bounds_and_what_grows_with_the_cut(judged: dict[str, int], found: list[tuple[str, float]]) -> None:
    values = trec({"q": judged}, {"q": found}, ALL_TREC)["q"]
    assert all(0 <= value <= 1 + 1e-12 for value in values.values())
    for family in ("map_cut", "recall", "success"):
        assert values[f"{family}_1"] <= values[f"{family}_3"] <= values[f"{family}_10"]
    own = {**beir_own("mrr", {"q": judged}, {"q": found}), **beir_own("hole", {"q": judged}, {"q": found})}
    assert all(0 <= value <= 1 for value in own.values())
    assert [own[f"MRR@{cut}"] for cut in CUTS] == sorted(own[f"MRR@{cut}"] for cut in CUTS)


@given(JUDGED)
def test_the_best_order_has_ndcg_1(judged: dict[str, int]) -> None:
    run: Run = {"q": [(document, float(grade)) for document, grade in judged.items()]}
    expected = float(any(grade > 0 for grade in judged.values()))
    assert trec({"q": judged}, run, ["ndcg", "ndcg_cut_3"])["q"] == pytest.approx({"ndcg": expected, "ndcg_cut_3": expected})


@given(JUDGED, LISTS)
def test_without_ties_the_tools_agree(judged: dict[str, int], found: list[tuple[str, float]]) -> None:
    run: Run = {"q": [(document, float(-rank)) for rank, (document, _) in enumerate(found)]}
    theirs = trec({"q": judged}, run, ["ndcg_cut_10", "map_cut_10", "recall_10", "P_10", "success_10"])["q"]
    ours = ranx({"q": judged}, run, ["ndcg@10", "map@10", "recall@10", "precision@10", "hit_rate@10", "mrr@10"])["q"]
    assert list(ours.values())[:5] == list(theirs.values())
    assert ms_marco({"q": judged}, run)["MRR @10"] == ours["mrr@10"]
    assert beir_own("mrr", {"q": judged}, run, [10])["MRR@10"] == round(ours["mrr@10"], 5)
