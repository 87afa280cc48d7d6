"""From a path or a hub id to raw rows: opens every file type, names every row by file and number.

A row that cannot be read at all (not JSON, not UTF-8) comes out as a reason instead of a value. A file that is not
what its name says raises one clear error.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from assay.errors import AssayError, MissingExtra
from assay.files import first_line
from assay.pairs.messages import kind_of
from assay.remote import fetch, url

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz", ".arrow", ".feather")

DESCRIBING = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "manifest.json")
"""JSON files beside data that describe it."""
SPLITS = {"train", "validation", "val", "test", "dev", "filtered", "raw", "eval", "gpt", "claude"}


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in a file. ``number`` is the line of a JSONL file and counts from 1 everywhere."""

    file: str
    number: int
    value: dict[str, Any] | None
    reason: str | None = None
    raw: str | None = None


def find(source: str, data_root: Path | None = None, split: str | None = None, config: str | None = None) -> list[Path] | None:
    """The data files that ``source`` stands for, sorted by name; None if it must be a hub id.

    ``source`` is a file, a folder, or a hub id ``owner/name`` of which a copy may lie under ``data_root`` (or the
    folder named by the environment variable ASSAY_DATA). Of such a copy only the files of ``split`` are taken, if its files
    are named by split as the hub's are (``train.jsonl``, ``data/filtered-00000.parquet``); and, if it has a folder
    called ``config``, only that folder's.

    Raises:
        AssayError: nothing is there, or the folder holds no data file.
    """
    if not source:
        raise AssayError("the name of a source is empty; give a file, a folder or a hub id")
    path = fetch(source) if url(source) else Path(source).expanduser()
    if path.is_dir():
        return _files_in(path)
    if path.is_file():
        return [path]
    roots = [root for root in (data_root, os.environ.get("ASSAY_DATA")) if root]
    for root in roots:
        copy = _copy(root, source)
        if copy.is_dir():
            copy = copy / config if config and (copy / config).is_dir() else copy
            return _of_split(copy, _files_in(copy), split)
    if is_hub_id(source):
        return None
    where = f" (also looked in {', '.join(map(str, roots))})" if roots else ""
    raise AssayError(f"{source}: no such file or folder{where}, and not a hub id of the form owner/name")


def _copy(root: str | Path, source: str) -> Path:
    """The copy of a hub data set under a data root, which may be in an object store."""
    if url(root) is None:
        return Path(root) / source
    try:
        return fetch(f"{url(root)}/{source}")
    except AssayError as error:
        if "nothing is there" in str(error):
            return Path(root) / source
        raise


def is_hub_id(source: str) -> bool:
    """Whether ``source`` has the form ``owner/name`` and does not look like a data file."""
    parts = source.split("/")
    is_local = source.startswith((".", "~")) or source.endswith((*SUFFIXES, ".csv", ".tsv", ".txt")) or Path(parts[0]).is_dir()
    return len(parts) == 2 and all(parts) and not is_local


def _files_in(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    if any(p.suffix == ".arrow" for p in files):  # a `datasets` folder: its .json files describe it
        files = [p for p in files if p.suffix == ".arrow"]
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    files = [p for p in files if p.name not in DESCRIBING and p.name != "aside.jsonl" and not p.name.endswith(".aside.jsonl")]
    if not files:
        raise AssayError(f"{folder}: holds no data file; looked for {', '.join(SUFFIXES)}")
    return files


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    """The files of ``split``, as the hub names them: a folder or the beginning of a file's name, ``train/``, ``data/train_prefs-00000-of-00001.parquet``.

    All files, if none of them names a split.
    """
    named = {path: _split_of(path.relative_to(folder)) for path in files}
    there = sorted({name for name in named.values() if name})
    if split is None or not there:
        return files
    chosen = [path for path, name in named.items() if name == split or (split not in there and name and name.split("_")[0] == split)]
    if not chosen:
        raise AssayError(f"{folder}: has no split `{split}`, only {', '.join(there)}")
    return chosen


def _split_of(path: Path) -> str | None:
    """The split a file belongs to by its name (up to the shard number) or by its folder; None if neither begins with the name of one."""
    stem = re.split(r"-\d{4,}", path.name.split(".")[0])[0].lower()
    for part in (stem, *(folder.lower() for folder in reversed(path.parts[:-1]))):
        if part.split("_")[0] in SPLITS:
            return part
    return None


def rows(source: str, *, split: str = "train", config: str | None = None, data_root: Path | None = None) -> Iterator[RawRow]:
    """Every row of a file, a folder or a hub data set, in file order.

    Raises:
        AssayError: a file is missing, empty or not what its name says, or the hub cannot be reached.
    """
    files = find(source, data_root, split, config)
    if files is None:
        yield from _hub(source, split, config)
        return
    for path in files:
        yield from _open(path)


def _open(path: Path) -> Iterator[RawRow]:
    if path.stat().st_size == 0:
        raise AssayError(f"{path}: the file is empty")
    name = path.name
    if name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith((".arrow", ".feather")):
        yield from _arrow(path)
    elif name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
        yield from _json_lines(path)
    elif name.endswith((".json", ".json.gz")):
        yield from _json(path)
    else:
        raise AssayError(f"{path}: unknown file type `{path.suffix or name}`; Assay reads {', '.join(SUFFIXES)}")


def _parquet(path: Path) -> Iterator[RawRow]:
    try:
        file = pq.ParquetFile(path)
        batches = file.iter_batches(batch_size=2_000)
        yield from _arrow_rows(path, batches)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise AssayError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


def _arrow(path: Path) -> Iterator[RawRow]:
    try:
        with pa.memory_map(str(path)) as stream:
            try:
                reader = ipc.open_stream(stream)
                batches: Any = iter(reader)
            except pa.ArrowInvalid:
                file = ipc.open_file(stream)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            yield from _arrow_rows(path, batches)
    except (pa.ArrowInvalid, OSError) as error:
        raise AssayError(f"{path}: not a readable Arrow file ({first_line(error)})") from None


def _arrow_rows(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[RawRow]:
    number = 0
    for batch in batches:
        for row in _python_rows(batch):
            number += 1
            yield RawRow(str(path), number, *row)


def _python_rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    try:
        for row in batch.to_pylist():
            yield row, None
    except UnicodeDecodeError:  # a string column that holds bytes: find the rows one by one
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0], None
            except UnicodeDecodeError:
                yield None, "not UTF-8"


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        try:
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise AssayError(f"{path}: not a readable gzip file ({first_line(error)})") from None
    return data


def _lines(path: Path) -> Iterator[bytes]:
    if not path.name.endswith(".gz"):
        with path.open("rb") as stream:
            yield from stream
        return
    try:
        with gzip.open(path, "rb") as stream:
            yield from stream
    except (OSError, EOFError, zlib.error) as error:
        raise AssayError(f"{path}: not a readable gzip file ({first_line(error)})") from None


def _json_lines(path: Path) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(path), start=1):
        if number == 1:
            _refuse_binary(path, line)
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield _json_line(str(path), number, line)


def _refuse_binary(path: Path, head: bytes) -> None:
    for magic, kind in ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip")):
        if head.startswith(magic):
            raise AssayError(f"{path}: holds {kind} data, not JSON; give it the suffix of its type")


def _json_line(file: str, number: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return RawRow(file, number, None, f"not UTF-8 (byte {error.start + 1})", line.decode("utf-8", "replace"))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RawRow(file, number, None, f"not JSON ({_json_problem(error)})", text)
    if not isinstance(value, dict):
        return RawRow(file, number, None, f"not an object but {kind_of(value)}", text)
    return RawRow(file, number, value)


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}" if error.lineno == 1 else f"{error.msg}, line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def _json(path: Path) -> Iterator[RawRow]:
    data = _read_bytes(path)
    _refuse_binary(path, data[:8])
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AssayError(f"{path}: not UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        hint = "; it looks like JSON lines: name it .jsonl" if error.msg == "Extra data" else ""
        raise AssayError(f"{path}: not JSON ({error.msg}, line {error.lineno}, column {error.colno}){hint}") from None
    except (ValueError, RecursionError) as error:
        raise AssayError(f"{path}: not JSON ({_json_problem(error)})") from None
    if isinstance(value, dict):
        lists = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(lists) != 1:
            raise AssayError(f"{path}: expected a list of rows, or an object with one list of rows, found an object with the keys {', '.join(value) or '(none)'}")
        value = value[lists[0]]
    if not isinstance(value, list):
        raise AssayError(f"{path}: expected a list of rows, found {kind_of(value)}")
    for number, row in enumerate(value, start=1):
        if isinstance(row, dict):
            yield RawRow(str(path), number, row)
        else:
            yield RawRow(str(path), number, None, f"not an object but {kind_of(row)}", json.dumps(row))


def _hub(source: str, split: str, config: str | None) -> Iterator[RawRow]:
    try:
        import datasets
    except ImportError:
        raise MissingExtra(f"reading {source} from the hub", "hub") from None
    try:
        try:
            data = datasets.load_dataset(source, config, split=split)
        except ValueError:  # not a configuration but a folder of the data set
            data = datasets.load_dataset(source, data_dir=config, split=split)
    except Exception as error:
        raise AssayError(
            f"{source}: not a local path, and the hub did not give it ({first_line(error)}). "
            f"Put a copy at ASSAY_DATA/{source} to work without a network."
        ) from None
    for number, row in enumerate(data, start=1):
        yield RawRow(f"hub:{source}/{split}", number, dict(row))
