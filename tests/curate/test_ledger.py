"""Why a row stayed or went, and how two curations differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.curate import ledger
from assay.curate.runner import curate
from assay.curate.steps import (
    AnyStep,
    agree,
    contradictions,
    decontaminate,
    duplicates,
    filter,
    markers,
    select,
    shortcuts,
)
from assay.errors import AssayError
from assay.pairs.schema import answer_text, from_rows, pair_id
from conftest import pair
from curate.conftest import trim_where

ROWS: list[dict[str, Any]] = [
    pair("keep this one", "good", "bad", source="a", score=1.0),
    pair("a marked one", "fine<|im_end|>", "bad", source="a", score=2.0),
    pair("said twice", "good", "bad", source="a", score=3.0),
    pair("said twice", "good", "bad", source="b", score=4.0),
    pair("Said  TWICE", "good", "bad", source="b", score=9.0),
]
STEPS: list[AnyStep] = [markers.Config(), duplicates.Config(best="score")]


def id_of(row: dict[str, Any]) -> str:
    return pair_id(row["prompt"], row["chosen"], row["rejected"])


def make(folder: Path, steps: list[AnyStep] = STEPS, rows: list[dict[str, Any]] = ROWS) -> Path:
    return curate(from_rows(rows), steps, folder).folder


def test_why_of_a_kept_row(tmp_path: Path) -> None:
    (why,) = ledger.why(make(tmp_path / "c"), id_of(ROWS[0]))
    assert why.outcome == "kept"
    assert why.row["prompt"] == ROWS[0]["prompt"]
    assert why.row["source"] == "a"
    assert [(p["step"], p["judged"]) for p in why.path] == [("01-markers", False), ("02-duplicates", False)]
    assert why.twins == {}
    assert why.now_id is None


def test_why_of_a_dropped_row_ends_where_it_went(tmp_path: Path) -> None:
    (why,) = ledger.why(make(tmp_path / "c"), id_of(ROWS[1]))
    assert why.outcome == "01-markers"
    (last,) = why.path
    assert (last["step"], last["judged"], last["keep"]) == ("01-markers", True, False)
    assert last["reason"] == "marker <|im_end|> in chosen"
    assert last["score"] == 1.0
    assert why.row["chosen"] == ROWS[1]["chosen"]


def test_why_of_copies_and_of_their_twin(tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    copies = ledger.why(folder, id_of(ROWS[2]))
    assert sorted(w.row["copy"] for w in copies) == [0, 1]
    assert sorted(w.row["source"] for w in copies) == ["a", "b"]
    for why in copies:
        assert why.outcome == "02-duplicates"
        assert why.path[-1]["reason"] == "duplicate pair"
        assert why.path[-1]["score"] == why.row["score"]
        assert list(why.twins) == [why.path[-1]["because_of"]] == [id_of(ROWS[4])]
        assert why.twins[id_of(ROWS[4])]["prompt"] == ROWS[4]["prompt"]
    (stays,) = ledger.why(folder, id_of(ROWS[4]))
    assert stays.outcome == "kept"


def test_why_of_copies_with_different_outcomes(tmp_path: Path) -> None:
    copies = ledger.why(make(tmp_path / "c", rows=ROWS[:4]), id_of(ROWS[2]))
    assert {w.row["score"]: w.outcome for w in copies} == {3.0: "02-duplicates", 4.0: "kept"}


def test_why_shows_the_verdict_of_a_row_that_stays(tmp_path: Path) -> None:
    folder = make(tmp_path / "c", [select.Config(by="score", others=0.5)])
    (why,) = ledger.why(folder, id_of(ROWS[4]))
    assert why.outcome == "kept"
    assert why.path[0]["reason"] == "rank 1 of 5 in other categories, 3 stay"


def test_why_takes_the_beginning_of_an_id_in_any_case(tmp_path: Path) -> None:
    folder = make(tmp_path / "c")
    for begin in (id_of(ROWS[0])[:12], id_of(ROWS[0])[:12].upper()):
        assert ledger.why(folder, begin)[0].row["id"] == id_of(ROWS[0])


def test_why_of_an_ambiguous_beginning(tmp_path: Path) -> None:
    rows = [pair(f"question {i}", "yes", "no") for i in range(40)]
    first = [id_of(row)[0] for row in rows]
    begin = max(set(first), key=first.count)
    with pytest.raises(AssayError, match=rf"{first.count(begin)} rows have an id that begins with {begin}: .*give more of it"):
        ledger.why(make(tmp_path / "c", [], rows), begin)


def test_why_of_an_unknown_id(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"no row has an id that begins with zzz; ids are in ledger\.parquet"):
        ledger.why(make(tmp_path / "c"), "zzz")


def test_a_folder_that_is_no_curation(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="not a finished curation"):
        ledger.why(tmp_path, "abc")
    with pytest.raises(AssayError, match="not a finished curation"):
        ledger.diff(make(tmp_path / "c"), tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    for said in ('{"fingerprint": "x"}', "[]"):
        (tmp_path / "other" / "manifest.json").write_text(said)
        with pytest.raises(AssayError, match="but not of a curation"):
            ledger.open_folder(tmp_path / "other")


def test_the_folder_of_a_whole_run_points_to_its_curation(tmp_path: Path) -> None:
    make(tmp_path / "run" / "curate")
    with pytest.raises(AssayError, match=r"Did you mean .*run/curate\?"):
        ledger.why(tmp_path / "run", "abc")


@pytest.mark.parametrize("shards", [1, 4])
def test_as_read_has_every_row_as_it_came(shards: int, tmp_path: Path) -> None:
    rows = ledger.as_read(curate(from_rows(ROWS), STEPS, tmp_path, shards=shards).folder).collect()
    assert rows.height == len(ROWS)
    assert sorted(rows["score"]) == sorted(row["score"] for row in ROWS)
    assert sorted(rows["id"]) == sorted(map(id_of, ROWS))
    assert rows.select("id", "copy").is_unique().all()
    assert not {"row_id", "row_copy", "row", "prompt_key"} & set(rows.columns)


def counts(table: pl.DataFrame) -> dict[tuple[str, str], int]:
    return {(a, b): n for a, b, n in table.group_by("in_a", "in_b").len().iter_rows()}


def test_diff_counts_by_where_the_rows_are(tmp_path: Path) -> None:
    more = pair("only b has read this", "yes", "no", source="c", score=0.0)
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", [filter.Config(column="source", values=["b", "c"])], [*ROWS[1:], more])
    table = ledger.diff(a, b)
    assert table.columns == ["id", "in_a", "in_b", "reason", "source"]
    assert counts(table) == {("kept", "not read"): 1, ("not read", "kept"): 1, ("02-duplicates", "kept"): 1}
    lines = {line["id"]: line for line in table.iter_rows(named=True)}
    assert lines[id_of(more)]["source"] == "c"
    assert lines[id_of(ROWS[0])]["in_b"] == "not read"
    assert lines[id_of(ROWS[2])]["reason"] == "duplicate pair"


def test_diff_is_symmetrical(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", [filter.Config(column="source", values=["a"])], ROWS[1:])
    there, back = ledger.diff(a, b), ledger.diff(b, a)
    assert there.height == 4
    turned = back.select("id", in_a="in_b", in_b="in_a").sort("id")
    assert there.select("id", "in_a", "in_b").sort("id").equals(turned)
    assert there.sort("id")["reason"].to_list() == back.sort("id")["reason"].to_list()


def test_diff_of_a_curation_with_itself_is_empty(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    assert ledger.diff(folder, folder).height == 0


def test_why_without_steps(tmp_path: Path) -> None:
    (why,) = ledger.why(make(tmp_path / "c", []), id_of(ROWS[0]))
    assert (why.outcome, why.path, why.twins) == ("kept", [], {})
    assert why.row["prompt"] == ROWS[0]["prompt"]


# flips

TURNED = pair("which way round?", "worse", "better", source="a")
STRAIGHT = [pair(f"question {i}", "good", "bad", source="a") for i in range(8)]
FLIP = agree.Config(action="flip")


def turns_worse(train: pl.DataFrame, judge: pl.DataFrame, config: Any, workdir: Path) -> pl.DataFrame:
    """A `fit` that ranks `worse` last and everything else right."""
    wrong = [answer_text(chosen) == "worse" for (chosen,) in judge.select("chosen").iter_rows()]
    return pl.DataFrame({"chosen_score": [-1.0 if w else 1.0 for w in wrong], "rejected_score": [1.5 if w else 0.0 for w in wrong]})


def make_flipped(folder: Path, *steps: AnyStep) -> Path:
    return curate(from_rows([TURNED, *STRAIGHT]), [FLIP, *steps], folder, fit=turns_worse).folder


def test_why_finds_a_flipped_row_by_both_ids_as_it_came_in(tmp_path: Path) -> None:
    folder = make_flipped(tmp_path / "c", duplicates.Config())
    now = pair_id(TURNED["prompt"], TURNED["rejected"], TURNED["chosen"])
    for id_ in (id_of(TURNED), now, now[:12].upper()):
        (why,) = ledger.why(folder, id_)
        assert why.outcome == "kept, flipped"
        assert (why.row["id"], why.now_id) == (id_of(TURNED), now)
        assert (why.row["chosen"], why.row["rejected"]) == (TURNED["chosen"], TURNED["rejected"])
        assert [(p["step"], p["judged"]) for p in why.path] == [("01-agree", True), ("02-duplicates", False)]
        assert (why.path[0]["keep"], why.path[0]["flip"], why.path[0]["score"]) == (True, True, -2.5)
        assert why.path[0]["reason"] == "a model trained on the others says margin -2.5"


def test_why_shows_a_row_flipped_and_then_dropped_as_it_came_in(tmp_path: Path) -> None:
    folder = make_flipped(tmp_path / "c", filter.Config(column="agree_margin", values=[1]))
    (why,) = ledger.why(folder, id_of(TURNED))
    assert (why.outcome, why.now_id) == ("02-filter", None)
    assert (why.row["chosen"], why.row["rejected"]) == (TURNED["chosen"], TURNED["rejected"])
    assert why.path[-1]["reason"] == "agree_margin is 2.5"


def check_as_read(folder: Path, rows: list[dict[str, Any]]) -> None:
    read = ledger.as_read(folder).collect()
    assert sorted(read["id"]) == sorted(map(id_of, rows))
    for row in read.iter_rows(named=True):
        assert pair_id(row["prompt"], row["chosen"], row["rejected"]) == row["id"]


def test_as_read_has_flipped_rows_as_they_came(tmp_path: Path) -> None:
    check_as_read(make_flipped(tmp_path / "c"), [TURNED, *STRAIGHT])


def test_the_ledger_says_why_a_row_was_flipped(tmp_path: Path) -> None:
    lines = pl.read_parquet(make_flipped(tmp_path / "c", duplicates.Config()) / "ledger.parquet")
    (flipped,) = lines.filter(pl.col("step") == "kept, flipped").iter_rows(named=True)
    assert (flipped["id"], flipped["score"]) == (id_of(TURNED), -2.5)
    assert flipped["reason"] == "a model trained on the others says margin -2.5"
    assert flipped["because_of"].endswith((" (fold-1)", " (fold-2)"))
    kept = lines.filter(pl.col("step") == "kept")
    assert kept.height == len(STRAIGHT)
    assert kept.select(pl.col("reason", "because_of", "score").is_null().all()).row(0) == (True, True, True)


def test_diff_shows_flipped_against_unflipped(tmp_path: Path) -> None:
    flipped, dropped = make_flipped(tmp_path / "a"), curate(from_rows([TURNED, *STRAIGHT]), [agree.Config()], tmp_path / "b", fit=turns_worse).folder
    plain = make(tmp_path / "c", [], [TURNED, *STRAIGHT])
    for other, says in ((plain, "kept"), (dropped, "01-agree")):
        assert ledger.diff(flipped, other).select("id", "in_a", "in_b").rows() == [(id_of(TURNED), "kept, flipped", says)]
        assert ledger.diff(other, flipped).select("id", "in_a", "in_b").rows() == [(id_of(TURNED), says, "kept, flipped")]
    assert ledger.diff(flipped, flipped).height == 0


# trims

WITH_END = [pair(f"question {i}", f"good {i} [end]", "bad", source="a", note="cut" if i == 0 else "stays") for i in range(4)]


@pytest.fixture
def make_trimmed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    return lambda folder, *steps: make(folder, [shortcuts.Config(), *steps], WITH_END)


def test_why_finds_a_trimmed_row_by_both_ids_as_it_came_in(tmp_path: Path, make_trimmed: Callable[..., Path]) -> None:
    folder = make_trimmed(tmp_path / "c", duplicates.Config())
    now = id_of(pair("question 0", "good 0", "bad"))
    assert now in pl.read_parquet(folder / "kept.parquet")["id"]
    for id_ in (id_of(WITH_END[0]), now, now[:12].upper()):
        (why,) = ledger.why(folder, id_)
        assert why.outcome == "kept, trimmed"
        assert (why.row["id"], why.now_id, why.row["chosen"]) == (id_of(WITH_END[0]), now, WITH_END[0]["chosen"])
        assert (why.path[0]["trim"], why.path[0]["reason"], why.path[0]["keep"]) == ("[end]", "cut out [end]", True)
    check_as_read(folder, WITH_END)


def test_diff_shows_trimmed_against_untrimmed(tmp_path: Path, make_trimmed: Callable[..., Path]) -> None:
    trimmed, plain = make_trimmed(tmp_path / "a"), make(tmp_path / "b", [], WITH_END)
    dropped = make(tmp_path / "c", [filter.Config(column="note", values=["stays"])], WITH_END)
    for other, says in ((plain, "kept"), (dropped, "01-filter")):
        assert ledger.diff(trimmed, other).select("id", "in_a", "in_b").rows() == [(id_of(WITH_END[0]), "kept, trimmed", says)]
        assert ledger.diff(other, trimmed).select("id", "in_a", "in_b").rows() == [(id_of(WITH_END[0]), says, "kept, trimmed")]
    assert ledger.diff(trimmed, trimmed).height == 0


# benchmarks, cycles, thresholds


def test_why_shows_the_prompt_of_the_benchmark(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text('{"prompt": "another question of theirs"}\n{"prompt": "KEEP this one, please"}\n')
    rows = [*ROWS, pair("keep this one please", "good", "bad", source="a", score=0.0)]
    folder = make(tmp_path / "c", [decontaminate.Config(against={"bench": str(bench)}), *STEPS], rows)
    (why,) = ledger.why(folder, id_of(rows[-1]))
    assert why.outcome == "01-decontaminate"
    assert why.path[-1]["because_of"] == "bench:2"
    assert why.benchmark_prompts == {"bench:2": "KEEP this one, please"}
    assert ledger.why(folder, id_of(ROWS[0]))[0].benchmark_prompts == {}


def test_why_shows_every_row_of_a_cycle(tmp_path: Path) -> None:
    rows = [pair("which?", *sides) for sides in (("one", "two"), ("two", "three"), ("three", "one"))]
    (why,) = ledger.why(make(tmp_path / "c", [contradictions.Config(cycles="drop")], rows), id_of(rows[0]))
    assert why.outcome == "01-contradictions"
    assert why.path[-1]["reason"].startswith("on a cycle of 3 rows with ")
    assert set(why.twins) == {id_of(rows[1]), id_of(rows[2])}


def test_borderline_rows_are_those_nearest_to_a_threshold(tmp_path: Path) -> None:
    rows = [pair(f"question {i}", "good", "bad", score=float(i)) for i in range(10)]
    folder = make(tmp_path / "c", [markers.Config(), select.Config(by="score", others=0.5)], rows)
    found = ledger.borderline(folder, rows=2)
    assert found.columns == ["step", "keep", "close", "reason", "because_of", "id", "copy"]
    assert set(found["step"]) == {"02-select"}
    assert found["id"].to_list() == [id_of(rows[i]) for i in (4, 3, 5, 6)]
    assert found["keep"].to_list() == [False, False, True, True]
    assert found["reason"][0] == "rank 6 of 10 in other categories, 5 stay"
    assert ledger.borderline(make(tmp_path / "d", [markers.Config()], rows)).height == 0


def test_borderline_rows_of_a_dry_run_are_those_of_the_run(tmp_path: Path) -> None:
    rows = from_rows([pair(f"What is {i}?", "yes " * (i + 1), "no", margin=i / 10) for i in range(12)])
    steps = [select.Config(by="margin", others=0.5)]
    curate(rows, steps, tmp_path / "dry", dry_run=True)
    curate(rows, steps, tmp_path / "run")
    found = ledger.borderline(tmp_path / "dry", rows=2)
    assert found.height == 4
    assert found.equals(ledger.borderline(tmp_path / "run", rows=2))


def test_diff_counts_copies(tmp_path: Path) -> None:
    rows = [pair("said thrice", "good", "bad") for _ in range(3)] + [pair("said once", "good", "bad")]
    all_, one = make(tmp_path / "all", [], rows), make(tmp_path / "one", [duplicates.Config()], rows)
    table = ledger.diff(all_, one)
    assert table.select("id", "in_a", "in_b").rows() == [(id_of(rows[0]), "kept", "01-duplicates")] * 2
    assert ledger.diff(one, one).height == 0


def test_diff_where_only_one_read_a_copy(tmp_path: Path) -> None:
    rows = [pair("said twice", "good", "bad", source="ab"[i]) for i in range(2)]
    table = ledger.diff(make(tmp_path / "two", [], rows), make(tmp_path / "one", [], rows[:1]))
    assert table.select("in_a", "in_b").rows() == [("kept", "not read")]
