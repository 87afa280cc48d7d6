"""The runner: every row accounted for, and the same bytes however the work is cut up, ordered or interrupted."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import engine as engines
from assay.curate import pool as pools
from assay.curate import runner
from assay.curate.pool import SEPARATOR
from assay.curate.runner import LEDGER, OUTPUTS, curate
from assay.curate.step import VERDICT
from assay.curate.steps import (
    AnyStep,
    agree,
    contradictions,
    decontaminate,
    duplicates,
    filter,
    markers,
    near_duplicates,
    select,
    shortcuts,
)
from assay.engine import Engine
from assay.errors import AssayError
from assay.files import claim, is_done, read_json, start_over
from assay.pairs.schema import BOOKKEEPING, from_rows, pair_id, stack
from conftest import pair
from curate.conftest import (
    KINDS,
    NAMES,
    STEPS,
    Calls,
    Rows,
    contents,
    files_of,
    flip_where,
    hashes,
    planted,
    trim_where,
)

ROW = st.builds(
    lambda prompt, answers, source, category, score, more: pair(prompt, *answers, source=source, category=category, score=score, **more),
    st.sampled_from(["one?", "One", "two?", "a third, longer question"]),
    st.sampled_from([("yes", "no"), ("no", "yes"), ("yes ", "no"), ("yes", "maybe<|im_end|>")]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["x", "y", "z", None]),
    st.sampled_from([0.0, 0.5, 1.0, None]),
    st.sampled_from([{}, {"note": "first"}, {"note": "second"}]),
)
TABLE = st.lists(ROW, max_size=24).map(lambda rows: [pair("always?", "yes", "no", source="a", category="x", score=0.1, note="n"), *rows])


@settings(deadline=None, max_examples=10)
@given(TABLE, st.randoms(use_true_random=False), st.integers(1, 20))
def test_order_and_shards_change_nothing(rows: Rows, random: Any, shards: int) -> None:
    shuffled = random.sample(rows, len(rows))
    assert hashes(rows) == hashes(shuffled, shards=shards)


@settings(deadline=None, max_examples=10)
@given(TABLE, st.randoms(use_true_random=False), st.integers(1, 6))
def test_frames_in_any_order_change_nothing(rows: Rows, random: Any, parts: int) -> None:
    shuffled = random.sample(rows, len(rows))
    frames = [from_rows(part) for i in range(parts) if (part := shuffled[i::parts])]
    frames = [frame.select(random.sample(frame.columns, len(frame.columns))) for frame in frames]
    assert hashes(rows) == hashes(stack(frames))


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> list[AnyStep]:
    """Steps of which the first flips a third of the planted rows, and the second trims half of them."""
    monkeypatch.setattr(agree, "judge", flip_where("yes", "turned"))
    monkeypatch.setattr(shortcuts, "judge", trim_where("n1", "ell"))
    return [agree.Config(), shortcuts.Config(), *STEPS[:3], STEPS[-1]]


def turned() -> Rows:
    return [{**row, "turned": "yes" if i % 3 == 0 else "no"} for i, row in enumerate(planted())]


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Engine]:
    with engines.start("local", 2) as engine:
        yield engine


def through(engine: Engine, tasks: list[int]) -> Callable[..., Any]:
    """Starts an engine that is there already, and counts the tasks of each map."""

    class Counted:
        def map(self, function: Callable[[Any], Any], given: list[Any], tick: Any = None) -> list[Any]:
            tasks.append(len(given))
            return engine.map(function, given, tick)

    @contextmanager
    def start(name: str, workers: int) -> Iterator[Counted]:
        assert (name, workers) == ("local", 2)
        yield Counted()

    return start


PARTS = [range(first, 21, 5) for first in range(1, 6)]
"""1 to 20."""


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_number_of_shards_changes_nothing(parts: range, doubles: list[AnyStep], tmp_path: Path) -> None:
    expected = contents(curate(from_rows(turned()), doubles, tmp_path / "0").folder)
    for shards in parts:
        done = curate(from_rows(turned()), doubles, tmp_path / str(shards), shards=shards)
        assert contents(done.folder) == expected
        assert len(read_json(done.folder / "pool" / "manifest.json")["sizes"]) == shards


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_shards_and_processes_change_nothing(parts: range, doubles: list[AnyStep], two_processes: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = contents(curate(from_rows(turned()), doubles, tmp_path / "0").folder)
    monkeypatch.setattr(runner, "SMALL", 0)
    for shards in parts:
        monkeypatch.setattr(runner.engines, "start", through(two_processes, tasks := []))
        assert contents(curate(from_rows(turned()), doubles, tmp_path / str(shards), shards=shards, workers=2).folder) == expected
        assert max(tasks) == shards


def test_small_work_needs_no_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []

    @contextmanager
    def start(name: str, workers: int) -> Iterator[Engine]:
        started.append(workers)
        with engines_start(name, 1) as engine:
            yield engine

    engines_start = engines.start
    monkeypatch.setattr(runner.engines, "start", start)
    curate(from_rows(planted(9)), [], tmp_path / "a", workers=3)
    monkeypatch.setattr(runner, "SMALL", 0)
    curate(from_rows(planted(9)), [], tmp_path / "b", workers=3)
    assert started == [1, 3]


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text('{"prompt": "question 3"}\n')
    steps = [decontaminate.Config(against={"bench": str(bench)}, ngram=2, min_words=2), near_duplicates.Config(text="pair", jaccard=0.5), duplicates.Config()]
    expected = hashes(planted(), steps)
    monkeypatch.setattr(runner, "SMALL", 0)
    assert hashes(planted(), steps, workers=2, shards=3) == expected


def test_a_file_in_pieces_is_read_as_a_table_is(tmp_path: Path) -> None:
    expected = hashes(planted())
    for size in (1, 7, 100):
        pq.write_table(from_rows(planted()[::-1]).to_arrow(), tmp_path / "p.parquet", row_group_size=size)
        assert hashes(tmp_path / "p.parquet", shards=3) == expected


COUNT = len(planted())
TYPES = {
    "categorical": pl.Series([["u", "v", "w"][i % 3] for i in range(COUNT)], dtype=pl.Categorical),
    "enum": pl.Series([["u", "v"][i % 2] for i in range(COUNT)], dtype=pl.Enum(["u", "v"])),
    "time": pl.Series([datetime(2024, 1, 1 + i % 28) for i in range(COUNT)]).dt.replace_time_zone("UTC"),
    "decimal": pl.Series([Decimal(i) for i in range(COUNT)]),
    "bytes": pl.Series([b"\xff%d" % i for i in range(COUNT)]),
    "struct": pl.Series([{"a": i, "b": [1, None]} for i in range(COUNT)]),
    "empty lists": pl.Series([[] for _ in range(COUNT)], dtype=pl.List(pl.Int8)),
    "null": pl.Series([None] * COUNT),
    "nan": pl.Series([float("nan") if i % 2 else float("-inf") for i in range(COUNT)]),
    "large": pl.Series([2**64 - 1 - i for i in range(COUNT)], dtype=pl.UInt64),
}


@pytest.mark.parametrize("column", TYPES.values(), ids=TYPES)
def test_a_column_may_be_of_any_type(column: pl.Series, tmp_path: Path) -> None:
    rows = from_rows(planted()).with_columns(own=column)
    rows = pl.concat([rows, rows.head(5)])
    pq.write_table(rows.to_arrow(), tmp_path / "p.parquet", row_group_size=7)
    kept = curate(rows, [], tmp_path / "one").kept()
    many = curate(tmp_path / "p.parquet", [], tmp_path / "many", shards=5).kept()
    assert kept.equals(many)
    assert kept.schema["own"] == (pl.String if column.dtype in (pl.Categorical, pl.Enum) else column.dtype)
    assert Counter(map(repr, kept["own"])) == Counter(map(repr, rows["own"]))


def test_a_file_without_a_row(tmp_path: Path) -> None:
    pq.ParquetWriter(tmp_path / "p.parquet", from_rows(planted()).to_arrow().schema).close()
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 0
    for steps in (STEPS[:1], [near_duplicates.Config(), contradictions.Config(), duplicates.Config(), select.Config(by="score", others=0.5)]):
        done = curate(tmp_path / "p.parquet", steps, tmp_path / "c", shards=len(steps))
        assert (done.manifest["read"], done.kept().height, done.kept()["score"].dtype) == (0, 0, pl.Float64)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"p\.parquet: no such file; expected a pair table"):
        curate(tmp_path / "p.parquet", STEPS, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_workers_and_engines_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SMALL", 0)
    with pytest.raises(AssayError, match="workers: expected at least 1, found 0"):
        curate(from_rows(planted(9)), [], tmp_path / "a", workers=0)
    with pytest.raises(AssayError, match="unknown engine `slurm`"):
        curate(from_rows(planted(9)), [], tmp_path / "b", engine="slurm")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=20)
@given(TABLE, st.lists(st.sampled_from(STEPS), max_size=5))
def test_every_row_is_accounted_for_once(rows: Rows, steps: list[AnyStep]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = curate(from_rows(rows), steps, folder, done=(accounts := []).append)
        kept, dropped, ledger = (pl.read_parquet(folder / output) for output in OUTPUTS)
    manifest = done.manifest
    assert manifest["read"] == len(rows) == kept.height + dropped.height == ledger.height
    assert (manifest["kept"], manifest["dropped"]) == (kept.height, dropped.height)
    keys = [*kept.select("row_id", "row_copy").rows(), *dropped.select("id", "copy").rows()]
    assert sorted(keys) == sorted(ledger.select("id", "copy").rows())
    assert len(set(keys)) == len(rows)
    assert sorted(id_ for id_, _ in keys) == sorted(pair_id(r["prompt"], r["chosen"], r["rejected"]) for r in rows)
    stays = ledger.filter(pl.col("step") == "kept")
    assert sorted(stays.select("id", "copy").rows()) == sorted(kept.select("row_id", "row_copy").rows())
    assert ledger.filter(pl.col("step") != "kept")["reason"].null_count() == 0
    assert dict(ledger.schema) == LEDGER
    assert manifest["accounts"] == accounts
    for account, line in zip(accounts, [f"{i:02d}-{s.kind}" for i, s in enumerate(steps, 1)], strict=True):
        assert account["step"] == line
        assert account["dropped"] == ledger.filter(pl.col("step") == line).height == sum(account["dropped_by_source"].values())
        assert account["before"]["rows"] - account["dropped"] == account["after"]["rows"] == sum(account["kept_by_source"].values())


def test_the_planted_table_meets_every_step(tmp_path: Path) -> None:
    accounts = curate(from_rows(planted()), STEPS, tmp_path).manifest["accounts"]
    assert all(account["dropped"] for account in accounts)


def test_equal_content_with_different_extra_columns(tmp_path: Path) -> None:
    rows = [pair("one?", "yes", "no", source=s, note=note) for s, note in (("b", "x"), ("a", "y"), ("a", "x"), ("a", "x"))]
    expected = hashes(rows, [])
    assert all(hashes([rows[i] for i in order], []) == expected for order in ((3, 2, 1, 0), (1, 3, 0, 2)))
    kept = curate(from_rows(rows), [], tmp_path).kept()
    assert kept["row_copy"].to_list() == [0, 1, 2, 3]
    assert kept["id"].n_unique() == 1
    assert sorted(kept.select("source", "note").rows()) == [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x")]


def test_no_steps_and_no_rows(tmp_path: Path) -> None:
    done = curate(from_rows(planted(9)), [], tmp_path / "a")
    assert (done.manifest["read"], done.manifest["kept"], done.manifest["accounts"]) == (9, 9, [])
    assert pl.read_parquet(tmp_path / "a" / "dropped.parquet").height == 0
    none = curate(from_rows(planted(9)).clear(), [duplicates.Config(), markers.Config()], tmp_path / "b")
    assert (none.manifest["read"], none.manifest["kept"]) == (0, 0)
    assert none.kept().columns == done.kept().columns


def test_everything_may_go(tmp_path: Path) -> None:
    steps = [filter.Config(column="category", values=["nothing"]), duplicates.Config(), select.Config(by="score")]
    done = curate(from_rows(planted(9)), steps, tmp_path)
    assert (done.manifest["kept"], done.kept().height) == (0, 0)
    assert [account["judged"] for account in done.manifest["accounts"]] == [9, 0, 0]


def test_only_those_that_are_gone(tmp_path: Path) -> None:
    steps = [filter.Config(column="source", values=["a"]), markers.Config(only=["b"])]
    done = curate(from_rows(planted()), steps, tmp_path)
    assert done.manifest["accounts"][1]["judged"] == done.manifest["accounts"][1]["dropped"] == 0


def test_a_row_has_its_own_columns_named_like_those_of_a_verdict(tmp_path: Path) -> None:
    rows = [{**row, "keep": False, "reason": "mine", "because_of": "me", "flip": True, "step": "s"} for row in planted()]
    done = curate(from_rows(rows), STEPS, tmp_path)
    plain = curate(from_rows(planted()), STEPS, tmp_path / "plain")
    assert [a["dropped"] for a in done.manifest["accounts"]] == [a["dropped"] for a in plain.manifest["accounts"]]
    assert set(done.kept()["reason"]) == {"mine"}
    assert "mine" not in set(pl.read_parquet(tmp_path / "ledger.parquet")["reason"])


def test_a_kept_set_can_be_curated_again(tmp_path: Path) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path / "a")
    again = curate(first.kept(), [markers.Config(), contradictions.Config()], tmp_path / "b")
    assert again.manifest["read"] == first.manifest["kept"]
    assert again.manifest["sha256"] == curate(first.kept().reverse(), [markers.Config(), contradictions.Config()], tmp_path / "c").manifest["sha256"]


def test_kept_rows_are_named_by_row_id_and_row_copy(tmp_path: Path) -> None:
    kept = curate(from_rows(planted(9)), [duplicates.Config()], tmp_path).kept()
    assert {"row_id", "row_copy", "prompt_id"} <= set(kept.columns)
    assert "copy" not in kept.columns


def test_bookkeeping_of_an_earlier_curation_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "judge", flip_where("turn"))
    first = curate(from_rows(FLIPPED), [agree.Config()], tmp_path / "a").kept()
    assert set(first.columns) >= {"row_id", "row_copy", "prompt_id", "flipped"}
    again = curate(first, [duplicates.Config()], tmp_path / "b")
    kept = again.kept()
    assert "flipped" not in kept.columns
    assert kept["id"].to_list() == kept["row_id"].to_list()
    assert sorted(kept["id"]) == sorted(first["id"])
    assert set(pl.read_parquet(tmp_path / "b" / "ledger.parquet")["step"]) == {"kept"}
    without = first.drop(BOOKKEEPING & set(first.columns))
    assert again.manifest["sha256"] == hashes(without, [duplicates.Config()])


OWN = [
    "prompt_key", "chosen_key", "rejected_key", "low_key", "high_key", "low_wins", "chosen_chars", "size", "for_low", "group", "share", "rank", "text", "marker", "side",
    "count", "item", "tier", "row", "keep", "flip", "trim", "reason", "score_v", "because_of", "close", "step", "gone", "stays", "stayed", "now_id", "_key", "_id", "_new_flip",
    "best", "kept", "opposite", "against", "order", "turn", "quota", "adjusted",
]  # fmt: skip


def without(folder: Path, name: str) -> list[pl.DataFrame]:
    return [pl.read_parquet(folder / output).drop(name, strict=False) for output in OUTPUTS]


@pytest.mark.parametrize("name", OWN)
def test_a_column_of_the_rows_may_be_named_like_one_of_a_step(name: str, doubles: list[AnyStep], tmp_path: Path) -> None:
    rows = [{**row, name: "the same for all"} for row in turned()]
    done = curate(from_rows(rows), doubles, tmp_path / "own")
    plain = curate(from_rows(turned()), doubles, tmp_path / "plain")
    assert done.manifest["accounts"] == plain.manifest["accounts"]
    assert set(done.kept()[name]) == set(pl.read_parquet(tmp_path / "own" / "dropped.parquet")[name]) == {"the same for all"}
    own = name if name not in LEDGER else "not in the ledger"
    assert all(a.equals(b) for a, b in zip(without(tmp_path / "own", name)[:2], without(tmp_path / "plain", name)[:2], strict=True))
    assert without(tmp_path / "own", own)[2].equals(without(tmp_path / "plain", own)[2])


@pytest.mark.parametrize("name", sorted(BOOKKEEPING))
def test_columns_that_a_curation_writes_itself_are_not_taken(name: str, doubles: list[AnyStep]) -> None:
    assert hashes([{**row, name: i} for i, row in enumerate(turned())], doubles) == hashes(turned(), doubles)


@pytest.mark.parametrize("name", ["keep", "flip", "prompt_key", "close", "stays", "_key"])
def test_a_step_can_look_at_a_column_of_any_name(name: str, doubles: list[AnyStep], tmp_path: Path) -> None:
    rows = [{**row, name: i % 2, "mine": i % 2} for i, row in enumerate(turned())]
    for i, config in enumerate([filter.Config(column=name, values=[1]), select.Config(by=name, others=0.5)]):
        kept = curate(from_rows(rows), [*doubles[:2], config], tmp_path / str(i)).kept()
        assert kept.height == 30
        assert set(kept["mine"]) == {1}


@pytest.mark.parametrize("name", ["row", "flipped", "trim"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_step_cannot_look_at_a_column_with_a_name_of_the_runner(name: str, marked: bool, doubles: list[AnyStep], tmp_path: Path) -> None:
    rows = [{**row, name: i % 2} for i, row in enumerate(turned())]
    for i, config in enumerate([filter.Config(column=name, values=[1]), select.Config(by=name, others=0.5), duplicates.Config(best=name), near_duplicates.Config(best=name)]):
        with pytest.raises(AssayError, match=rf"step `{config.kind}`: `{name}` is a name Assay uses itself; give the column another when it is read, `columns: {{{name}: OTHER}}`"):
            curate(from_rows(rows), [*(doubles[:2] if marked else []), config], tmp_path / str(i))


# steps that run, and steps that do not


def test_verdict_files_name_the_rows(tmp_path: Path) -> None:
    curate(from_rows(planted()), STEPS, tmp_path, shards=3)
    every = pl.concat([pl.read_parquet(tmp_path / name, columns=["id"]) for name in OUTPUTS[1:]])
    for name in NAMES:
        said = pl.read_parquet(tmp_path / "steps" / name / "verdicts.parquet")
        assert said.columns == ["id", "copy", *VERDICT]
        assert said["row"].is_sorted()
        assert said["row"].n_unique() == said.height
        assert set(said["id"]) <= set(every["id"])
        assert said["id"].is_sorted()
        assert not (tmp_path / "steps" / name / "work").exists()


def test_a_finished_curation_is_not_run_again(tmp_path: Path, calls: Calls) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    assert calls == KINDS
    assert curate(from_rows(planted()[::-1]), STEPS, tmp_path, shards=3) == first
    assert calls == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_goes_on_where_it_was(kind: str, tmp_path: Path, calls: Calls) -> None:
    expected = hashes(planted())
    calls.clear()
    calls.fails = kind
    with pytest.raises(KeyboardInterrupt):
        curate(from_rows(planted()), STEPS, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    k = KINDS.index(kind)
    assert calls == KINDS[: k + 1]
    calls.clear()
    assert curate(from_rows(planted()), STEPS, tmp_path, shards=5).manifest["sha256"] == expected
    assert calls == KINDS[k:]


class FailsOnce:
    """A function that is interrupted once, at its call number ``at``; remembers the first argument of each call that ended."""

    def __init__(self, function: Callable[..., Any], at: int) -> None:
        self.function, self.at = function, at
        self.ended: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        if len(self.ended) == self.at:
            self.at = -1
            raise KeyboardInterrupt
        result = self.function(*arguments)
        self.ended.append(arguments[0])
        return result


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_map_that_is_interrupted_goes_on_where_it_was(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = curate(from_rows(planted()), STEPS, tmp_path / "fresh").folder
    kernel = FailsOnce(markers.find_markers, at)
    monkeypatch.setattr(markers, "find_markers", kernel)
    with pytest.raises(KeyboardInterrupt):
        curate(from_rows(planted()), STEPS, tmp_path / "c", shards=8)
    features = tmp_path / "c" / "steps" / "01-markers" / "work" / "features"
    assert sorted(str(p.relative_to(features)) for p in features.rglob("*.parquet")) == [f"of-8/{i:05d}.parquet" for i in range(at)]
    assert contents(curate(from_rows(planted()), STEPS, tmp_path / "c", shards=8).folder) == contents(expected)
    assert len(kernel.ended) == 8
    assert sorted(row for shard in kernel.ended for row in shard["row"]) == list(range(60))


@pytest.mark.parametrize("shards", [3, 13])
def test_a_map_that_is_interrupted_goes_on_with_other_shards(shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = curate(from_rows(planted()), STEPS, tmp_path / "fresh").folder
    monkeypatch.setattr(markers, "find_markers", FailsOnce(markers.find_markers, 2))
    with pytest.raises(KeyboardInterrupt):
        curate(from_rows(planted()), STEPS, tmp_path / "c", shards=8)
    assert contents(curate(from_rows(planted()), STEPS, tmp_path / "c", shards=shards).folder) == contents(expected)


@pytest.mark.parametrize(("inner", "at", "calls_of_both"), [("conform", 0, 5), ("conform", 3, 5), ("write_parquet", 6, 16), ("write_parquet", 7, 17)])
def test_a_pool_that_is_interrupted_goes_on_where_it_was(inner: str, at: int, calls_of_both: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of the input conforms once; a shard is two files, its features and its rows."""
    expected = hashes(planted())
    pq.write_table(from_rows(planted()).to_arrow(), tmp_path / "p.parquet", row_group_size=12)
    called = FailsOnce(getattr(pools, inner), at)
    monkeypatch.setattr(pools, inner, called)
    with pytest.raises(KeyboardInterrupt):
        curate(tmp_path / "p.parquet", STEPS, tmp_path / "c", shards=8)
    assert len(called.ended) == at
    assert curate(tmp_path / "p.parquet", STEPS, tmp_path / "c", shards=8).manifest["sha256"] == expected
    assert len([a for a in called.ended if inner == "conform" or a.parent.name == "pool"]) == calls_of_both


def interrupted_method(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    once = FailsOnce(method, at)
    return lambda *arguments: once(*arguments)


@pytest.mark.parametrize("output", [0, 1, 2])
def test_writing_that_is_interrupted_goes_on(output: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    expected = hashes(planted())
    calls.clear()
    with monkeypatch.context() as once:
        once.setattr(runner.ParquetStream, "write", interrupted_method(runner.ParquetStream.write, 8 * len(STEPS) + 9 + output))  # every step has written its verdicts, a shard at a time
        with pytest.raises(KeyboardInterrupt):
            curate(from_rows(planted()), STEPS, tmp_path, shards=8)
    assert not [p for p in tmp_path.iterdir() if p.is_file() and p.name != ".started"]
    assert calls == KINDS
    assert curate(from_rows(planted()), STEPS, tmp_path, shards=8).manifest["sha256"] == expected
    assert calls == KINDS


@pytest.mark.parametrize("rest", [b"", b"garbage", None])
def test_verdicts_without_a_manifest_are_made_anew(rest: bytes | None, tmp_path: Path, calls: Calls) -> None:
    expected = hashes(planted())
    calls.fails = "filter"
    with pytest.raises(KeyboardInterrupt):
        curate(from_rows(planted()), STEPS, tmp_path)
    calls.clear()
    broken = tmp_path / "steps" / "03-duplicates"
    (broken / "manifest.json").unlink()
    (broken / "verdicts.parquet").write_bytes((broken / "verdicts.parquet").read_bytes()[:-20] if rest is None else rest)
    (broken / ".verdicts.parquet.left").write_bytes(b"by a killed process")
    assert curate(from_rows(planted()), STEPS, tmp_path).manifest["sha256"] == expected
    assert calls == KINDS[2:]


def test_outputs_are_written_again_from_the_verdicts(tmp_path: Path, calls: Calls) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    calls.clear()
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "kept.parquet").write_bytes(b"half")
    assert curate(from_rows(planted()), STEPS, tmp_path) == first
    assert calls == []


def test_broken_verdicts_with_a_manifest_are_an_error(tmp_path: Path) -> None:
    curate(from_rows(planted()), STEPS, tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "steps" / "01-markers" / "verdicts.parquet").write_bytes(b"garbage")
    with pytest.raises(AssayError, match=r"01-markers/verdicts\.parquet: not a readable Parquet file"):
        curate(from_rows(planted()), STEPS, tmp_path)


CHANGES: dict[str, tuple[list[AnyStep], list[str]]] = {
    "first step": ([markers.Config(only=["a"]), *STEPS[1:]], KINDS),
    "middle step": ([*STEPS[:2], duplicates.Config(key="prompt"), *STEPS[3:]], KINDS[2:]),
    "last step": ([*STEPS[:-1], select.Config(by="score", others=0.5)], ["select"]),
    "one less": (STEPS[:-1], []),
    "two less": (STEPS[:-2], []),
    "no step": ([], []),
    "without the first": (STEPS[1:], KINDS[1:]),
    "one more": ([*STEPS, markers.Config()], ["markers"]),
    "one between": ([*STEPS[:3], markers.Config(), *STEPS[3:]], ["markers", *KINDS[3:]]),
    "the last two swapped": ([*STEPS[:3], STEPS[4], STEPS[3]], ["select", "filter"]),
}


@pytest.mark.parametrize("shards", [None, 5])
@pytest.mark.parametrize(("steps", "anew"), CHANGES.values(), ids=CHANGES)
def test_after_a_change_only_the_changed_and_later_steps_run(steps: list[AnyStep], anew: list[str], shards: int | None, tmp_path: Path, calls: Calls) -> None:
    curate(from_rows(planted()), STEPS, tmp_path)
    calls.clear()
    done = curate(from_rows(planted()), steps, tmp_path, shards=shards)
    assert calls == anew
    names = [f"{i:02d}-{s.kind}" for i, s in enumerate(steps, 1)]
    assert sorted(p.name for p in (tmp_path / "steps").iterdir()) == names
    accounts = [account["step"] for account in done.manifest["accounts"]]
    with tempfile.TemporaryDirectory() as fresh:
        expected = curate(from_rows(planted()), steps, Path(fresh))
        assert accounts == names
        assert done.manifest == expected.manifest
        assert contents(tmp_path) == contents(Path(fresh))


def test_other_rows_start_over(tmp_path: Path, calls: Calls) -> None:
    curate(from_rows(planted()), STEPS, tmp_path)
    for rows in (planted()[1:], [*planted(), planted()[0]], [{**row, "note": "another"} for row in planted()], [{**row, "more": 1} for row in planted()]):
        calls.clear()
        done = curate(from_rows(rows), STEPS, tmp_path)
        assert calls == KINDS
        assert done.manifest["sha256"] == hashes(rows)


def test_a_change_and_back_again(tmp_path: Path, calls: Calls) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    before = contents(tmp_path)
    curate(from_rows(planted()), STEPS[:-1], tmp_path)
    calls.clear()
    assert curate(from_rows(planted()), STEPS, tmp_path) == first
    assert calls == ["select"]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("ran", [0, 1, 3])
def test_a_dry_run_writes_no_outputs(ran: int, tmp_path: Path, calls: Calls) -> None:
    if ran:
        curate(from_rows(planted()), STEPS[:ran], tmp_path, dry_run=True)
        calls.clear()
    done = curate(from_rows(planted()), STEPS, tmp_path, dry_run=True)
    assert calls == KINDS[ran:]
    assert not any((tmp_path / name).exists() for name in (*OUTPUTS, "manifest.json"))
    assert all((tmp_path / "steps" / name / "verdicts.parquet").is_file() for name in NAMES)
    calls.clear()
    whole = curate(from_rows(planted()), STEPS, tmp_path)
    assert calls == []
    assert whole.manifest["sha256"] == hashes(planted())
    assert done.manifest["dry_run"] is True
    assert {key: done.manifest[key] for key in done.manifest if key != "dry_run"} == {key: whole.manifest[key] for key in whole.manifest if key != "sha256"}


OTHER_RUNS: dict[str, tuple[Rows, list[AnyStep], dict[str, Any]]] = {
    "other steps": (planted(), STEPS[:-1], {}),
    "one more step": (planted(), [*STEPS, markers.Config()], {}),
    "no step": (planted(), [], {}),
    "other steps and shards": (planted(), STEPS[:-1], {"shards": 3}),
    "other rows": (planted(59), STEPS, {}),
}


@pytest.mark.parametrize(("rows", "steps", "more"), OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_a_dry_run_does_not_undo_a_finished_curation(rows: Rows, steps: list[AnyStep], more: dict[str, Any], tmp_path: Path, calls: Calls) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    before = files_of(tmp_path)
    calls.clear()
    with pytest.raises(AssayError, match="holds a curation by other steps or of other rows, which a dry run would undo; give another folder"):
        curate(from_rows(rows), steps, tmp_path, dry_run=True, **more)
    assert calls == []
    assert files_of(tmp_path) == before
    assert curate(from_rows(planted()), STEPS, tmp_path) == first


def test_a_dry_run_of_a_finished_curation_returns_it(tmp_path: Path, calls: Calls) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    before = files_of(tmp_path)
    calls.clear()
    assert curate(from_rows(planted()), STEPS, tmp_path, dry_run=True) == first
    assert calls == []
    assert files_of(tmp_path) == before
    assert curate(from_rows(planted()[::-1]), STEPS, tmp_path, dry_run=True, shards=3) == first
    assert contents(tmp_path) == {name: before[tmp_path / name] for name in OUTPUTS}


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_missing_output_is_written_again(output: str, tmp_path: Path, calls: Calls) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    before = (tmp_path / output).read_bytes()
    calls.clear()
    (tmp_path / output).unlink()
    assert curate(from_rows(planted()), STEPS, tmp_path) == first
    assert (tmp_path / output).read_bytes() == before
    assert calls == []


# folders that are not Assay's

def lies_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("files", [{"thesis.txt": "years of work"}, {"sub/thesis.txt": "years of work"}, {".hidden": "x"}, {"manifest.json": "[]"}, {"manifest.json": '{"name": "of a web app"}', "a.js": "x"}])
def test_a_folder_with_something_else_in_it_is_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(AssayError, match="the folder is not empty and holds nothing of Assay's; give an empty or a new one"):
        curate(from_rows(planted()), STEPS, tmp_path)
    with pytest.raises(AssayError, match="holds nothing of Assay's"):
        start_over(tmp_path, "print")
    assert lies_in(tmp_path) == files


def test_an_empty_folder_and_those_of_assay_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    start_over(tmp_path / "empty", "a")
    assert lies_in(tmp_path / "empty") == {".started": "a"}
    (tmp_path / "empty" / "half").write_text("of a")
    start_over(tmp_path / "empty", "a")
    assert lies_in(tmp_path / "empty") == {".started": "a", "half": "of a"}
    start_over(tmp_path / "empty", "b")
    assert lies_in(tmp_path / "empty") == {".started": "b"}
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "manifest.json").write_text(json.dumps({"fingerprint": "a"}))
    (tmp_path / "done" / "result").write_text("of a")
    start_over(tmp_path / "done", "b")
    assert lies_in(tmp_path / "done") == {".started": "b"}
    start_over(tmp_path / "some" / "new" / "one", "a")
    assert lies_in(tmp_path / "some" / "new" / "one") == {".started": "a"}


KILLED = """
import os, sys
from pathlib import Path
from assay import files
Path.replace = lambda *_: os._exit(9)  # the process dies when the text is on disk but does not have its name yet
files.{call}(Path(sys.argv[1]){more})
"""


@pytest.mark.parametrize(("call", "more"), [("start_over", ", 'a'"), ("claim", "")])
def test_a_folder_whose_maker_was_killed_with_its_first_file_is_taken(call: str, more: str, tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED.format(call=call, more=more), str(tmp_path)])
    assert died.returncode == 9
    assert [p.name.startswith("..started.") for p in tmp_path.iterdir()] == [True]
    claim(tmp_path)
    start_over(tmp_path, "a")
    assert lies_in(tmp_path) == {".started": "a"}


@pytest.mark.parametrize("said", ["[]", "null", "3", '"x"', "{}", '{"fingerprint": null}', '{"fingerprint": "other"}'])
def test_a_manifest_of_something_else_is_not_done(said: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(said)
    assert not is_done(tmp_path, "print")


def test_a_slip_in_only_deletes_nothing(tmp_path: Path) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(AssayError, match="no row has the source `aa`"):
        curate(from_rows(planted()), [*STEPS, markers.Config(only=["aa"])], tmp_path)
    assert files_of(tmp_path) == before
    assert curate(from_rows(planted()), STEPS, tmp_path) == first
    with pytest.raises(AssayError, match="no row has the source `aa`"):
        curate(from_rows(planted()), [markers.Config(only=["aa"])], tmp_path / "new")
    assert not (tmp_path / "new").exists()


# flips


FLIPPED: Rows = [pair(f"{note}?", "yes", "no", note=note, margin=2.0) for note in ("turn", "stay", "also stays")]


def test_a_flipped_row_has_a_new_id_and_remembers_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "judge", flip_where("turn"))
    done = curate(from_rows(FLIPPED), [agree.Config()], tmp_path)
    rows = {row["note"]: row for row in done.kept().iter_rows(named=True)}
    turned, row = rows["turn"], FLIPPED[0]
    assert (turned["chosen"], turned["rejected"]) == (row["rejected"], row["chosen"])
    assert turned["row_id"] == pair_id(row["prompt"], row["chosen"], row["rejected"])
    assert turned["id"] == pair_id(row["prompt"], row["rejected"], row["chosen"])
    assert turned["flipped"] is True
    assert rows["stay"]["flipped"] is False
    assert rows["stay"]["id"] == rows["stay"]["row_id"]
    assert (turned["margin"], rows["stay"]["margin"]) == (None, 2.0)
    assert done.manifest["accounts"][0]["flipped"] == 1
    assert done.manifest["accounts"][0]["dropped"] == 0
    ledger = {row.pop("id"): row for row in pl.read_parquet(tmp_path / "ledger.parquet").iter_rows(named=True)}
    said = ("step", "reason", "score", "because_of")
    assert {i: tuple(line[c] for c in said) for i, line in ledger.items()} == {
        turned["row_id"]: ("kept, flipped", "turned round", 0.5, "a double"),
        rows["stay"]["row_id"]: ("kept", None, None, None),
        rows["also stays"]["row_id"]: ("kept", None, None, None),
    }


def test_later_steps_see_the_flipped_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "judge", flip_where("turn"))
    rows = [pair("one?", "no", "yes", note="turn"), pair("one?", "yes", "no", note="stay"), *FLIPPED[1:]]
    done = curate(from_rows(rows), [agree.Config(), contradictions.Config(), duplicates.Config()], tmp_path)
    assert [a["dropped"] for a in done.manifest["accounts"]] == [0, 0, 1]
    assert done.manifest["accounts"][2]["before"]["rows"] == 4
    assert hashes(rows[::-1], [agree.Config(), contradictions.Config(), duplicates.Config()]) == done.manifest["sha256"]


def test_a_row_flipped_twice_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agree, "judge", flip_where("turn"))
    kept = curate(from_rows(FLIPPED), [agree.Config(), agree.Config()], tmp_path).kept()
    assert set(kept["flipped"]) == {False}
    ledger = pl.read_parquet(tmp_path / "ledger.parquet")
    assert set(ledger["step"]) == {"kept"}
    assert ledger.select(pl.col("reason", "score", "because_of").is_null().all()).row(0) == (True, True, True)
    assert kept["id"].to_list() == kept["row_id"].to_list()


def test_without_flips_there_is_no_such_column(tmp_path: Path) -> None:
    assert "flipped" not in curate(from_rows(FLIPPED), [duplicates.Config()], tmp_path).kept().columns


# trims

TRIMMED: Rows = [
    pair("one?", "yes [end] of it", "no[end]", note="cut", margin=2.0),
    pair("two?", "yes [end]", "no", note="stays"),
    pair("three?", "well [end]", "[end] bad [x]", note="cut"),
]


def trimmed(folder: Path, *steps: AnyStep, rows: Rows = TRIMMED, **more: Any) -> dict[str, dict[str, Any]]:
    """Kept rows by their prompt."""
    kept = curate(from_rows(rows), [shortcuts.Config(), *steps], folder, **more).kept()
    return {row["prompt"][0]["content"]: row for row in kept.iter_rows(named=True)}


def answers(row: dict[str, Any]) -> tuple[str, str]:
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


def ledger_steps(folder: Path) -> dict[str, str]:
    return dict(pl.read_parquet(folder / "ledger.parquet").select("id", "step").iter_rows())


def id_of(row: dict[str, Any]) -> str:
    return pair_id(row["prompt"], row["chosen"], row["rejected"])


def test_a_trimmed_row_has_a_new_id_and_remembers_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    rows = trimmed(tmp_path, shards=2)
    assert [answers(rows[p]) for p in ("one?", "two?", "three?")] == [("yes  of it", "no"), ("yes [end]", "no"), ("well", "bad [x]")]
    assert {row["row_id"] for row in rows.values()} == {id_of(row) for row in TRIMMED}
    assert all(row["id"] == id_of(row) for row in rows.values())
    assert [p for p, row in rows.items() if row["id"] != row["row_id"]] == [p for p in rows if p != "two?"]
    assert "trim" not in rows["one?"]
    assert rows["one?"]["margin"] == 2.0
    lines = {line["id"]: line for line in pl.read_parquet(tmp_path / "ledger.parquet").iter_rows(named=True)}
    for prompt, step, reason in (("one?", "kept, trimmed", "cut out [end]"), ("two?", "kept", None), ("three?", "kept, trimmed", "cut out [end]")):
        line = lines[rows[prompt]["row_id"]]
        assert (line["step"], line["reason"], line["because_of"]) == (step, reason, reason and "a double")


def test_a_trim_is_in_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    (account,) = curate(from_rows(TRIMMED), [shortcuts.Config()], tmp_path).manifest["accounts"]
    assert (account["judged"], account["trimmed"], account["dropped"], account["flipped"]) == (2, 2, 0, 0)
    assert account["before"]["chosen_chars"] == (len("yes [end] of it") + len("yes [end]") + len("well [end]")) / 3
    assert account["after"]["chosen_chars"] == (len("yes  of it") + len("yes [end]") + len("well")) / 3


def test_several_pieces_are_cut_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", f"[end]{SEPARATOR}[x]"))
    assert answers(trimmed(tmp_path)["three?"]) == ("well", "bad")


def test_a_later_trim_does_not_undo_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = iter(["[end]", "[x]"])
    monkeypatch.setattr(shortcuts, "judge", lambda *given: trim_where("cut", next(pieces))(*given))
    rows = trimmed(tmp_path, shortcuts.Config(action="trim"), shards=2)
    assert [answers(rows[p]) for p in ("one?", "two?", "three?")] == [("yes  of it", "no"), ("yes [end]", "no"), ("well", "bad")]
    assert all(row["id"] == id_of(row) for row in rows.values())
    ledger = {line["id"]: line for line in pl.read_parquet(tmp_path / "ledger.parquet").iter_rows(named=True)}
    assert [(line["step"], line["reason"]) for line in (ledger[id_of(row)] for row in TRIMMED)] == [("kept, trimmed", "cut out [x]"), ("kept", None), ("kept, trimmed", "cut out [x]")]


def test_later_steps_see_the_trimmed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    rows = [*TRIMMED, pair("three?", "well", "bad [x]", note="stays")]
    steps = [shortcuts.Config(), duplicates.Config()]
    done = curate(from_rows(rows), steps, tmp_path)
    assert [a["dropped"] for a in done.manifest["accounts"]] == [0, 1]
    assert hashes(rows[::-1], steps, shards=5) == done.manifest["sha256"]
    marked = [pair("one?", "yes<|im_end|>", "no", note="cut"), pair("two?", "yes<|im_end|>", "no", note="stays")]
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "<|im_end|>"))
    assert set(trimmed(tmp_path / "marked", markers.Config(), rows=marked)) == {"one?"}


def test_a_row_trimmed_and_then_dropped_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    assert set(trimmed(tmp_path, filter.Config(column="note", values=["stays"]))) == {"two?"}
    dropped = pl.read_parquet(tmp_path / "dropped.parquet")
    assert sorted(map(answers, dropped.iter_rows(named=True))) == sorted(answers(row) for row in TRIMMED if row["note"] == "cut")
    assert sorted(dropped["id"]) == sorted(id_of(row) for row in TRIMMED if row["note"] == "cut")
    assert set(ledger_steps(tmp_path).values()) == {"kept", "02-filter"}


@pytest.mark.parametrize("order", ["flip first", "trim first"])
def test_a_row_flipped_and_trimmed(order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    monkeypatch.setattr(agree, "judge", flip_where("cut"))
    steps = [agree.Config(), shortcuts.Config()] if order == "flip first" else [shortcuts.Config(), agree.Config()]
    kept = curate(from_rows(TRIMMED), steps, tmp_path, shards=2).kept()
    rows = {row["prompt"][0]["content"]: row for row in kept.iter_rows(named=True)}
    assert answers(rows["one?"]) == ("no", "yes  of it")
    assert (rows["one?"]["flipped"], rows["one?"]["row_id"], rows["one?"]["id"]) == (True, id_of(TRIMMED[0]), id_of(rows["one?"]))
    assert ledger_steps(tmp_path) == {id_of(row): "kept, flipped and trimmed" if row["note"] == "cut" else "kept" for row in TRIMMED}
    last = pl.read_parquet(tmp_path / "ledger.parquet").filter(pl.col("step") != "kept")["reason"].unique().to_list()
    assert last == ["cut out [end]" if order == "flip first" else "turned round"]


def test_a_row_trimmed_and_flipped_there_and_back_is_trimmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "judge", trim_where("cut", "[end]"))
    monkeypatch.setattr(agree, "judge", flip_where("cut"))
    kept = curate(from_rows(TRIMMED), [agree.Config(), shortcuts.Config(), agree.Config()], tmp_path).kept()
    rows = {row["prompt"][0]["content"]: row for row in kept.iter_rows(named=True)}
    assert [answers(rows[p]) for p in ("one?", "two?", "three?")] == [("yes  of it", "no"), ("yes [end]", "no"), ("well", "bad [x]")]
    assert all(row["id"] == id_of(row) for row in rows.values())
    assert ledger_steps(tmp_path) == {id_of(row): "kept, trimmed" if row["note"] == "cut" else "kept" for row in TRIMMED}


def test_after_a_trim_another_number_of_shards_changes_nothing(doubles: list[AnyStep], tmp_path: Path) -> None:
    curate(from_rows(turned()), doubles[:-1], tmp_path / "c", shards=7)
    steps = [*doubles[:-1], contradictions.Config(), duplicates.Config()]
    done = curate(from_rows(turned()), steps, tmp_path / "c", shards=2)
    fresh = curate(from_rows(turned()), steps, tmp_path / "fresh")
    assert done.manifest == fresh.manifest
    assert contents(tmp_path / "c") == contents(tmp_path / "fresh")
