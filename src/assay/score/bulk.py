"""The verb ``score``: scores for every row of a file."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from assay.errors import AssayError
from assay.files import write_parquet, write_text
from assay.pairs import sources
from assay.pairs.messages import Aside, Messages, answer_of, messages, prompt_of
from assay.pairs.read import read
from assay.score.scorer import Scorer


def score_file(scorer: Scorer, source: str, *, split: str = "train") -> tuple[pl.DataFrame, int]:
    """Scores for the rows of ``source``, and how many rows could not be read.

    Pairs of any known format get ``chosen_score``, ``rejected_score`` and ``margin`` beside their id; rows with ``messages``, or with ``prompt`` and ``response``,
    get ``score``. ``truncated`` says that a conversation was longer than the scorer reads; where there are rows without a score,
    ``reason`` says why.

    Raises:
        AssayError: the source cannot be read.
    """
    first = next((row.value for row in sources.rows(source, split=split) if row.value is not None), None)
    if first is None:
        raise AssayError(f"{source}: holds no readable row")
    if ("messages" in first and "rejected_response" not in first and "rejected_messages" not in first) or ("response" in first and "prompt" in first):
        return _conversations(scorer, source, split)
    reading = read(source, split=split)
    rows = list(reading.pairs.select("prompt", "chosen", "rejected").iter_rows())
    scores = scorer.score([p + c for p, c, _ in rows] + [p + r for p, _, r in rows])
    n = len(rows)
    table = reading.pairs.select("id", "source", "subset", "category").with_columns(
        chosen_score=pl.Series(scores.values[:n, 0]),
        rejected_score=pl.Series(scores.values[n:, 0]),
        truncated=pl.Series(scores.truncated[:n] | scores.truncated[n:]),
    )
    reasons = {i: scores.reasons.get(i) or scores.reasons.get(n + i) for i in range(n)}
    return _with_reasons(table.with_columns(margin=pl.col("chosen_score") - pl.col("rejected_score")), reasons), len(reading.aside)


def _conversations(scorer: Scorer, source: str, split: str) -> tuple[pl.DataFrame, int]:
    numbers, conversations, aside = [], [], 0
    for row in sources.rows(source, split=split):
        try:
            conversations.append(_conversation(row))
            numbers.append(row.number)
        except Aside:
            aside += 1
    if not conversations:
        raise AssayError(f"{source}: none of the {aside:,} rows is a conversation")
    scores = scorer.score(conversations)
    return _with_reasons(pl.DataFrame({"row": numbers, "score": scores.values[:, 0], "truncated": scores.truncated}), scores.reasons), aside


def _with_reasons(table: pl.DataFrame, reasons: Mapping[int, str | None]) -> pl.DataFrame:
    """``table`` with a column ``reason`` that says why a row has no score, if there is such a row."""
    if not any(reasons.values()):
        return table
    return table.with_columns(reason=pl.Series([reasons.get(i) for i in range(table.height)], dtype=pl.String))


def _conversation(row: sources.RawRow) -> Messages:
    if row.value is None:
        raise Aside(row.reason or "unreadable")
    if "messages" in row.value:
        return messages(row.value["messages"], "messages")
    return prompt_of(row.value.get("prompt")) + answer_of(row.value.get("response"), "response")


def check_output(path: Path) -> None:
    """Check that scores can be written to ``path``, before any work is done.

    Raises:
        AssayError: the suffix is not .parquet, .jsonl or .csv.
    """
    if path.suffix not in (".parquet", ".jsonl", ".csv"):
        raise AssayError(f"-o {path}: cannot write `{path.suffix or 'no suffix'}`; use .parquet, .jsonl or .csv")


def write_scores(table: pl.DataFrame, path: Path) -> None:
    """Write a table of scores as Parquet, JSON lines or CSV, by the suffix of ``path``."""
    check_output(path)
    if path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        write_text(path, table.write_ndjson() if path.suffix == ".jsonl" else table.write_csv())
