"""The rows of a curation on disk, in shards by content; in memory only what decisions need.

Texts are written once: to ``shards/``, in the order of (id, copy), cut by the leading digits of the id. A row's number is its place in that
order, so neither the order of the input nor the number of shards changes it. Flips and trims are kept as marks and applied when a shard is read.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assay.curate.kernels import VERSION
from assay.curate.kernels.features import FEATURES, features
from assay.engine import Engine, Tick
from assay.files import (
    MANIFEST,
    atomic,
    fingerprint,
    is_done,
    read_json,
    read_parquet,
    sha256_file,
    start_over,
    write_json,
    write_parquet,
)
from assay.pairs.schema import BOOKKEEPING, COLUMNS, conform, prompt_id

SHARD_BYTES = 32 << 20
"""Text that a shard aims at: several times this is what a process holds."""
SHARD_ROWS = 100_000
"""Rows of a shard at most: of short texts it is their number that costs memory."""

SEPARATOR = "\x1f"
"""Stands between the texts that ``trim`` cuts out."""

Kernel = Callable[[pl.DataFrame], pl.DataFrame]
"""From rows (``row`` and the columns asked for) to rows with ``row`` and features."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows on disk and their order."""

    folder: Path
    content: str
    """A name for what all rows say, whatever their order and shards."""
    sizes: list[int]
    """Rows of each shard."""
    columns: list[str]
    """Columns of the input, standard ones first."""

    @property
    def height(self) -> int:
        """All rows."""
        return sum(self.sizes)

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:05d}.parquet"

    def first(self) -> list[int]:
        """The number of the first row of each shard, and the end."""
        return [0, *np.cumsum(self.sizes).tolist()]

    def column(self, *names: str) -> pl.DataFrame:
        """Columns of all rows as they came in, with ``row``."""
        return pl.concat(self.by_shard(*names))

    def by_shard(self, *names: str) -> Iterator[pl.DataFrame]:
        """``column``, a shard at a time."""
        for i, (first, end) in enumerate(itertools.pairwise(self.first())):
            yield pl.read_parquet(self.shard(i), columns=list(names)).insert_column(0, pl.arange(first, end, eager=True, dtype=pl.UInt32).alias("row"))

    def at(self, rows: pl.Series, *names: str) -> pl.DataFrame:
        """Columns of some rows as they came in, in the order of ``rows`` (numbers of rows)."""
        return self._at(rows, self.shard, list(names))

    def features_at(self, rows: pl.Series, *names: str) -> pl.DataFrame:
        """Features of some rows as they came in, in the order of ``rows``."""
        return self._at(rows, lambda i: _beside(self.shard(i)), list(names))

    def _at(self, rows: pl.Series, file: Callable[[int], Path], names: list[str]) -> pl.DataFrame:
        if not rows.is_sorted():
            order = rows.arg_sort()
            return self._at(rows.gather(order), file, names)[order.arg_sort()]
        first = self.first()
        bounds = np.searchsorted(rows.to_numpy(), first)
        held = [(file(i), rows[a:b].cast(pl.Int64) - first[i]) for i, (a, b) in enumerate(itertools.pairwise(bounds)) if b > a]
        parts = [pl.read_parquet(path, columns=names)[places] for path, places in held]
        return pl.concat(parts) if parts else pl.read_parquet(file(0), columns=names, n_rows=0)


def _beside(shard: Path) -> Path:
    """The file of a shard's features."""
    return shard.with_suffix(".features.parquet")


def ingest(pairs: Path, folder: Path, engine: Engine, *, shards: int | None = None, tick: Tick | None = None) -> Pool:
    """Sort the pairs of a Parquet file into shards under ``folder``.

    Two passes over the data, each a task a piece: pieces of the input are cut by shard, then each shard gathers its cuts.
    """
    file = pq.ParquetFile(pairs)
    shards, name = _named(pairs, shards)
    if not is_done(folder, name):
        start_over(folder, name)
        cuts = [folder / "cuts" / f"{i:05d}.arrow" for i in range(max(1, file.metadata.num_row_groups))]
        engine.map(_cut, [(pairs, i, cut, shards) for i, cut in enumerate(cuts)], tick)
        done = engine.map(_gather, [(cuts, i, folder / f"{i:05d}.parquet") for i in range(shards)], tick)
        names = _input_columns(file)
        types = pl.read_parquet_schema(folder / "00000.parquet")
        digest = hashlib.sha256(json.dumps([[name, str(types[name])] for name in names]).encode())
        for _, content in done:
            digest.update(bytes.fromhex(content))
        write_json(folder / MANIFEST, {"fingerprint": name, "content": digest.hexdigest()[:16], "sizes": [n for n, _ in done], "columns": names})
        shutil.rmtree(folder / "cuts", ignore_errors=True)
    said = read_json(folder / MANIFEST)
    return Pool(folder, said["content"], said["sizes"], said["columns"])


def _named(pairs: Path, shards: int | None) -> tuple[int, str]:
    """The number of shards, and what the pool of these pairs in so many is called."""
    metadata = pq.ParquetFile(pairs).metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    shards = shards or max(1, min(4096, max(-(-size // SHARD_BYTES), -(-metadata.num_rows // SHARD_ROWS))))
    return shards, fingerprint(sha256_file(pairs), shards, VERSION)


def _input_columns(file: pq.ParquetFile) -> list[str]:
    """The columns of the table that ``_cut`` makes of a piece, without the features."""
    return [*COLUMNS, *sorted(set(file.schema_arrow.names) - set(COLUMNS) - BOOKKEEPING), "prompt_id"]


_MARKED = {name: f"\x1f{name}" for name in FEATURES}
"""Names of the features while they travel beside columns of the input, which may be called the same."""


def _cut(task: tuple[Path, int, Path, int]) -> None:
    """One row group of the input, cut by shard: a record batch for each."""
    pairs, group, out, shards = task
    if out.is_file():
        return
    file = pq.ParquetFile(pairs)
    extras = [c for c in _input_columns(file) if c not in COLUMNS and c != "prompt_id"]
    frame: Any = pl.from_arrow(file.read_row_group(group) if file.metadata.num_row_groups else file.read())
    frame = conform(frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))).select(*COLUMNS, *extras)
    frame = frame.hstack(features(frame).rename(_MARKED)).with_columns(pl.Series("prompt_id", [prompt_id(p) for (p,) in frame.select("prompt").iter_rows()], dtype=pl.String))
    table = frame.sort("id", maintain_order=True).to_arrow().combine_chunks()
    bounds = np.searchsorted(_shard_of(table["id"].to_pylist(), shards), np.arange(shards + 1))
    with atomic(out) as temporary, ipc.new_file(str(temporary), table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as sink:
        for first, last in itertools.pairwise(bounds):
            part = table.slice(first, last - first)
            sink.write_batch(part.to_batches()[0] if part.num_rows else pa.RecordBatch.from_pylist([], schema=table.schema))


def _shard_of(ids: list[str], shards: int) -> NDArray[np.int64]:
    """Shards are ranges of ids, so that one after the other they are in order."""
    return np.fromiter((int(i[:8], 16) * shards >> 32 for i in ids), np.int64, len(ids))


def _gather(task: tuple[list[Path], int, Path]) -> tuple[int, str]:
    """All cuts of one shard as its file; its rows, and a digest of each in order."""
    cuts, number, out = task
    beside = out.with_suffix(".json")
    if beside.is_file() and out.is_file():
        said = read_json(beside)
        return said["rows"], said["digests"]
    batches = []
    for cut in cuts:
        with pa.memory_map(str(cut)) as stream:
            batches.append(ipc.open_file(stream).get_batch(number))
    rows: Any = pl.from_arrow(pa.Table.from_batches(batches))
    rows = _numbered(rows)
    write_parquet(_beside(out), rows.select(pl.col(theirs).alias(name) for name, theirs in _MARKED.items()))
    rows = rows.drop(_MARKED.values())
    digests = "".join(_row_digest(row) for row in rows.drop("prompt", "chosen", "rejected", "prompt_id").iter_rows(named=True))
    write_parquet(out, rows)
    write_json(beside, {"rows": rows.height, "digests": digests})
    return rows.height, digests


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort by content and number rows of equal ``id`` from 0 (column ``copy``), so that (id, copy) names a row."""
    twins = rows.select(twin=pl.col("id").is_duplicated()).to_series()
    core = rows.drop("prompt_id", *_MARKED.values())
    keys = [json.dumps(core.row(i, named=True), sort_keys=True, ensure_ascii=False, default=str) if twin else "" for i, twin in enumerate(twins)]
    ordered = rows.with_columns(pl.Series("\x1fkey", keys, dtype=pl.String)).sort("id", "\x1fkey").drop("\x1fkey")
    return ordered.with_columns(copy=pl.int_range(pl.len()).over("id").cast(pl.Int32))


def _row_digest(row: dict[str, Any]) -> str:
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def map_rows(pool: Pool, rows: pl.DataFrame, kernel: Kernel, columns: list[str], folder: Path, engine: Engine, tick: Tick | None = None) -> pl.DataFrame:
    """``kernel`` over the shards that hold ``rows``, one file of features a shard in ``folder``; all of them, in the order of the rows.

    ``rows`` has ``row``, and where it has ``flipped`` or ``trim`` the texts are given to the kernel as they now stand.
    """
    parts = [read_parquet(path) for path in map_files(pool, rows, kernel, columns, folder, engine, tick)]
    return pl.concat(parts).sort("row") if parts else kernel(pl.DataFrame(schema={"row": pl.UInt32, **{c: COLUMNS.get(c, pl.Null) for c in columns}}))


def map_files(pool: Pool, rows: pl.DataFrame, kernel: Kernel, columns: list[str], folder: Path, engine: Engine, tick: Tick | None = None) -> list[Path]:
    """As ``map_rows``, but only the files: for features too many to be held together."""
    first = pool.first()
    marks = [c for c in ("flipped", "trim") if c in rows.columns]
    wanted = rows.select("row", *marks).sort("row")
    bounds = np.searchsorted(wanted["row"].to_numpy(), first)
    folder = folder / f"of-{len(pool.sizes)}"  # a file of another number of shards holds other rows
    tasks = []
    for i, (a, b) in enumerate(itertools.pairwise(bounds)):
        if b > a:
            tasks.append((pool.shard(i), first[i], wanted.slice(a, b - a), columns, kernel, folder / f"{i:05d}.parquet"))
    engine.map(_run_kernel, tasks, tick)
    return [task[-1] for task in tasks]


def _run_kernel(task: tuple[Path, int, pl.DataFrame, list[str], Kernel, Path]) -> None:
    shard, first, wanted, columns, kernel, out = task
    if not out.is_file():
        write_parquet(out, kernel(load(shard, first, wanted, columns).insert_column(0, wanted["row"])))


def load(shard: Path, first: int, wanted: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """``columns`` of the wanted rows of a shard, in their order, flips and trims applied."""
    sides = [c for c in ("chosen", "rejected") if c in columns]
    both = ["chosen", "rejected"] if sides and "flipped" in wanted.columns else sides
    table = pq.read_table(shard, columns=list(dict.fromkeys([*columns, *both])))
    if table.num_rows != wanted.height:
        table = table.take(pa.array(wanted["row"].to_numpy().astype(np.int64) - first))  # copies: nothing keeps the other rows in memory
    frame: Any = pl.from_arrow(table)
    return edited(frame, wanted).select(columns)


def edited(frame: pl.DataFrame, marks: pl.DataFrame) -> pl.DataFrame:
    """Rows with their answers exchanged where ``flipped``, and without the text ``trim`` where it is given."""
    sides = [c for c in ("chosen", "rejected") if c in frame.columns]
    if len(sides) == 2 and "flipped" in marks.columns and marks["flipped"].any():
        turn = marks["flipped"].fill_null(False)
        frame = frame.with_columns(
            chosen=pl.when(turn).then("rejected").otherwise("chosen"),
            rejected=pl.when(turn).then("chosen").otherwise("rejected"),
            **({"margin": pl.when(~turn).then("margin")} if "margin" in frame.columns else {}),
        )
    if sides and "trim" in marks.columns and marks["trim"].is_not_null().any():
        for side in sides:
            frame = frame.with_columns(pl.Series(side, [_trimmed(m, t) for m, t in zip(frame[side], marks["trim"], strict=True)], dtype=COLUMNS[side]))
    return frame


def _trimmed(messages: Any, trim: str | None) -> Any:
    if not trim:
        return messages
    for piece in trim.split(SEPARATOR):
        messages = [{**m, "content": m["content"].replace(piece, "").strip()} for m in messages]
    return messages


def part_features(shard: pl.DataFrame) -> pl.DataFrame:
    """``features`` with the rows' numbers."""
    return shard.select("row").hstack(features(shard))
