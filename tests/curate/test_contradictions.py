"""Contradictions and cycles, on planted comparisons and against a search through all ways."""

import itertools
import random
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.curate.steps import contradictions
from conftest import pair
from curate.conftest import Outcome, Rows, Run, hashes, judged, pooled

Config = contradictions.Config


def comparisons(*wins: str, prompt: str = "Which is best?", **more: str) -> Rows:
    """Rows tagged by who wins over whom: `AB` is A over B; a number after it tells copies apart."""
    return [pair(prompt, f"answer {win[0]}", f"answer {win[1]}", tag=win, **more) for win in wins]


def evidence(found: Outcome, tag: str) -> list[str]:
    """The rows of the cycle that a reason names, beginning with the row itself."""
    match = re.fullmatch(r"on a cycle of (\d+) rows with (.*)", found.reason(tag))
    assert match
    cycle = [tag, *(found.tags[id_] for id_ in match[2].split(", "))]
    assert len(cycle) == int(match[1])
    return cycle


# two


def test_both_sides_go_by_default(run: Run) -> None:
    found = run(comparisons("AB", "BA", "CD"), Config(cycles="drop"))
    assert found.kept == {"CD"}
    assert {tag: (found.reason(tag), found.twin(tag), found.gone[tag]["score"]) for tag in found.gone} == {
        "AB": ("1 of 2 rows say the opposite", "BA", 0.5),
        "BA": ("1 of 2 rows say the opposite", "AB", 0.5),
    }


@pytest.mark.parametrize(("rows", "kept"), [
    (["AB1", "AB2", "BA"], {"AB1", "AB2"}), (["AB", "BA1", "BA2"], {"BA1", "BA2"}), (["AB1", "AB2", "BA1", "BA2"], set()), (["AB1", "AB2", "AB3", "BA1", "BA2"], {"AB1", "AB2", "AB3"}),
])  # fmt: skip
def test_the_majority_stays(run: Run, rows: list[str], kept: set[str]) -> None:
    assert run(comparisons(*rows), Config(resolve="majority", cycles="drop")).kept == kept
    assert run(comparisons(*rows), Config(cycles="drop")).kept == set()


@pytest.mark.parametrize("config", [Config(cycles="drop"), Config(cycles="ignore"), Config(resolve="majority", cycles="drop")])
def test_the_same_answer_on_both_sides_is_no_contradiction(run: Run, config: Config) -> None:
    assert run(comparisons("AA", "AA2", "AB"), config).gone == {}


# more than two


@pytest.mark.parametrize("cycle", ["ABC", "ABCD", "ABCDEF"])
def test_every_row_of_a_cycle_goes_with_the_whole_of_it(run: Run, cycle: str) -> None:
    wins = [a + b for a, b in zip(cycle, cycle[1:] + cycle[0], strict=True)]
    found = run(comparisons(*wins), Config(cycles="drop"))
    assert found.kept == set()
    for i, tag in enumerate(wins):
        assert evidence(found, tag) == wins[i:] + wins[:i]
        assert found.twin(tag) == wins[(i + 1) % len(wins)]
        assert found.gone[tag]["score"] == pytest.approx(1 / len(cycle))
    assert run(comparisons(*wins), Config(cycles="ignore")).gone == {}
    assert run(comparisons(*wins), Config(resolve="majority", cycles="drop")).kept == set()


def test_rows_that_hang_on_a_cycle_stay(run: Run) -> None:
    """Into it, out of it, between two of them, and beside them."""
    one, other = ["AB", "BC", "CA"], ["XY", "YZ", "ZX"]
    found = run(comparisons(*one, *other, "PA", "CQ", "AX", "QR", "PQ", "MN"), Config(cycles="drop"))
    assert set(found.gone) == {*one, *other}
    assert {len(evidence(found, tag)) for tag in found.gone} == {3}


def test_the_shortest_cycle_is_the_evidence(run: Run) -> None:
    found = run(comparisons("AB", "BC", "CD", "DE", "EA", "CA"), Config(cycles="drop"))
    assert found.kept == set()
    assert {tag: len(evidence(found, tag)) for tag in found.gone} == {"AB": 3, "BC": 3, "CA": 3, "CD": 5, "DE": 5, "EA": 5}


def test_all_rows_that_say_the_same_on_a_cycle_go(run: Run) -> None:
    found = run(comparisons("AB1", "AB2", "AB3", "BC", "CA"), Config(cycles="drop"))
    assert found.kept == set()
    for tag in ("AB1", "AB2", "AB3"):
        assert evidence(found, tag) == [tag, "BC", "CA"]


def test_other_prompts_are_no_cycle(run: Run) -> None:
    rows = [*comparisons("AB", "BC"), *comparisons("CA", prompt="Which is worst?"), *comparisons("BA", prompt="Another?")]
    assert run(rows, Config(cycles="drop")).gone == {}
    again = [{**row, "tag": f"again {row['tag']}"} for row in comparisons("CA", prompt=" which IS best? ")]
    assert run([*rows, *again], Config(cycles="drop")).kept == {"CA", "BA"}


def test_two_rows_that_oppose_each_other_are_told_as_that(run: Run) -> None:
    found = run(comparisons("AB", "BA", "BC", "CA"), Config(cycles="drop"))
    assert found.kept == {"BC", "CA"}
    assert {found.reason(tag) for tag in found.gone} == {"1 of 2 rows say the opposite"}


def test_a_cycle_that_the_majority_leaves_is_found(run: Run) -> None:
    found = run(comparisons("AB1", "AB2", "BA", "BC", "CA"), Config(resolve="majority", cycles="drop"))
    assert found.kept == set()
    assert found.reason("BA") == "2 of 3 rows say the opposite"
    assert evidence(found, "BC")[0] == "BC"
    assert evidence(found, "AB1") == ["AB1", "BC", "CA"]
    assert run(comparisons("AB1", "AB2", "BA", "BC", "CA"), Config(resolve="majority", cycles="ignore")).kept == {"AB1", "AB2", "BC", "CA"}


def test_only_some_sources_make_a_cycle(run: Run) -> None:
    rows = [*comparisons("AB", "BC", source="a"), *comparisons("CA", source="b")]
    assert run(rows, Config(only=["a"], cycles="drop")).gone == {}
    assert len(run(rows, Config(only=["a", "b"], cycles="drop")).gone) == 3


def test_order_and_shards_change_nothing() -> None:
    rng = random.Random(0)
    rows = [row for p in range(12) for row in comparisons(*("".join(rng.sample("ABCDE", 2)) for _ in range(7)), prompt=f"question {p}")]
    for config in (Config(cycles="drop"), Config(resolve="majority", cycles="drop")):
        expected = hashes(rows, [config])
        for shards in (1, 6):
            rng.shuffle(rows)
            assert hashes(rows, [config], shards=shards) == expected


# against the slow twin


def on_a_cycle(wins: list[tuple[int, int]]) -> set[int]:
    """Which comparisons can be gone round from: by trying all ways."""

    def reaches(here: int, goal: int, seen: frozenset[int]) -> bool:
        return here == goal or any(reaches(b, goal, seen | {here}) for a, b in wins if a == here and b not in seen)

    return {i for i, (a, b) in enumerate(wins) if a != b and reaches(b, a, frozenset())}


WINS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14)


@settings(deadline=None, max_examples=25)
@given(WINS)
@example([(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)])
@example([(0, 1), (1, 0), (1, 2), (2, 0), (0, 0)])
def test_a_row_goes_if_and_only_if_it_is_on_a_cycle(wins: list[tuple[int, int]]) -> None:
    """With `drop`, rows on a cycle of two go first, and what is left is searched for longer ones."""
    opposed = {i for i, (a, b) in enumerate(wins) if a != b and (b, a) in wins}
    rest = [i for i in range(len(wins)) if i not in opposed]
    cyclic = {rest[i] for i in on_a_cycle([wins[i] for i in rest])}
    rows = [pair("which?", f"answer {a}", f"answer {b}", n=i) for i, (a, b) in enumerate(wins)] + [pair("else?", "y", "n", n=-1)]
    with tempfile.TemporaryDirectory() as folder:
        said = judged(rows, Config(cycles="drop"), Path(folder))
    assert {n for n, keep in said.select("n", "keep").iter_rows() if keep is False} == opposed | cyclic
    assert all(reason.startswith("on a cycle of") == (n in cyclic) for n, reason in said.select("n", "reason").iter_rows() if reason)


@pytest.mark.parametrize("seed", range(6))
def test_tournaments(seed: int, tmp_path: Path) -> None:
    """Everyone against everyone, several prompts at a time; the evidence is a cycle indeed."""
    rng = random.Random(seed)
    games = {p: [(a, b) if rng.random() < rng.choice([0.5, 0.9]) else (b, a) for a, b in itertools.combinations(range(6), 2)] for p in range(5)}
    rows = [pair(f"prompt {p}", f"answer {a}", f"answer {b}", at=f"{p} {i}") for p, wins in games.items() for i, (a, b) in enumerate(wins)]
    context = pooled(rows, tmp_path, shards=3)
    said = contradictions.judge(context.alive, Config(cycles="drop"), context).collect()
    table = context.texts(context.alive).join(said, on="row", how="left")
    expected = {f"{p} {i}" for p, wins in games.items() for i in on_a_cycle(wins)}
    assert set(table.filter(~table["keep"])["at"]) == expected
    at_id = {row["id"]: row for row in table.iter_rows(named=True)}
    for row in table.filter(~table["keep"]).iter_rows(named=True):
        ids = [row["id"], *re.findall(r"[0-9a-f]{32}", row["reason"])]
        cycle = [at_id[i] for i in ids]
        assert row["because_of"] == ids[1]
        assert len({r["prompt"][0]["content"] for r in cycle}) == 1
        for one, following in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            assert one["rejected"] == following["chosen"]


def test_by_default_a_cycle_is_named_and_stays(run: Run) -> None:
    found = run(comparisons("AB", "BC", "CA"), Config())
    assert found.gone == {}
    assert all(line["reason"].startswith("on a cycle of 3 rows with ") and line["keep"] for line in found.verdicts().values())
    assert len(found.verdicts()) == 3
