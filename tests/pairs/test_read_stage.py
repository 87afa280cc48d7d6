"""The stage that reads: many sources to one table on disk, the same as reading in memory, and never a source twice."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay import pipeline
from assay.errors import AssayError, MissingExtra
from assay.files import MANIFEST, read_json, read_parquet
from assay.pairs import read as reading
from assay.pairs.read import read
from assay.pairs.schema import COLUMNS, stack
from assay.pipeline import read_stage
from assay.recipes.recipe import Source

Row = dict[str, Any]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def plain(i: int, **more: Any) -> Row:
    return {"prompt": f"question {i}", "chosen": "yes", "rejected": "no", **more}


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """Four sources of different formats and columns, with rows that cannot be read."""
    rng = random.Random(0)
    one = [plain(i, level=i, note=rng.choice(["a", 1, None, True]), only_here=float(i)) for i in range(23)]
    two = [plain(100 + i, level=i / 2, note="text", tags=["x"]) for i in range(11)] + ["not json", plain(0, chosen="no"), plain(1, chosen="no")]
    rated = [{"prompt": f"rated {i // 3}", "response": f"answer {i}", "helpfulness": i % 3, "correctness": 1, "coherence": 1, "complexity": 1, "verbosity": 1} for i in range(12)]
    swapped = [{"question": f"swapped {i}", "chosen": "yes", "rejected": "no", "level": "high", "category": 7} for i in range(5)]
    files = {"one": one, "two": two, "rated": rated, "swapped": swapped}
    paths = {name: jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()}
    return [Source(path="one.jsonl"), Source(path=str(paths["two"]), name="second"), Source(path="rated.jsonl"), Source(path="swapped.jsonl", columns={"question": "prompt"}, limit=4)]


def in_memory(sources: list[Source], base: Path) -> list[reading.Reading]:
    return [read(base / s.path, **s.model_dump(exclude={"path"})) for s in sources]


@pytest.fixture(params=[20_000, 7, 1], ids=lambda n: f"chunks of {n}")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(reading, "CHUNK", request.param)
    value: int = request.param
    return value


def test_the_table_is_that_of_reading_in_memory(chunk: int, sources: list[Source], tmp_path: Path) -> None:
    path = read_stage(sources, tmp_path, tmp_path / "read")
    assert path == tmp_path / "read" / "pairs.parquet"
    parts = in_memory(sources, tmp_path)
    want, found = stack([r.pairs for r in parts]), read_parquet(path)
    assert found.schema == want.schema
    assert list(found.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert found.equals(want)
    assert found["source"].unique(maintain_order=True).to_list() == ["one", "second", "rated", "swapped"]
    assert found.height == 23 + 11 + 4 + 4


def test_the_counts_add_up_and_every_row_set_aside_is_there(chunk: int, sources: list[Source], tmp_path: Path) -> None:
    read_stage(sources, tmp_path, tmp_path / "read")
    said, parts = read_json(tmp_path / "read" / MANIFEST), in_memory(sources, tmp_path)
    assert said["rows_read"] == said["rows_used"] + said["rows_aside"] == 23 + 14 + 12 + 4
    for key, of in (("rows_read", lambda r: r.rows_read), ("rows_used", lambda r: r.rows_used), ("rows_aside", lambda r: len(r.aside)), ("pairs", lambda r: r.pairs.height)):
        assert said[key] == sum(of(r) for r in parts), key
    aside = [json.loads(line) for line in (tmp_path / "read" / "aside.jsonl").read_text().splitlines()]
    assert aside == [row for r in parts for row in r.aside]
    assert said["reasons"] == dict(Counter(row["reason"] for row in aside))
    assert said["formats"] == {file: format for r in parts for file, format in r.formats.items()}
    assert sorted(p.name for p in (tmp_path / "read").iterdir()) == [".started", "aside.jsonl", MANIFEST, "pairs.parquet"]


VALUES = [1, 2.5, True, "text", None, [1, 2], {"a": 1}, -7, 0.1, "", 10**12]


@pytest.mark.parametrize("seed", range(8))
def test_mixed_values_over_the_borders_of_chunks(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows are cut, a column comes out the same."""
    rng = random.Random(seed)
    kinds = rng.sample(VALUES, 3)
    rows = [plain(i, extra=kinds[min(2, i // 4)]) for i in range(12)]
    jsonl(tmp_path / "set.jsonl", rows)
    tables = []
    for size in (100, 4, 3, 1):
        monkeypatch.setattr(reading, "CHUNK", size)
        tables.append(read_parquet(read_stage([Source(path="set.jsonl")], tmp_path, tmp_path / f"read{size}")))
        assert tables[-1].equals(read(tmp_path / "set.jsonl").pairs)
    for table in tables[1:]:
        assert table.schema == tables[0].schema, kinds
        assert [_same(v) for v in table["extra"]] == [_same(v) for v in tables[0]["extra"]], kinds


def _same(value: Any) -> Any:
    """Among texts a number is written as its chunk held it: 1 or 1.0."""
    return value.removesuffix(".0") if isinstance(value, str) else value


def test_workers_change_nothing(sources: list[Source], tmp_path: Path) -> None:
    alone, shared = (read_stage(sources, tmp_path, tmp_path / f"read{n}", workers=n) for n in (1, 2))
    assert alone.read_bytes() == shared.read_bytes()
    assert (alone.parent / "aside.jsonl").read_bytes() == (shared.parent / "aside.jsonl").read_bytes()
    assert read_json(alone.parent / MANIFEST) == read_json(shared.parent / MANIFEST)


def test_a_finished_source_is_not_read_again(sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_stage(sources, tmp_path, tmp_path / "whole")
    called: list[str] = []
    really = pipeline.read_to

    def counted(folder: Path, source: str, **more: Any) -> dict[str, Any]:
        called.append(Path(source).stem)
        if called.count("rated") == 1 and called[-1] == "rated":
            (folder / "00000.parquet").parent.mkdir(parents=True, exist_ok=True)
            (folder / "00000.parquet").write_bytes(b"half a file")
            raise KeyboardInterrupt
        return really(folder, source, **more)

    monkeypatch.setattr(pipeline, "read_to", counted)
    with pytest.raises(KeyboardInterrupt):
        read_stage(sources, tmp_path, tmp_path / "killed")
    assert not (tmp_path / "killed" / MANIFEST).exists()
    again = read_stage(sources, tmp_path, tmp_path / "killed")
    assert called == ["one", "two", "rated", "rated", "swapped"]
    assert again.read_bytes() == whole.read_bytes()
    assert read_json(again.parent / MANIFEST) == read_json(whole.parent / MANIFEST)
    read_stage(sources, tmp_path, tmp_path / "killed")
    assert len(called) == 5


def test_what_a_killed_reading_left_does_not_come_in(sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that was killed with more parts than it has in the end, for instance because it shrank or was cut otherwise."""
    part = tmp_path / "read" / "parts" / "000"
    stopped = pipeline.read_to

    def killed(folder: Path, source: str, **more: Any) -> dict[str, Any]:
        stopped(folder, source, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "CHUNK", 5)
    monkeypatch.setattr(pipeline, "read_to", killed)
    with pytest.raises(KeyboardInterrupt):
        read_stage(sources, tmp_path, tmp_path / "read")
    assert len(list(part.glob("*.parquet"))) > 1
    monkeypatch.setattr(reading, "CHUNK", 20_000)
    monkeypatch.setattr(pipeline, "read_to", stopped)
    found = read_parquet(read_stage(sources, tmp_path, tmp_path / "read"))
    assert found.height == read_json(tmp_path / "read" / MANIFEST)["pairs"]
    assert found["id"].n_unique() == found.height


def test_another_source_starts_the_stage_anew(sources: list[Source], tmp_path: Path) -> None:
    read_stage(sources, tmp_path, tmp_path / "read")
    found = read_parquet(read_stage(sources[:1], tmp_path, tmp_path / "read"))
    assert found["source"].unique().to_list() == ["one"]
    jsonl(tmp_path / "one.jsonl", [plain(1)])
    assert read_parquet(read_stage(sources[:1], tmp_path, tmp_path / "read")).height == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_cannot_be_read_is_named(workers: int, sources: list[Source], tmp_path: Path) -> None:
    jsonl(tmp_path / "bad.jsonl", [{"what": 1}])
    with pytest.raises(AssayError, match=r"bad\.jsonl: no known format has the keys what"):
        read_stage([*sources, Source(path="bad.jsonl")], tmp_path, tmp_path / "read", workers=workers)


def test_what_is_raised_in_another_process_arrives_whole() -> None:
    import pickle

    for error in (AssayError("one"), MissingExtra("reading from the hub", "hub")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_the_same_file_twice_is_read_as_two_sources(tmp_path: Path) -> None:
    jsonl(tmp_path / "set.jsonl", [plain(i) for i in range(3)])
    found = read_parquet(read_stage([Source(path="set.jsonl", name="a"), Source(path="set.jsonl", name="b")], tmp_path, tmp_path / "read"))
    assert found.select(pl.col("source").unique(maintain_order=True)).to_series().to_list() == ["a", "b"]
    assert found.height == 6


def test_a_name_that_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "yes", "rejected": "no", **({"source": "evol"} if i else {})}) + "\n" for i in range(2)))
    for name, expected in (("mine", ["mine", "mine"]), (None, ["evol", "set"])):
        found = read_parquet(read_stage([Source(path="set.jsonl", name=name)], tmp_path, tmp_path / f"read-{name}"))
        assert sorted(found["source"]) == expected
