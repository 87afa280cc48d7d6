"""The verb ``read``: any source in, one pair table out, and every row that could not be read kept with its reason."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from assay.errors import AssayError, did_you_mean
from assay.files import MANIFEST, write_json, write_parquet, write_text
from assay.pairs import schema, sources
from assay.pairs.formats import FLOAT32_MAX, FORMATS, Format, best_and_worst, check_extras, recognise
from assay.pairs.messages import Aside, check_answer, check_pair, check_prompt

SAMPLE = 200
CHUNK = 20_000
EXCERPT = 2_000


@dataclass(slots=True)
class Reading:
    """What came out of reading.

    ``rows_read = rows_used + len(aside)`` always holds; ``pairs`` can have fewer rows than were used (two rated answers
    make one pair) or more (a row with several right and wrong answers makes one for each two).
    """

    pairs: pl.DataFrame
    aside: list[dict[str, Any]] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)
    rows_read: int = 0
    rows_used: int = 0

    def reasons(self) -> dict[str, int]:
        """How many rows were set aside for each reason, the commonest first."""
        counts: dict[str, int] = {}
        for row in self.aside:
            counts[row["reason"]] = counts.get(row["reason"], 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, folder: Path, fingerprint: str) -> None:
        """Write ``pairs.parquet``, ``aside.jsonl`` and, last, the manifest, with the name of what was read."""
        write_parquet(folder / "pairs.parquet", self.pairs)
        write_aside(folder / "aside.jsonl", self.aside)
        write_json(folder / MANIFEST, {**self.summary(), "fingerprint": fingerprint})

    def summary(self) -> dict[str, Any]:
        """The counts of this reading, as written to the manifest."""
        return {
            "rows_read": self.rows_read,
            "rows_used": self.rows_used,
            "rows_aside": len(self.aside),
            "pairs": self.pairs.height,
            "reasons": self.reasons(),
            "formats": self.formats,
        }


def write_aside(path: Path, aside: Iterable[dict[str, Any]]) -> None:
    """Write rows that were set aside as JSON lines: file, row, reason, raw."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in aside))


def read(
    source: str | Path,
    *,
    name: str | None = None,
    format: str | None = None,
    attribute: str = "helpfulness",
    columns: dict[str, str] | None = None,
    split: str = "train",
    config: str | None = None,
    data_root: Path | None = None,
    limit: int | None = None,
    strict: bool = False,
    tick: Callable[[int], None] | None = None,
) -> Reading:
    """Read preference data of any known format into a pair table.

    Args:
        source: a file, a folder, or a hub id ``owner/name``.
        name: value of the column `source` for rows that have none; by default the name of the file or folder.
        format: name of the format; recognised from the rows by default.
        attribute: which rating orders the answers, for formats of one rated answer a row.
        columns: names to give to columns before anything else, ``{"question": "prompt"}``.
        split, config: which part of a hub data set.
        data_root: a folder with copies of hub data sets, ``data_root/owner/name``.
        limit: stop after this many rows.
        strict: raise at the first row that cannot be read.
        tick: called with the number of rows read so far.

    Raises:
        AssayError: the source cannot be opened, its format is not known, or no row of it can be read.
    """
    source = str(source)
    raw = _renamed(itertools.islice(sources.rows(source, split=split, config=config, data_root=data_root), limit), columns or {})
    reader = _Reader(name or _default_name(source), attribute, strict, tick)
    for file_rows in _by_file(raw):
        reader.read_file(file_rows, _named(format) if format else None)
    reader.finish()
    if not reader.out.rows_read:
        raise AssayError(f"{source}: holds no rows")
    if not reader.frames:
        worst = next(iter(reader.out.reasons()))
        raise AssayError(f"{source}: no row could be read, of {reader.out.rows_read:,}; most often: {worst}")
    reader.out.pairs = schema.stack(reader.frames)
    return reader.out


def _named(name: str) -> Format:
    for known in FORMATS:
        if known.name == name:
            return known
    names = [f.name for f in FORMATS]
    raise AssayError(f"unknown format `{name}`.{did_you_mean(name, names)} Known: {', '.join(names)}")


def _default_name(source: str) -> str:
    path = Path(source)
    stem = path.name.split(".")[0] or source
    return path.absolute().parent.name if stem in ("pairs", "train", "data") and path.absolute().parent.name else stem


def _renamed(raw: Iterator[sources.RawRow], columns: dict[str, str]) -> Iterator[sources.RawRow]:
    seen = not columns
    for row in raw:
        if columns and row.value is not None:
            seen = seen or not columns.keys().isdisjoint(row.value)
            others = {k: v for k, v in row.value.items() if k not in columns}
            renamed = {columns[k]: v for k, v in row.value.items() if k in columns}
            yield sources.RawRow(row.file, row.number, {**others, **renamed})
        else:
            yield row
    if not seen:
        raise AssayError(f"--columns: no row has a column {' or '.join(columns)} to be renamed")


def _by_file(raw: Iterator[sources.RawRow]) -> Iterator[Iterator[sources.RawRow]]:
    """Consecutive rows of the same file together: each file's format is recognised by itself."""
    head = next(raw, None)

    def one_file(file: str) -> Iterator[sources.RawRow]:
        nonlocal head
        while head is not None and head.file == file:
            yield head
            head = next(raw, None)

    while head is not None:
        yield one_file(head.file)


def _without_own_ids(pairs: pl.DataFrame) -> pl.DataFrame:
    """Drop ``source_id`` where it only repeats the id Assay gives: reading what Assay wrote adds nothing."""
    if "source_id" not in pairs.columns or pairs.schema["source_id"] != pl.String:
        return pairs
    own = pairs["source_id"] == pairs["id"]
    return pairs.drop("source_id") if own.all() else pairs.with_columns(source_id=pl.when(~own).then("source_id"))


class _Reader:
    """The state of one reading: frames made so far, rows set aside, answers waiting for their group."""

    def __init__(self, name: str, attribute: str, strict: bool, tick: Callable[[int], None] | None) -> None:
        self.name, self.attribute, self.strict, self.tick = name, attribute, strict, tick
        self.out = Reading(pairs=pl.DataFrame())
        self.frames: list[pl.DataFrame] = []
        self.waiting: list[dict[str, Any]] = []
        self.groups: dict[str, list[tuple[sources.RawRow, dict[str, Any]]]] = {}

    def read_file(self, raw: Iterator[sources.RawRow], format: Format | None) -> None:
        sample = list(itertools.islice(raw, SAMPLE))
        format = format or self._recognise(sample)
        for row in itertools.chain(sample, raw):
            self.out.rows_read += 1
            if self.tick and self.out.rows_read % 500 == 0:
                self.tick(self.out.rows_read)
            try:
                if row.value is None:
                    raise Aside(row.reason or "unreadable")
                converted = format.convert(row.value, self.attribute)
                check_extras(converted)
                if format.rated:
                    check_prompt(converted[0]["prompt"])
                    check_answer(converted[0]["response"], "response")
            except Aside as reason:
                self._set_aside(row, str(reason))
                continue
            if format.rated:
                answer = converted[0]
                self.groups.setdefault(schema.prompt_id(answer["prompt"]), []).append((row, answer))
            else:
                self.out.rows_used += 1
                self._add(converted)

    def finish(self) -> None:
        """Pair the rated answers, whose prompts may be spread over files, and close the last frame."""
        for group in self.groups.values():
            self._pair_up(group)
        self._flush()

    def _recognise(self, sample: list[sources.RawRow]) -> Format:
        rows = [row.value for row in sample if row.value is not None]
        format = recognise(rows)
        if format is None and rows:
            keys = list(dict.fromkeys(key for row in rows for key in row))
            raise AssayError(
                f"{sample[0].file}: no known format has the keys {', '.join(keys) or '(none)'}. "
                f"Rename columns with --columns, for example --columns question=prompt; formats: `assay explain formats`"
            )
        format = format or _named("explicit prompt")
        if sample:
            self.out.formats[sample[0].file] = format.name
        return format

    def _set_aside(self, row: sources.RawRow, reason: str) -> None:
        if self.strict:
            raise AssayError(f"{row.file}, row {row.number}: {reason}")
        raw = row.raw if row.raw is not None else json.dumps(row.value, ensure_ascii=False, default=str)
        self.out.aside.append({"file": row.file, "row": row.number, "reason": reason, "raw": raw[:EXCERPT]})

    def _pair_up(self, group: list[tuple[sources.RawRow, dict[str, Any]]]) -> None:
        try:
            best, worst = best_and_worst([answer["rating"] for _, answer in group])
            chosen, rejected = group[best][1], group[worst][1]
            check_pair(chosen["prompt"], chosen["response"], rejected["response"])
        except Aside as reason:
            for row, _ in group:
                self._set_aside(row, str(reason))
            return
        for i, (row, _) in enumerate(group):
            if i not in (best, worst):
                self._set_aside(row, "neither the best nor the worst answer to its prompt")
        self.out.rows_used += 2
        extras = {k: v for k, v in chosen.items() if k not in ("response", "rating")}
        pair = {"chosen": chosen["response"], "rejected": rejected["response"], "margin": min(chosen["rating"] - rejected["rating"], FLOAT32_MAX)}
        self._add([{**extras, **pair}])

    def _add(self, pairs: list[dict[str, Any]]) -> None:
        self.waiting += [{**pair, "source": pair.get("source") or self.name} for pair in pairs]
        if len(self.waiting) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            self.frames.append(_without_own_ids(schema.from_rows(self.waiting)))
            self.waiting = []

