"""Balance: afterwards neither direction is the commoner, and those that stay are spread over all sizes of the difference."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assay.curate.runner import curate
from assay.curate.steps import agree, balance
from assay.errors import AssayError
from assay.pairs.schema import from_rows
from conftest import pair

from .conftest import Outcome, Rows, judged


def sized(differences: list[tuple[str, int]]) -> Rows:
    """Rows of a category whose chosen answer is so many characters longer than the rejected one."""
    return [pair(f"question {i}", "x" * (100 + d), "y" * 100, tag=str(i), category=c, source=c + "!", lead=float(d)) for i, (c, d) in enumerate(differences)]


def directions(rows: list[dict[str, Any]], key: str) -> dict[Any, tuple[int, int, int]]:
    """By group: rows whose chosen answer has more, has less, has as much."""
    counted: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        counted[row[key] if key != "all" else 0][0 if row["lead"] > 0 else 1 if row["lead"] < 0 else 2] += 1
    return {k: (v[0], v[1], v[2]) for k, v in counted.items()}


DIFFERENCES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-60, 60)), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(differences=DIFFERENCES, per=st.sampled_from(["category", "source", "all"]), by=st.sampled_from(["length", "lead"]))
def test_both_directions_are_equal_and_ties_untouched(differences: list[tuple[str, int]], per: Any, by: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = sized(differences)
    table = judged(rows, balance.Config(by=by, per=per), tmp_path_factory.mktemp("b"))
    stays = [row for row in table.iter_rows(named=True) if row["keep"] is not False]
    before, after = directions(rows, per), directions(stays, per)
    for group, (up, down, ties) in before.items():
        less = min(up, down)
        assert after.get(group, (0, 0, 0)) == (less, less, ties)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(up=st.integers(0, 30), down=st.integers(0, 30), allow=st.sampled_from([0.5, 0.6, 0.75, 0.9, 1.0]))
def test_allow_is_the_greatest_share_of_the_commoner(up: int, down: int, allow: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = sized([("a", i + 1) for i in range(up)] + [("a", -i - 1) for i in range(down)] + [("a", 0)])
    table = judged(rows, balance.Config(allow=allow), tmp_path_factory.mktemp("b"))
    ((left, right, ties),) = directions([row for row in table.iter_rows(named=True) if row["keep"] is not False], "category").values()
    less, more = min(up, down), max(up, down)
    most = more if allow == 1 else min(more, int(less * allow / (1 - allow) + 1e-6))
    assert (min(left, right), max(left, right), ties) == (less, most, 1)


def test_those_that_stay_are_spread_over_the_sizes(tmp_path: Path) -> None:
    rows = sized([("a", d) for d in range(1, 91)] + [("a", -d) for d in range(1, 91, 3)])
    outcome = Outcome(curate(from_rows(rows), [balance.Config(by="lead")], tmp_path / "c"))
    up = sorted(row["lead"] for row in outcome.rows.values() if row["lead"] > 0)
    assert len(up) == 30
    for third in range(3):
        assert sum(third * 30 < d <= (third + 1) * 30 for d in up) == 10


def test_markdown(tmp_path: Path) -> None:
    marked = "# Head\n\n- one\n- two\n\n**bold**"
    texts = [(marked, "plain"), (marked, "plain words"), ("plain", marked), (marked, marked), ("plain", "bare"), ("- one item", "plain")]
    rows = [pair(f"q{i}", a, b, tag=str(i)) for i, (a, b) in enumerate(texts)]
    outcome = Outcome(curate(from_rows(rows), [balance.Config(by="markdown")], tmp_path / "c"))
    assert {"2", "3", "4"} <= outcome.kept
    assert len(outcome.kept & {"0", "1", "5"}) == 1
    assert all("3 of 4 differences in (none) point this way, 1 stay" in outcome.reason(tag) for tag in outcome.gone)
    assert all(outcome.gone[tag]["score"] > 0 for tag in outcome.gone)


def test_a_numeric_column_and_rows_without_a_value(tmp_path: Path) -> None:
    rows = [{**row, "lead": lead} for row, lead in zip(sized([("a", 1)] * 5), [1.0, 2.0, -1.0, None, 0.0], strict=True)]
    outcome = Outcome(curate(from_rows(rows), [balance.Config(by="lead")], tmp_path / "c"))
    assert {"2", "3", "4"} <= outcome.kept
    assert len(outcome.gone) == 1


def test_length_bias_goes(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = sized([(rng.choice("abc"), rng.randint(-20, 60)) for _ in range(300)])
    account = curate(from_rows(rows), [balance.Config()], tmp_path / "c").manifest["accounts"][0]
    assert account["before"]["chosen_longer"] > 0.7
    assert account["after"]["chosen_longer"] == 0.5


def test_equal_lengths_with_other_texts_are_ties(tmp_path: Path) -> None:
    outcome = Outcome(curate(from_rows(sized([("a", 0), ("a", 0), ("a", 7)])), [balance.Config()], tmp_path / "c"))
    assert outcome.kept == {"0", "1"}


def test_a_column_of_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="step `balance`: the column `tag` holds String, expected numbers"):
        curate(from_rows(sized([("a", 1)])), [balance.Config(by="tag")], tmp_path / "c")


@pytest.mark.parametrize("allow", [-1.0, 0.2, 1.5, float("nan")])
def test_a_share_below_a_half_or_above_one_is_refused(allow: float) -> None:
    with pytest.raises(ValidationError):
        balance.Config(allow=allow)


def test_a_column_speaks_of_the_sides_as_they_came(tmp_path: Path) -> None:
    rows = [pair(f"q{i}", "yes", "no", better=1.0 if i < 6 else -1.0, chosen_score=0.0, rejected_score=float(i in (0, 1))) for i in range(8)]
    turn = agree.Config(columns=("chosen_score", "rejected_score"), action="flip", margin=-0.5)
    done = curate(from_rows(rows), [turn, balance.Config(by="better")], tmp_path / "c")
    kept = done.kept()
    up = [b * (-1 if f else 1) > 0 for b, f in kept.select("better", pl.col("flipped").fill_null(False)).iter_rows()]
    assert (sum(up), len(up)) == (4, 8)
