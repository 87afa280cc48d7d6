"""Writing so that a killed process leaves nothing half done, and naming by content.

Every file goes to a temporary name in the same folder and is renamed when it is complete. A folder is complete when
its ``manifest.json`` exists, and that is always written last.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import AssayError

MANIFEST = "manifest.json"
CONTRACT = "scoring.json"
"""What only a checkpoint of Assay has, see ``assay.model.contract``."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, remove it if not."""
    if path.is_dir():
        raise AssayError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.")
    except (OSError, ValueError) as error:
        raise AssayError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path, *sources: Path) -> Iterator[Path]:
    """Yield an empty folder beside the checkpoint ``folder``; it takes its place if the block succeeds, and goes if not.

    Raises:
        AssayError: ``folder`` cannot be replaced, see ``check_replaceable``.
    """
    check_replaceable(folder, *sources)
    whole = folder.resolve()
    made, old = whole.with_name(f".{whole.name}.saving"), whole.with_name(f".{whole.name}.replaced")
    for left in (made, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        if whole.exists():
            whole.rename(old)
        made.rename(whole)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_replaceable(folder: Path, *sources: Path) -> None:
    """Check, before any work, that nothing is lost if a checkpoint made of the checkpoints ``sources`` takes the place of ``folder``.

    Raises:
        AssayError: it is or holds one of the sources, or is neither a checkpoint of Assay nor empty.
    """
    for source in sources:
        if source.resolve().is_relative_to(folder.resolve()):
            raise AssayError(f"{folder}: writing there would delete {source}, which it is made from; give another folder")
    if folder.is_file():
        raise AssayError(f"cannot write {folder}: it is a file")
    if folder.is_dir() and not (folder / CONTRACT).is_file() and any(folder.iterdir()):
        raise AssayError(f"{folder}: the folder is not empty and holds no checkpoint of Assay's (no {CONTRACT}); give an empty or a new one")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, all or nothing."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys: equal values give equal bytes. A float that is no number becomes null, as JSON has no other word for it."""
    write_text(path, json.dumps(finite(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """``value`` with None for every float that is no number."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        AssayError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AssayError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AssayError(f"{path}: not valid JSON ({error}). Delete the folder it is in to make it anew.") from None


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as zstd Parquet in row groups of 20,000; equal frames give equal bytes."""
    with atomic(path) as temporary:
        pq.write_table(frame.to_arrow(), temporary, compression="zstd", row_group_size=ROW_GROUP)


ROW_GROUP = 20_000


class ParquetStream:
    """A Parquet file written frame by frame, all or nothing; its bytes depend on the rows alone, not on how they were cut into frames.

    Without a single frame no file is written.
    """

    def __init__(self, path: Path) -> None:
        self._target = atomic(path)
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "ParquetStream":
        self._path = self._target.__enter__()
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Add rows; all frames have the same columns."""
        self._waiting.append(_alone(frame.to_arrow()))
        self._rows += frame.height
        if self._rows >= ROW_GROUP:
            whole = pa.concat_tables(self._waiting)
            full = whole.num_rows // ROW_GROUP * ROW_GROUP
            for start in range(0, full, ROW_GROUP):
                self._group(whole.slice(start, ROW_GROUP))
            self._waiting, self._rows = [whole.slice(full)], whole.num_rows - full

    def _group(self, table: pa.Table) -> None:
        table = table.combine_chunks()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None and self._waiting and (self._rows or self._writer is None):
                self._group(pa.concat_tables(self._waiting))
            if self._writer is not None:
                self._writer.close()
        except BaseException as late:
            self._target.__exit__(type(late), late, late.__traceback__)
            raise
        if self._writer is None and error[0] is None:
            error = (FileNotFoundError, FileNotFoundError("no frame was written"), None)
        self._target.__exit__(*error)


def _alone(rows: pa.Table) -> pa.Table:
    """The same rows, but if they were picked from far more, a copy: a few rows that wait would otherwise hold all the texts they were picked from."""
    return rows.take(pa.array(range(rows.num_rows), pa.int64())) if rows.get_total_buffer_size() > 2 * rows.nbytes else rows


def read_parquet(path: Path, without: Sequence[str] = ()) -> pl.DataFrame:
    """Read a Parquet file that Assay wrote, but for the columns ``without``.

    Raises:
        AssayError: the file is missing or not Parquet.
    """
    if not path.is_file():
        raise AssayError(f"{path}: no such file")
    try:
        return pl.scan_parquet(path, glob=False).drop(without).collect()
    except Exception as error:
        raise AssayError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, for quoting inside another message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """16 hex characters that name the content of ``parts`` (anything JSON can say)."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_done(folder: Path, print_: str) -> bool:
    """Whether ``folder`` holds a finished result of exactly this fingerprint."""
    return _fingerprint_of(folder) == print_


def _fingerprint_of(folder: Path) -> str | None:
    manifest = folder / MANIFEST
    said = read_json(manifest) if manifest.is_file() else None
    return said.get("fingerprint") if isinstance(said, dict) else None


def claim(folder: Path) -> None:
    """Make ``folder`` ours, so that a later run knows its content as Assay's; what Assay left there stays.

    Raises:
        AssayError: the folder holds something that is not Assay's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = folder / ".started"
    if not started.is_file():
        _refuse_foreign(folder)
        write_text(started, "a curation")


def _refuse_foreign(folder: Path) -> None:
    """A ``..started.*`` is what a process leaves that was killed while it wrote ``.started``: no reason to refuse."""
    if _fingerprint_of(folder) is None and any(not entry.name.startswith("..started.") for entry in folder.iterdir()):
        raise AssayError(f"{folder}: the folder is not empty and holds nothing of Assay's; give an empty or a new one")


def start_over(folder: Path, print_: str) -> None:
    """Empty ``folder`` unless it holds the unfinished work of the same fingerprint; then leave it to be resumed.

    Which fingerprint is under way is written to ``.started``.

    Raises:
        AssayError: the folder holds something that is not Assay's.
    """
    started = folder / ".started"
    if started.is_file() and started.read_text() == print_:
        return
    if folder.exists():
        if not started.is_file():
            _refuse_foreign(folder)
        write_text(started, "emptying")  # so that a process killed here leaves a folder that is still known as Assay's
        for entry in folder.iterdir():
            if entry.name != started.name:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_text(started, print_)
