"""Files that are written whole or not at all, and whose bytes follow from what they hold."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import files
from assay.errors import AssayError
from assay.files import ParquetStream, check_replaceable, replacing, write_json


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of seven, so that small tables have several."""
    monkeypatch.setattr(files, "ROW_GROUP", 7)


def table(rows: int) -> pl.DataFrame:
    said = [[{"role": "user", "content": f"ünd {i}"}] * (i % 3) for i in range(rows)]
    schema = {"id": pl.String, "n": pl.Float64, "flag": pl.Boolean, "said": pl.List(pl.Struct({"role": pl.String, "content": pl.String}))}
    return pl.DataFrame({"id": [f"id {i}" for i in range(rows)], "n": [None if i % 4 == 0 else i / 3 for i in range(rows)], "flag": [i % 5 == 0 for i in range(rows)], "said": said}, schema=schema)


def streamed(path: Path, frames: list[pl.DataFrame]) -> bytes:
    with ParquetStream(path) as stream:
        for frame in frames:
            stream.write(frame)
    return path.read_bytes()


def cut(frame: pl.DataFrame, sizes: list[int]) -> list[pl.DataFrame]:
    """The frame in pieces of these sizes, the rest last."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(frame.slice(at, size))
        at += size
    return [*pieces, frame.slice(at)]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.lists(st.integers(0, 20), max_size=8))
def test_bytes_do_not_depend_on_how_the_rows_are_cut(tmp_path_factory: pytest.TempPathFactory, rows: int, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("stream")
    whole, pieces = streamed(folder / "a.parquet", [table(rows)]), streamed(folder / "b.parquet", cut(table(rows), sizes))
    assert whole == pieces
    assert pl.read_parquet(folder / "b.parquet").equals(table(rows))
    assert sorted(p.name for p in folder.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize(("rows", "groups"), [(0, [0]), (1, [1]), (6, [6]), (7, [7]), (8, [7, 1]), (14, [7, 7]), (20, [7, 7, 6])])
def test_row_groups_are_full_but_the_last(rows: int, groups: list[int], tmp_path: Path) -> None:
    streamed(tmp_path / "a.parquet", cut(table(rows), [3] * (rows // 3)))
    meta = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert meta.num_rows == rows
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] in (groups, [n for n in groups if n])
    assert pl.read_parquet(tmp_path / "a.parquet").equals(table(rows))


def test_pieces_of_other_frames_and_of_several_chunks(tmp_path: Path) -> None:
    whole = streamed(tmp_path / "a.parquet", [table(20)])
    chunked = pl.concat([table(20)[:5], table(20)[5:11], table(20)[11:]], rechunk=False)
    assert chunked.n_chunks() == 3
    assert streamed(tmp_path / "b.parquet", [chunked]) == whole
    assert streamed(tmp_path / "c.parquet", [table(30).filter(pl.col("id").is_in([f"id {i}" for i in range(20)]))]) == whole


def test_what_waits_is_less_than_a_row_group_and_a_frame(tmp_path: Path) -> None:
    with ParquetStream(tmp_path / "a.parquet") as stream:
        for i in range(50):
            stream.write(table(1))
            assert sum(rows.num_rows for rows in stream._waiting) == stream._rows == (i + 1) % 7


def test_without_a_frame_there_is_no_file(tmp_path: Path) -> None:
    with ParquetStream(tmp_path / "a.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_frame_without_rows_makes_a_file_with_its_columns(tmp_path: Path) -> None:
    streamed(tmp_path / "a.parquet", [table(0), table(0)])
    assert pl.read_parquet(tmp_path / "a.parquet").schema == table(0).schema


def raises() -> None:
    raise KeyboardInterrupt


OTHER = pl.DataFrame({"id": [1, 2]})


@pytest.mark.parametrize("before", [0, 3, 7, 20])
@pytest.mark.parametrize("old", [None, b"as it was"])
@pytest.mark.parametrize("fails", [lambda stream: raises(), lambda stream: stream.write(OTHER), lambda stream: stream.write(pl.concat([OTHER] * 5))], ids=["in the block", "at the end", "while writing"])
def test_nothing_is_left_behind_on_an_error(before: int, old: bytes | None, fails: Callable[[ParquetStream], None], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    if old is not None:
        path.write_bytes(old)

    def go() -> None:
        with ParquetStream(path) as stream:
            if before:
                stream.write(table(before))
            else:
                stream.write(table(0))
            fails(stream)

    with pytest.raises((KeyboardInterrupt, pl.exceptions.PolarsError, pa.ArrowException)):
        go()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if old is None else {"a.parquet": old})


def test_a_disk_that_is_full_at_the_end_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = ParquetStream._group, []

    def full(self: ParquetStream, rows: pa.Table) -> None:
        written.append(rows.num_rows)
        if len(written) == 3:
            raise OSError("No space left on device")
        write(self, rows)

    monkeypatch.setattr(ParquetStream, "_group", full)
    with pytest.raises(OSError, match="No space left"):
        streamed(tmp_path / "a.parquet", [table(20)])
    assert written == [7, 7, 6]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(files.AssayError, match="it is a folder"), ParquetStream(tmp_path / "a.parquet"):
        pass


def test_a_stream_makes_its_folder(tmp_path: Path) -> None:
    streamed(tmp_path / "some" / "new" / "a.parquet", [table(3)])
    assert files.read_parquet(tmp_path / "some" / "new" / "a.parquet").equals(table(3))


def test_json_has_no_word_for_what_is_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))]})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda word: pytest.fail(word)) == {"a": None, "b": [None, [1.5, None]]}


HOLDS = """
import resource, sys
from pathlib import Path
import polars as pl
from assay.files import ParquetStream
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ParquetStream(Path(sys.argv[1])) as stream:
    for i in range(30):
        texts = [f"{i} {j} " + "x" * 20_000 for j in range(1_000)]
        rows = pl.DataFrame({"text": texts, "list": [[text] for text in texts]})
        stream.write(rows.filter(pl.arange(rows.height) == i))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_rows_that_wait_do_not_hold_what_they_were_picked_from(tmp_path: Path) -> None:
    """Thirty rows of 40 KB, each picked from 40 MB."""
    grown = subprocess.run([sys.executable, "-c", HOLDS, str(tmp_path / "a.parquet")], capture_output=True, text=True, check=True).stdout
    assert int(grown) < 400
    assert pl.read_parquet(tmp_path / "a.parquet")["text"].str.head(5).to_list() == [f"{i} {i} "[:5].ljust(5, "x") for i in range(30)]


def folder_of(at: Path, **contents: str) -> Path:
    at.mkdir(parents=True)
    for name, text in contents.items():
        (at / name.replace("_", ".")).write_text(text)
    return at


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = folder_of(tmp_path / "out", scoring_json="old", weights_bin="old")
    with pytest.raises(FileNotFoundError), replacing(out) as made:
        (made / "nowhere" / "scoring.json").write_text("new")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"scoring.json": "old", "weights.bin": "old"}
    with replacing(out) as made:
        (made / "scoring.json").write_text("new")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"scoring.json": "new"}
    with replacing(tmp_path / "deep" / "new") as made:
        (made / "scoring.json").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "out"]


def test_what_would_be_lost_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder_of(tmp_path / "run")
    source, other, foreign = folder_of(run / "checkpoint", scoring_json="x"), folder_of(tmp_path / "other", scoring_json="x"), folder_of(tmp_path / "mine", thesis_txt="x")
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(source)
    for fine in (other, tmp_path / "new", folder_of(tmp_path / "empty"), source / "onnx"):
        check_replaceable(fine, source)
    for at in (source, run, tmp_path / "link", Path(".")):
        with pytest.raises(AssayError, match="would delete .*, which it is made from"):
            check_replaceable(at, other, source)
    for at, says in ((foreign, "the folder is not empty and holds no checkpoint"), (run, "the folder is not empty and holds no checkpoint"), (foreign / "thesis.txt", "it is a file")):
        with pytest.raises(AssayError, match=says):
            check_replaceable(at)
