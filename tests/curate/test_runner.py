"""The runner: every row accounted for, and the same bytes however the work is cut up, ordered or interrupted."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate import runner
from assay.curate.runner import curate
from assay.curate.step import Context, verdicts
from assay.curate.steps import (
    MODULES,
    AnyStep,
    agree,
    contradictions,
    decontaminate,
    duplicates,
    filter,
    markers,
    select,
)
from assay.errors import AssayError
from assay.files import is_done, start_over
from assay.pairs.schema import BOOKKEEPING, from_rows, pair_id, stack
from conftest import pair

Rows = list[dict[str, Any]]
OUTPUTS = ("kept.parquet", "dropped.parquet", "ledger.parquet")
STEPS: list[AnyStep] = [
    markers.Config(),
    contradictions.Config(resolve="majority"),
    duplicates.Config(key="unordered", best="score", only=["a"]),
    filter.Config(column="category", values=["x", "y"]),
    select.Config(by="score", groups=[select.Group(name="exes", categories=["X"], keep=0.5)], others=0.75, offsets={"a": -0.25}),
]

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


def hashes(rows: Rows | pl.DataFrame, steps: Sequence[AnyStep] = STEPS, **more: Any) -> dict[str, str]:
    """SHA-256 of each output of a curation in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        frame = from_rows(rows) if isinstance(rows, list) else rows
        found = curate(frame, steps, Path(folder) / "c", **more).manifest["sha256"]
    assert sorted(found) == sorted(OUTPUTS)
    return found


def planted(n: int = 60) -> Rows:
    """A table in which every step of STEPS drops something."""
    answers = [("yes", "no"), ("no", "yes"), ("yes", "no"), ("well", "bad"), ("fine<|im_end|>", "bad")]
    return [
        pair(f"question {i // 4}", *answers[i % 5], source="ab"[i % 3 == 0], category="xyz"[i % 7 % 3], score=float(i * 7 % 11), note=f"n{i % 2}")
        for i in range(n)
    ]


@settings(deadline=None, max_examples=15)
@given(TABLE, st.randoms(use_true_random=False), st.integers(1, 20))
def test_order_and_shards_change_nothing(rows: Rows, random: Any, shards: int) -> None:
    shuffled = random.sample(rows, len(rows))
    assert hashes(rows) == hashes(shuffled, shards=shards)


@settings(deadline=None, max_examples=15)
@given(TABLE, st.randoms(use_true_random=False), st.integers(1, 6))
def test_frames_in_any_order_change_nothing(rows: Rows, random: Any, parts: int) -> None:
    shuffled = random.sample(rows, len(rows))
    frames = [from_rows(part) for i in range(parts) if (part := shuffled[i::parts])]
    frames = [frame.select(random.sample(frame.columns, len(frame.columns))) for frame in frames]
    assert hashes(rows) == hashes(stack(frames))


def test_number_of_shards_changes_nothing() -> None:
    expected = hashes(planted())
    for shards in range(1, 21):
        assert hashes(planted(), shards=shards) == expected


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text('{"prompt": "question 3"}\n')
    steps = [decontaminate.Config(against={"bench": str(bench)}, ngram=2, min_words=2), duplicates.Config()]
    expected = hashes(planted(), steps)
    monkeypatch.setattr(runner, "SMALL", 0)
    assert hashes(planted(), steps, workers=2, shards=3) == expected


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


@pytest.mark.parametrize("name", ["prompt_key", "chosen_key", "rejected_key", "low_key", "high_key", "low_wins", "chosen_chars", "size", "for_low", "group", "share", "rank", "text", "marker", "side", "count", "item", "tier"])
def test_a_column_of_the_rows_may_be_named_like_one_of_a_step(name: str, tmp_path: Path) -> None:
    rows = [{**row, name: "the same for all"} for row in planted()]
    done = curate(from_rows(rows), STEPS, tmp_path / "own")
    plain = curate(from_rows(planted()), STEPS, tmp_path / "plain")
    assert [a["dropped"] for a in done.manifest["accounts"]] == [a["dropped"] for a in plain.manifest["accounts"]]
    assert set(done.kept()[name]) == {"the same for all"}


# steps that run, and steps that do not


class Calls(list[str]):
    """The kinds of the steps whose judge was called; one of them may fail once."""

    fails: str | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Counts the calls of every step's judge."""
    called = Calls()

    def counted(kind: str, judge: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
        def run(*arguments: Any) -> pl.DataFrame:
            called.append(kind)
            if called.fails == kind:
                called.fails = None
                raise KeyboardInterrupt
            return judge(*arguments)

        return run

    for kind, module in MODULES.items():
        monkeypatch.setattr(module, "judge", counted(kind, module.judge))
    return called


KINDS = [step.kind for step in STEPS]


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


@pytest.mark.parametrize("change", ["first step", "last step", "rows", "fewer steps"])
def test_a_change_starts_over(change: str, tmp_path: Path, calls: Calls) -> None:
    curate(from_rows(planted()), STEPS, tmp_path)
    calls.clear()
    rows, steps = planted(), list(STEPS)
    if change == "first step":
        steps[0] = markers.Config(only=["a"])
    elif change == "last step":
        steps[-1] = select.Config(by="score", others=0.5)
    elif change == "rows":
        rows = rows[1:]
    else:
        steps.pop()
    done = curate(from_rows(rows), steps, tmp_path)
    assert calls == [step.kind for step in steps]
    assert done.manifest["sha256"] == hashes(rows, steps)
    assert sorted(p.name for p in (tmp_path / "steps").iterdir()) == [f"{i:02d}-{s.kind}" for i, s in enumerate(steps, 1)]


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


@pytest.mark.parametrize("said", ["[]", "null", "3", '"x"', "{}", '{"fingerprint": null}', '{"fingerprint": "other"}'])
def test_a_manifest_of_something_else_is_not_done(said: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(said)
    assert not is_done(tmp_path, "print")


def test_a_slip_in_only_deletes_nothing(tmp_path: Path) -> None:
    first = curate(from_rows(planted()), STEPS, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(AssayError, match="no row has the source `aa`"):
        curate(from_rows(planted()), [*STEPS, markers.Config(only=["aa"])], tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert curate(from_rows(planted()), STEPS, tmp_path) == first
    with pytest.raises(AssayError, match="no row has the source `aa`"):
        curate(from_rows(planted()), [markers.Config(only=["aa"])], tmp_path / "new")
    assert not (tmp_path / "new").exists()


# flips


def flip_where(tag: str) -> Callable[[pl.DataFrame, AnyStep, Context], pl.DataFrame]:
    """A judge that flips the rows whose note is ``tag``."""

    def judge(rows: pl.DataFrame, config: AnyStep, context: Context) -> pl.DataFrame:
        return verdicts(rows, keep=pl.lit(True), reason="turned round", flip=pl.col("note") == tag)

    return judge


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
    ledger = {row["id"]: row["step"] for row in pl.read_parquet(tmp_path / "ledger.parquet").iter_rows(named=True)}
    assert ledger == {rows[note]["row_id"]: step for note, step in (("turn", "kept, flipped"), ("stay", "kept"), ("also stays", "kept"))}


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
    assert set(pl.read_parquet(tmp_path / "ledger.parquet")["step"]) == {"kept"}
    assert kept["id"].to_list() == kept["row_id"].to_list()


def test_without_flips_there_is_no_such_column(tmp_path: Path) -> None:
    assert "flipped" not in curate(from_rows(FLIPPED), [duplicates.Config()], tmp_path).kept().columns
