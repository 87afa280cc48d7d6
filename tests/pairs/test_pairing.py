"""From rated answers to pairs: the rules against a slow twin, weights, scorers."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import AssayError
from assay.pairs.messages import Aside
from assay.pairs.pairing import Pairing
from assay.pairs.read import Reading, read
from assay.pipeline import read_stage
from assay.recipes.recipe import Source

RATINGS = st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 4.0]), min_size=1, max_size=6)


def twin(ratings: list[float], rule: str, min_gap: float) -> set[tuple[int, int]]:
    """Every pair the rule allows, by trying all."""
    every = {(i, j) for i, j in itertools.permutations(range(len(ratings)), 2) if ratings[i] > ratings[j] and ratings[i] - ratings[j] >= min_gap}
    best, worst = ratings.index(max(ratings)), ratings.index(min(ratings))
    return {"all": every, "best-rest": {p for p in every if p[0] == best}, "best-worst": every & {(best, worst)}}[rule]


@given(RATINGS, st.sampled_from(["all", "best-rest", "best-worst"]), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([None, 1, 2]))
def test_the_rules_are_those_of_the_slow_twin(ratings: list[float], rule: Any, min_gap: float, most: int | None) -> None:
    expected = twin(ratings, rule, min_gap)
    how = Pairing(rule=rule, min_gap=min_gap, per_prompt=most)
    if not expected:
        with pytest.raises(Aside):
            how.pairs(ratings)
        return
    found = how.pairs(ratings)
    gaps = [ratings[i] - ratings[j] for i, j in found]
    assert gaps == sorted(gaps, reverse=True)
    assert len(found) == len(expected) if most is None else len(found) == min(most, len(expected))
    assert set(found) <= expected
    assert sorted(gaps, reverse=True) == sorted((ratings[i] - ratings[j] for i, j in expected), reverse=True)[: len(gaps)]


def rated(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> Reading:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(tmp_path / "set.jsonl", **more)


def sides(reading: Reading) -> list[tuple[str, str, float]]:
    return [(c[0]["content"], r[0]["content"], m) for c, r, m in reading.pairs.select("chosen", "rejected", "margin").iter_rows()]


HELP = [{"prompt": "Hi?", "response": r, "helpfulness": h, "correctness": c} for r, h, c in (("one", 4, 0), ("two", 3, 4), ("three", 1, 1), ("four", 1, 0))]


def test_every_two_answers(tmp_path: Path) -> None:
    reading = rated(tmp_path, HELP, rule="all")
    assert sides(reading) == [("one", "three", 3.0), ("one", "four", 3.0), ("two", "three", 2.0), ("two", "four", 2.0), ("one", "two", 1.0)]
    assert (reading.rows_read, reading.rows_used, reading.aside) == (4, 4, [])


def test_the_best_and_the_rest_with_a_gap(tmp_path: Path) -> None:
    reading = rated(tmp_path, HELP, rule="best-rest", min_gap=2)
    assert sides(reading) == [("one", "three", 3.0), ("one", "four", 3.0)]
    assert [(row["row"], row["reason"]) for row in reading.aside] == [(2, "in no pair by the rule that pairs answers")]


def test_a_weighted_sum_of_ratings(tmp_path: Path) -> None:
    reading = rated(tmp_path, HELP, weights={"helpfulness": 0.5, "correctness": 1.0})
    assert sides(reading) == [("two", "four", 5.0)]
    assert rated(tmp_path, HELP, weights={"helpfulness": 1.0, "correctness": -1.0}, per_prompt=1).pairs["margin"][0] == 5.0
    with pytest.raises(AssayError, match="no rating `depth`"):
        rated(tmp_path, HELP, weights={"helpfulness": 1.0, "depth": 1.0})


def test_no_two_answers_far_enough_apart(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no two answers are rated 9 apart"):
        rated(tmp_path, HELP, min_gap=9)


ANSWERS = [{"prompt": "Hi?", "responses": ["aa", "a", "aaaa"]}, {"prompt": "No?", "responses": ["b"]}, {"prompt": "Same?", "responses": ["c", "d"]}]


def test_answers_that_a_scorer_rates(tmp_path: Path) -> None:
    reading = rated(tmp_path, ANSWERS, scorer="rule:length", rule="all")
    assert sides(reading) == [("aaaa", "a", 3.0), ("aaaa", "aa", 2.0), ("aa", "a", 1.0)]
    assert (reading.rows_read, reading.rows_used) == (3, 1)
    assert [(row["row"], row["reason"]) for row in reading.aside] == [(2, "only one answer to its prompt"), (3, "answers are rated equal")]


def test_answers_one_a_row_that_a_scorer_rates(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi?", "response": text} for text in ("a", "aaa", "aa")]
    assert sides(rated(tmp_path, rows, scorer="rule:length")) == [("aaa", "a", 2.0)]


def test_answers_without_a_scorer_are_set_aside_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"answers without ratings: name a scorer \(`scorer` of the source, --scorer\)"):
        rated(tmp_path, ANSWERS)


def test_a_recipe_says_the_same(tmp_path: Path) -> None:
    reading = rated(tmp_path, HELP, rule="all", min_gap=2.0)
    import polars as pl

    table = pl.read_parquet(read_stage([Source(path="set.jsonl", rule="all", min_gap=2.0)], tmp_path, tmp_path / "read"))
    assert table.equals(reading.pairs)


def test_sums_that_differ_by_rounding_alone_are_equal(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": text, "a": a, "b": b, "c": c} for text, a, b, c in (("one", 1, 1, 0), ("two", 0, 0, 1))]
    with pytest.raises(AssayError, match="answers are rated equal"):
        rated(tmp_path, rows, weights={"a": 0.1, "b": 0.2, "c": 0.3})


def test_a_gap_that_is_just_reached() -> None:
    assert Pairing(min_gap=0.5).pairs([4.1, 3.6]) == [(0, 1)]
    with pytest.raises(Aside, match="no two answers are rated 0.5 apart"):
        Pairing(min_gap=0.5).pairs([4.1, 3.601])


def test_a_prompt_without_an_answer_is_set_aside(tmp_path: Path) -> None:
    reading = rated(tmp_path, [*ANSWERS, {"prompt": "x", "responses": []}], scorer="rule:length")
    assert (4, "`responses` is empty") in [(row["row"], row["reason"]) for row in reading.aside]
