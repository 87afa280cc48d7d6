"""The verb ``score``: scores for every row of a file, in parts, so that an interrupted run goes on and several workers share the work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from assay.engine import HERE, Engine, Tick
from assay.errors import AssayError
from assay.files import fingerprint, read_parquet, start_over, write_parquet, write_text
from assay.pairs import sources
from assay.pairs.messages import Aside, Messages, answer_of, messages, prompt_of
from assay.pairs.read import read
from assay.score.scorer import Scorer, Scores, load_scorer

PART = 500
"""Rows scored between two writes: what an interruption can cost."""

Load = Callable[[], Scorer]


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a source, and what there is to say of them."""

    table: pl.DataFrame
    """One row for each row that could be read."""
    aside: int
    """Rows that could not be read."""
    unanswered: int
    """Rows without a score because nobody answered; the same call asks for these again."""
    usage: dict[str, float] | None
    """What judges used in this call; None if there are none."""


@cache
def loaded(spec: str, precision: str = "auto", allow_drift: float | None = None, threads: int | None = None) -> Scorer:
    """A scorer, loaded once in a process, which then has so many ``threads``."""
    if threads:
        import torch

        torch.set_num_threads(threads)
    return load_scorer(spec, precision=precision, allow_drift=allow_drift)


def score_file(
    scorer: Scorer, source: str, *, split: str = "train", parts: Path | None = None, engine: Engine = HERE, load: Load | None = None, tick: Tick | None = None
) -> Scored:
    """Scores for the rows of ``source``.

    Pairs of any known format get ``chosen_score``, ``rejected_score`` and ``margin`` beside their id; rows with ``messages``, or with ``prompt`` and ``response``,
    get ``score``. Of a scorer with several outputs the attributes follow, ``attr_NAME`` or ``chosen_attr_NAME`` and ``rejected_attr_NAME``. ``truncated`` says that a conversation was longer than the scorer reads; where there are rows without a score,
    ``reason`` says why.

    Args:
        scorer: what scores.
        source: a file, a folder or a hub id.
        split: split of a hub data set.
        parts: a folder for what is done; the same call goes on from there after an interruption or an outage. None to keep nothing.
        engine: where parts are scored; the scores do not depend on it.
        load: makes the scorer in a process of the engine; must be given if these are others than this one.
        tick: told (rows scored, rows).

    Raises:
        AssayError: the source cannot be read, or the scorer fails.
    """
    if parts is None:
        with TemporaryDirectory() as folder:
            return score_file(scorer, source, split=split, parts=Path(folder) / "parts", engine=engine, load=load, tick=tick)
    rows, conversations, aside = _rows(source, split)
    sides = len(conversations) // rows.height
    said = [[[m["role"], m["content"]] for m in c] for c in conversations]
    start_over(parts, fingerprint(scorer.spec, getattr(scorer, "fingerprint", None), said, PART, UNANSWERED))
    tasks = [(conversations[at * sides : (at + PART) * sides], parts / f"{at:09d}.parquet") for at in range(0, rows.height, PART)]
    used = engine.map(partial(_part, load or (lambda: scorer)), tasks, tick and (lambda done, _: tick(min(done * PART, rows.height), rows.height)))
    scored = pl.concat([read_parquet(file) for _, file in tasks], how="vertical_relaxed")
    unanswered = int(scored[UNANSWERED].to_numpy().reshape(-1, sides).any(axis=1).sum())
    return Scored(_table(rows, scored.drop(UNANSWERED), sides), aside, unanswered, _total(used))


UNANSWERED = "unanswered"
"""The column of a part that says that nobody answered for a row."""


def _part(load: Load, task: tuple[Sequence[Messages], Path]) -> dict[str, float] | None:
    """Score to a file those of some conversations that it does not answer for yet; what a judge used for it."""
    conversations, out = task
    before = read_parquet(out) if out.is_file() else None
    missing = list(range(len(conversations))) if before is None else before[UNANSWERED].arg_true().to_list()
    if not missing:
        return None
    scorer: Any = load()
    at_first = getattr(scorer, "usage", None)
    found = _lines(scorer, scorer.score([conversations[i] for i in missing]))
    if before is not None:
        place = {i: before.height + n for n, i in enumerate(missing)}
        found = pl.concat([before, found])[[place.get(i, i) for i in range(before.height)]]
    write_parquet(out, found)
    return at_first and {key: value - at_first[key] for key, value in scorer.usage.items()}


def _lines(scorer: Scorer, scores: Scores) -> pl.DataFrame:
    """Scores as a table, one line a conversation."""
    attributes = {f"attr_{name}": scores.values[:, i] for i, name in enumerate(scorer.attributes) if i}
    numbers = range(len(scores.values))
    why = {"reason": pl.Series([scores.reasons.get(i) for i in numbers], dtype=pl.String), UNANSWERED: pl.Series([i in scores.unanswered for i in numbers], dtype=pl.Boolean)}
    return pl.DataFrame({"score": scores.values[:, 0], **attributes, "truncated": scores.truncated, **why})


def _total(used: Sequence[dict[str, float] | None]) -> dict[str, float] | None:
    """What all parts together used."""
    found = [one for one in used if one]
    return {key: sum(one[key] for one in found) for key in found[0]} if found else None


def _table(rows: pl.DataFrame, scored: pl.DataFrame, sides: int) -> pl.DataFrame:
    """The scores beside their rows; ``scored`` has as many lines a row as there are ``sides``."""
    if sides == 1:
        table = rows.with_columns(scored)
    else:
        chosen, rejected = scored.gather_every(2), scored.gather_every(2, offset=1)
        table = rows.with_columns(
            chosen["score"].alias("chosen_score"), rejected["score"].alias("rejected_score"),
            (chosen["truncated"] | rejected["truncated"]).alias("truncated"),
            (chosen["score"] - rejected["score"]).alias("margin"),
            *(side[name].alias(f"{which}_{name}") for name in scored.columns if name.startswith("attr_") for which, side in (("chosen", chosen), ("rejected", rejected))),
            chosen["reason"].fill_null(rejected["reason"]).alias("reason"),
        )  # fmt: skip
    return table if table["reason"].is_not_null().any() else table.drop("reason")


def _rows(source: str, split: str) -> tuple[pl.DataFrame, list[Messages], int]:
    """What names each row; its conversations, one a row, or chosen and rejected of every pair in turn; and how many rows were set aside."""
    first = next((row.value for row in sources.rows(source, split=split) if row.value is not None), None)
    if first is None:
        raise AssayError(f"{source}: holds no readable row")
    if ("messages" in first and "rejected_response" not in first and "rejected_messages" not in first) or ("response" in first and "prompt" in first):
        return _conversations(source, split)
    reading = read(source, split=split)
    sides = [[*p, *answer] for p, c, r in reading.pairs.select("prompt", "chosen", "rejected").iter_rows() for answer in (c, r)]
    return reading.pairs.select("id", "source", "subset", "category"), sides, len(reading.aside)


def _conversations(source: str, split: str) -> tuple[pl.DataFrame, list[Messages], int]:
    numbers, conversations, aside = [], [], 0
    for row in sources.rows(source, split=split):
        try:
            conversations.append(_conversation(row))
            numbers.append(row.number)
        except Aside:
            aside += 1
    if not conversations:
        raise AssayError(f"{source}: none of the {aside:,} rows is a conversation")
    return pl.DataFrame({"row": numbers}), conversations, aside


def _conversation(row: sources.RawRow) -> Messages:
    if row.value is None:
        raise Aside(row.reason or "unreadable")
    if "messages" in row.value:
        return messages(row.value["messages"], "messages")
    return prompt_of(row.value.get("prompt")) + answer_of(row.value.get("response"), "response")


def check_output(path: Path) -> None:
    """Check that scores can be written to ``path``, before any work is done.

    Raises:
        AssayError: the suffix is not .parquet, .jsonl or .csv, or the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssayError(f"cannot write {path}: {error.strerror or error}") from None
    if path.suffix not in (".parquet", ".jsonl", ".csv"):
        raise AssayError(f"-o {path}: cannot write `{path.suffix or 'no suffix'}`; use .parquet, .jsonl or .csv")


def write_scores(table: pl.DataFrame, path: Path) -> None:
    """Write a table of scores as Parquet, JSON lines or CSV, by the suffix of ``path``."""
    check_output(path)
    if path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        write_text(path, table.write_ndjson() if path.suffix == ".jsonl" else table.write_csv())
