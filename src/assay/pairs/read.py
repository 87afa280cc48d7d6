"""The verb ``read``: any source in, one pair table out, and every row that could not be read kept with its reason."""

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import polars as pl

from assay.errors import AssayError, did_you_mean
from assay.files import atomic, write_parquet, write_text
from assay.pairs import schema, sources
from assay.pairs.formats import FORMATS, Format, check_extras, recognise
from assay.pairs.messages import Aside, check_answer, check_pair, check_prompt
from assay.pairs.pairing import FLOAT32_MAX, Pairing, Rule

SAMPLE = 200
CHUNK = 5_000
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
        return _ordered(Counter(row["reason"] for row in self.aside))

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


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def write_aside(path: Path, aside: Iterable[dict[str, Any]]) -> None:
    """Write rows that were set aside as JSON lines: file, row, reason, raw."""
    write_text(path, "".join(_aside_line(row) + "\n" for row in aside))


def _aside_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=True)


def read(
    source: str | Path,
    *,
    name: str | None = None,
    format: str | None = None,
    attribute: str = "helpfulness",
    weights: dict[str, float] | None = None,
    rule: Rule = "best-worst",
    min_gap: float = 0.0,
    per_prompt: int | None = None,
    scorer: str | None = None,
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
        name: value of the column `source`; by default what the rows have there, or else the name of the file or folder.
        format: name of the format; recognised from the rows by default.
        attribute, weights: which rating orders answers that are rated one a row, or a weighted sum of ratings.
        rule, min_gap, per_prompt: which of several rated answers make a pair, see ``Pairing``.
        scorer: rates answers instead of the rows, see ``load_scorer``.
        columns: names to give to columns before anything else, ``{"question": "prompt"}``.
        split, config: which part of a hub data set.
        data_root: a folder with copies of hub data sets, ``data_root/owner/name``.
        limit: stop after this many rows.
        strict: raise at the first row that cannot be read.
        tick: called with the number of rows read so far.

    Raises:
        AssayError: the source cannot be opened, its format is not known, or no row of it can be read.
    """
    frames: list[pl.DataFrame] = []
    aside: list[dict[str, Any]] = []
    raw = sources.rows(str(source), split=split, config=config, data_root=data_root)
    how = Pairing(attribute, weights, rule, min_gap, per_prompt, scorer)
    reader = _Reader(name, default_name(str(source)), how, strict, tick, frames.append, aside.append)
    reader.read(str(source), renamed(itertools.islice(raw, limit), columns or {}), _named(format) if format else None)
    return Reading(schema.stack(frames), aside, reader.formats, reader.rows_read, reader.rows_used)


def read_to(folder: Path, source: str, *, name: str | None, format: str | None, how: Pairing, columns: dict[str, str], split: str, config: str | None, limit: int | None, data_root: Path | None) -> dict[str, Any]:
    """As ``read``, but to files: parts of about 5,000 pairs, ``00000.parquet`` and so on, and ``aside.jsonl``; the counts. Memory does not grow with the source."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = 0

    def write(frame: pl.DataFrame) -> None:
        nonlocal parts
        write_parquet(folder / f"{parts:05d}.parquet", frame)
        parts += 1

    with atomic(folder / "aside.jsonl") as temporary, temporary.open("w", encoding="utf-8") as stream:
        raw = sources.rows(source, split=split, config=config, data_root=data_root)
        reader = _Reader(name, default_name(source), how, False, None, write, lambda row: print(_aside_line(row), file=stream))
        reader.read(source, renamed(itertools.islice(raw, limit), columns), _named(format) if format else None)
    return {"rows_read": reader.rows_read, "rows_used": reader.rows_used, "rows_aside": reader.reasons.total(), "reasons": _ordered(reader.reasons), "formats": reader.formats, "pairs": reader.pairs, "parts": parts}


def _named(name: str) -> Format:
    for known in FORMATS:
        if known.name == name:
            return known
    names = [f.name for f in FORMATS]
    raise AssayError(f"unknown format `{name}`.{did_you_mean(name, names)} Known: {', '.join(names)}")


def default_name(source: str) -> str:
    path = Path(source)
    stem = path.name.split(".")[0] or source
    return path.absolute().parent.name if stem in ("pairs", "train", "data") and path.absolute().parent.name else stem


def renamed(raw: Iterator[sources.RawRow], columns: dict[str, str]) -> Iterator[sources.RawRow]:
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


def _excerpt(row: sources.RawRow) -> str:
    return (row.raw if row.raw is not None else json.dumps(row.value, ensure_ascii=False, default=str))[:EXCERPT]


class _Texts:
    """Texts that wait on disk, so that memory does not grow with them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, 0

    def put(self, value: Any) -> int:
        """Keep ``value``; where it lies."""
        at = self._end
        self._file.seek(at)
        self._end += self._file.write(json.dumps(value).encode() + b"\n")
        return at

    def get(self, at: int) -> Any:
        """What ``put`` kept there."""
        self._file.seek(at)
        return json.loads(self._file.readline())


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A rated answer that waits for the others to its prompt."""

    file: str
    number: int
    answer: dict[str, Any]
    """Its rating and columns, without the texts."""
    at: int
    """Where its texts lie."""


class _Reader:
    """The state of one reading: counts, rows that wait for a frame, answers that wait for their group. Frames and rows set aside are handed on."""

    def __init__(
        self, name: str | None, default: str, how: Pairing, strict: bool, tick: Callable[[int], None] | None, frame: Callable[[pl.DataFrame], None], aside: Callable[[dict[str, Any]], None]
    ) -> None:
        self.name, self.default, self.how, self.strict, self.tick = name, default, how, strict, tick
        self.frame, self.aside = frame, aside
        self.rows_read = self.rows_used = self.pairs = 0
        self.reasons: Counter[str] = Counter()
        self.formats: dict[str, str] = {}
        self.waiting: list[dict[str, Any]] = []
        self.groups: dict[str, list[_Waiting]] = {}

    def read(self, source: str, raw: Iterator[sources.RawRow], format: Format | None) -> None:
        """Read all rows of a source.

        Raises:
            AssayError: it holds none, or none that can be read.
        """
        with tempfile.TemporaryFile() as file:
            self.texts = _Texts(file)
            for file_rows in _by_file(raw):
                self.read_file(file_rows, format)
            self.finish()
        if not self.rows_read:
            raise AssayError(f"{source}: holds no rows")
        if not self.pairs:
            worst = next(iter(_ordered(self.reasons)))
            raise AssayError(f"{source}: no row could be read, of {self.rows_read:,}; most often: {worst}")

    def read_file(self, raw: Iterator[sources.RawRow], format: Format | None) -> None:
        sample = list(itertools.islice(raw, SAMPLE))
        format = format or self._recognise(sample)
        for row in itertools.chain(sample, raw):
            self.rows_read += 1
            if self.tick and self.rows_read % 500 == 0:
                self.tick(self.rows_read)
            try:
                if row.value is None:
                    raise Aside(row.reason or "unreadable")
                converted = format.convert(row.value, self.how)
                check_extras(converted)
                for answer in converted if format.rated else []:
                    check_prompt(answer["prompt"])
                    check_answer(answer["response"], "response")
            except Aside as reason:
                self._set_aside(row, str(reason))
                continue
            if format.rated:
                self.groups.setdefault(schema.prompt_id(converted[0]["prompt"]), []).extend(self._kept(row, answer) for answer in converted)
            else:
                self.rows_used += 1
                self._add(converted)

    def finish(self) -> None:
        """Pair the rated answers, whose prompts may be spread over files, and close the last frame."""
        if self.how.scorer and self.groups:
            self._rate(self.how.scorer)
        for group in self.groups.values():
            self._pair_up(group)
        self._flush()

    def _rate(self, spec: str) -> None:
        """Rate all answers that wait by a scorer, in one pass."""
        from assay.score.scorer import load_scorer

        waiting = [one for group in self.groups.values() for one in group]
        scores = load_scorer(spec).score([prompt + response for prompt, response, _ in (self.texts.get(one.at) for one in waiting)]).values[:, 0]
        for one, score in zip(waiting, scores.tolist(), strict=True):
            one.answer["rating"] = score

    def _kept(self, row: sources.RawRow, answer: dict[str, Any]) -> "_Waiting":
        """A rated answer until all to its prompt are there, its texts on disk."""
        others = {key: value for key, value in answer.items() if key not in ("prompt", "response")}
        return _Waiting(row.file, row.number, others, self.texts.put([answer["prompt"], answer["response"], _excerpt(row)]))

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
            self.formats[sample[0].file] = format.name
        return format

    def _set_aside(self, row: sources.RawRow, reason: str) -> None:
        if self.strict:
            raise AssayError(f"{row.file}, row {row.number}: {reason}")
        self.reasons[reason] += 1
        self.aside({"file": row.file, "row": row.number, "reason": reason, "raw": _excerpt(row)})

    def _pair_up(self, group: list["_Waiting"]) -> None:
        """Make the pairs of one prompt's answers; every row is used in one or set aside."""
        texts = [self.texts.get(one.at) for one in group]
        answers = [{**one.answer, "prompt": prompt, "response": response} for one, (prompt, response, _) in zip(group, texts, strict=True)]
        rows = {(one.file, one.number): sources.RawRow(one.file, one.number, None, raw=raw) for one, (*_, raw) in zip(group, texts, strict=True)}
        used: set[int] = set()
        reason = "in no pair by the rule that pairs answers" if self.how.rule != "best-worst" else "neither the best nor the worst answer to its prompt"
        try:
            for i, j in self.how.pairs([answer["rating"] for answer in answers]):
                check_pair(answers[i]["prompt"], answers[i]["response"], answers[j]["response"])
                used |= {i, j}
                extras = {k: v for k, v in answers[i].items() if k not in ("response", "rating")}
                margin = min(answers[i]["rating"] - answers[j]["rating"], FLOAT32_MAX)
                self._add([{**extras, "chosen": answers[i]["response"], "rejected": answers[j]["response"], "margin": margin}])
        except Aside as problem:
            reason = str(problem)
        in_a_pair = {(group[i].file, group[i].number) for i in used}
        self.rows_used += len(in_a_pair)
        for place, row in rows.items():
            if place not in in_a_pair:
                self._set_aside(row, reason)

    def _add(self, pairs: list[dict[str, Any]]) -> None:
        self.waiting += [{**pair, "source": self.name or pair.get("source") or self.default} for pair in pairs]
        if len(self.waiting) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            self.frame(_without_own_ids(schema.from_rows(self.waiting)))
            self.pairs += len(self.waiting)
            self.waiting = []

