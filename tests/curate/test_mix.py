"""Mix: exact sizes by largest remainder, what small sources cannot give, and draws that follow from the ids and the seed."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.curate.runner import curate
from assay.curate.steps import filter, mix
from assay.errors import AssayError
from assay.pairs.schema import from_rows
from conftest import pair

from .conftest import Outcome, Rows


def rows_of(sizes: dict[str, int]) -> Rows:
    return [pair(f"{source} {i}", "yes", "no", source=source, tag=f"{source}{i}", score=float(i * 37 % 101)) for source, n in sizes.items() for i in range(n)]


def done(sizes: dict[str, int], config: mix.Config, folder: Path, **more: Any) -> Outcome:
    return Outcome(curate(from_rows(rows_of(sizes)), [config], folder, **more))


def taken(outcome: Outcome) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in outcome.rows.values():
        counts[row["source"]] = counts.get(row["source"], 0) + 1
    return counts


def slow_shares(there: dict[str, int], weights: dict[str, int], size: int) -> dict[str, int]:
    """Largest remainder with exact fractions; what a full source cannot take goes round again among the others."""
    counts = dict.fromkeys(there, 0)
    weight = {name: weights.get(name, 1) for name in there}
    while True:
        hungry = [n for n in sorted(there) if weight[n] > 0 and counts[n] < there[n]]
        left = size - sum(counts.values())
        if not hungry or left <= 0:
            return counts
        exact = {n: Fraction(left * weight[n], sum(weight[m] for m in hungry)) for n in hungry}
        given = {n: int(x) for n, x in exact.items()}
        while sum(given.values()) < min(left, size):
            given[max(hungry, key=lambda n: (exact[n] - given[n], [-ord(c) for c in n]))] += 1
        for n in hungry:
            counts[n] = min(there[n], counts[n] + given[n])


SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1)
WEIGHTS = st.dictionaries(st.sampled_from("abcdefz"), st.integers(0, 9))


@example({"a": 3, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, {"a": 8, "b": 0, "c": 3}, 4)
@given(SIZES, WEIGHTS, st.integers(1, 150))
def test_counts_are_those_of_largest_remainder(there: dict[str, int], weights: dict[str, int], size: int) -> None:
    got = mix.shares(there, {n: float(w) for n, w in weights.items()}, size)
    can = sum(n for name, n in there.items() if weights.get(name, 1) > 0)
    assert sum(got.values()) == min(size, can)
    assert all(0 <= got[n] <= there[n] for n in there)
    assert all(got[n] == 0 for n in there if weights.get(n, 1) == 0)
    assert got == slow_shares(there, weights, size)


@pytest.mark.parametrize(("sizes", "weights", "size", "counts"), [
    ({"a": 100, "b": 100}, {}, 10, {"a": 5, "b": 5}),
    ({"a": 90, "b": 30}, {}, 12, {"a": 9, "b": 3}),
    ({"a": 90, "b": 30}, {"a": 1, "b": 1}, 12, {"a": 6, "b": 6}),
    ({"a": 90, "b": 30}, {"a": 3}, 12, {"a": 9, "b": 3}),
    ({"a": 90, "b": 3, "c": 90}, {"a": 1, "b": 1, "c": 1}, 30, {"a": 14, "b": 3, "c": 13}),
    ({"a": 9, "b": 3, "c": 90}, {"a": 1, "b": 1, "c": 1}, 60, {"a": 9, "b": 3, "c": 48}),
    ({"a": 9, "b": 9}, {"a": 0, "b": 1}, 12, {"b": 9}),
    ({"a": 9, "b": 9}, {}, 100, {"a": 9, "b": 9}),
    ({"a": 10, "b": 10, "c": 10}, {"a": 1, "b": 1, "c": 1}, 10, {"a": 4, "b": 3, "c": 3}),
])  # fmt: skip
def test_sizes_are_exact(sizes: dict[str, int], weights: dict[str, float], size: int, counts: dict[str, int], tmp_path: Path) -> None:
    outcome = done(sizes, mix.Config(size=size, weights=weights), tmp_path / "c")
    assert taken(outcome) == counts
    notes = outcome.notes[0]
    assert notes["there"] == sizes
    assert {n: c for n, c in notes["taken"].items() if c} == counts


def test_a_larger_size_holds_the_smaller_set(tmp_path: Path) -> None:
    kept = [done({"a": 40, "b": 60}, mix.Config(size=size, weights={"a": 1, "b": 2}), tmp_path / f"c{size}").kept for size in (3, 12, 48, 90)]
    for smaller, larger in itertools.pairwise(kept):
        assert smaller < larger


def test_the_seed_draws_and_the_order_of_the_rows_does_not(tmp_path: Path) -> None:
    sizes = {"a": 50, "b": 50}
    one, two, other = (done(dict(items), mix.Config(size=20, seed=seed), tmp_path / f"c{i}", shards=1 + i).kept for i, (items, seed) in enumerate([(sizes.items(), 0), (list(sizes.items())[::-1], 0), (sizes.items(), 1)]))
    assert one == two
    assert one != other
    assert len(one & other) < 16


def test_a_draw_of_one_source_does_not_depend_on_the_others(tmp_path: Path) -> None:
    alone = done({"a": 50}, mix.Config(size=10), tmp_path / "c1").kept
    beside = done({"a": 50, "b": 50}, mix.Config(size=20), tmp_path / "c2").kept
    assert {t for t in beside if t[0] == "a"} == alone


def test_by_takes_the_highest(tmp_path: Path) -> None:
    sizes = {"a": 30, "b": 20}
    kept = done(sizes, mix.Config(size=10, by="score", weights={"a": 1, "b": 1}), tmp_path / "c").kept
    want = {t["tag"] for s in sizes for t in sorted((r for r in rows_of(sizes) if r["source"] == s), key=lambda r: -r["score"])[:5]}
    assert kept == want


def test_rows_without_a_value_are_taken_last(tmp_path: Path) -> None:
    rows = [{**row, "score": None if i < 5 else row["score"]} for i, row in enumerate(rows_of({"a": 10}))]
    outcome = Outcome(curate(from_rows(rows), [mix.Config(size=6, by="score")], tmp_path / "c"))
    assert {f"a{i}" for i in range(5, 10)} < outcome.kept


def test_the_reason_tells_the_place(tmp_path: Path) -> None:
    outcome = done({"a": 4}, mix.Config(size=3, by="score"), tmp_path / "c")
    (gone,) = outcome.gone
    assert outcome.reason(gone) == "place 4 of a, 3 are taken"


def test_a_weight_of_a_source_that_no_row_has_is_a_slip(tmp_path: Path) -> None:
    """As with ``only``: silently ignored it would change the mix."""
    with pytest.raises(AssayError, match="alpha"):
        done({"alpha": 4, "beta": 4}, mix.Config(size=3, weights={"alpah": 9}), tmp_path / "c")


@pytest.mark.parametrize("more", [{"seed": -1}, {"weights": {"a": float("inf")}}, {"weights": {"a": -1.0}}])
def test_seeds_and_weights_that_mean_nothing_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        mix.Config(size=1, **more)


def test_a_source_that_steps_before_emptied_gives_nothing(tmp_path: Path) -> None:
    rows = [pair(f"q{i}", "yes", "no", source="ab"[i % 2], score=float(i % 2)) for i in range(8)]
    done = curate(from_rows(rows), [filter.Config(column="score", values=[0]), mix.Config(size=3, weights={"a": 1.0, "b": 5.0})], tmp_path / "c")
    assert done.kept()["source"].to_list() == ["a"] * 3
