"""All suites in one scoring pass: the same text once, and never again while the model stays the same.

Scores are kept under the scorer's fingerprint (of a checkpoint its contract and the precision) and the hash of the conversation, in the cache folder, written down
every few hundred conversations: a run that was stopped goes on where it was, and a suite that is added costs only what is new in it.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from assay.errors import AssayError
from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Bools, Suite
from assay.files import atomic
from assay.pairs.messages import Messages
from assay.score.scorer import Scorer, Tick

CHUNK = 512
"""Conversations that are scored before the scores are written down."""
KEPT = {"key": pl.String(), "values": pl.List(pl.Float32), "truncated": pl.Boolean()}


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a suite's answers."""

    outputs: Floats
    """Shape [items, width, k]: all outputs, the reward first; NaN where there is no answer, or no score."""
    truncated: Bools
    """Shape [items, width]."""
    reasons: dict[tuple[int, int], str]
    """Why an answer (item, answer) has no score."""
    by_one_order: list[str] = field(default_factory=list)
    """Of a judge of pairs: what failed where the other order alone decided, one an item."""

    @property
    def rewards(self) -> Floats:
        """Shape [items, width]."""
        return self.outputs[:, :, 0]


def score_suites(scorer: Scorer, suites: Sequence[Suite], cache: Path | None = None, tick: Tick | None = None) -> list[Scored]:
    """The scores of all answers of all suites; ``cache`` is the folder in which they are kept, None to keep none."""
    if hasattr(scorer, "compare"):
        for suite in suites:
            if any(len(item.answers) != 2 for item in suite.items):
                raise AssayError(f"{suite.name}: a judge of pairs compares two answers, but items here have up to {suite.width}; use a pointwise judge, judge:MODEL@URL")
        return [_judged(scorer, suite, tick) for suite in suites]
    keys: dict[str, Messages] = {}
    places: list[list[list[str]]] = []
    for suite in suites:
        places.append([])
        for item in suite.items:
            texts = [item.prompt + answer for answer in item.answers]
            names = [key_of(text) for text in texts]
            keys |= dict(zip(names, texts, strict=True))
            places[-1].append(names)
    known = _all(scorer, keys, cache, tick)
    return [_placed(suite, at, known, len(scorer.attributes)) for suite, at in zip(suites, places, strict=True)]


def key_of(conversation: Iterable[Any]) -> str:
    """The identity of a conversation, 32 hex characters."""
    text = json.dumps([[m["role"], m["content"]] for m in conversation], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def default_cache() -> Path:
    """Where scores are kept: ``$ASSAY_CACHE/scores``, by default ``~/.cache/assay/scores``."""
    return Path(os.environ.get("ASSAY_CACHE", Path.home() / ".cache" / "assay")) / "scores"


def _all(scorer: Scorer, wanted: dict[str, Messages], cache: Path | None, tick: Tick | None) -> dict[str, tuple[list[float], bool, str | None]]:
    """For each key the outputs, whether the text was cut, and why there is no score."""
    print_ = getattr(scorer, "fingerprint", None)
    folder = cache / print_ if cache and print_ else None
    known = _read(folder, wanted) if folder else {}
    missing = [key for key in wanted if key not in known]
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        scores = scorer.score([wanted[key] for key in chunk])
        found = {key: (scores.values[i].tolist(), bool(scores.truncated[i]), scores.reasons.get(i)) for i, key in enumerate(chunk)}
        known |= found
        if folder:
            _write(folder, {key: value for key, value in found.items() if value[2] is None})
        if tick:
            tick(len(wanted) - len(missing) + start + len(chunk), len(wanted))
    return known


def _read(folder: Path, wanted: dict[str, Messages]) -> dict[str, tuple[list[float], bool, str | None]]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        return {}
    try:
        tables = [pl.DataFrame(pl.from_arrow(pq.read_table(file, page_checksum_verification=True))) for file in files]
        table = pl.concat([one.select(pl.col(name).cast(kind) for name, kind in KEPT.items()) for one in tables])
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise AssayError(f"{folder}: the kept scores cannot be read ({str(error).splitlines()[0]}); delete the folder") from None
    rows = table.filter(pl.col("key").is_in(list(wanted))).iter_rows()
    return {key: (values, truncated, None) for key, values, truncated in rows}


def _write(folder: Path, found: dict[str, tuple[list[float], bool, str | None]]) -> None:
    if found:
        table = {"key": list(found), "values": [v for v, _, _ in found.values()], "truncated": [t for _, t, _ in found.values()]}
        with atomic(folder / f"{uuid.uuid4().hex}.parquet") as temporary:
            pq.write_table(pl.DataFrame(table, schema=KEPT).to_arrow(), temporary, write_page_checksum=True)  # scores that are kept for years are checked when they are read


def _placed(suite: Suite, places: list[list[str]], known: dict[str, tuple[list[float], bool, str | None]], width: int) -> Scored:
    outputs = np.full((len(suite.items), suite.width, width), np.nan)
    truncated = np.zeros((len(suite.items), suite.width), dtype=bool)
    reasons = {}
    for i, keys in enumerate(places):
        for j, key in enumerate(keys):
            values, cut, reason = known[key]
            outputs[i, j], truncated[i, j] = values, cut
            if reason is not None:
                reasons[i, j] = reason
    return Scored(outputs, truncated, reasons)


def _judged(judge: Any, suite: Suite, tick: Tick | None) -> Scored:
    """A pairwise judge's verdicts as scores of two answers: half the sum of both orders (+1 for this answer, -1 for the other, 0 for neither).

    Where both orders together say nothing there is no score, as in JudgeBench's rule: never right.
    """
    compared = judge.compare([(item.prompt, item.answers[0], item.answers[1]) for item in suite.items], tick)
    outputs = np.full((len(suite.items), 2, 1), np.nan)
    reasons: dict[tuple[int, int], str] = {}
    by_one_order = [reason for total, reason in compared if total and reason]
    for i, (total, reason) in enumerate(compared):
        if total:
            outputs[i, :, 0] = (total / 2, -total / 2)
        else:
            reasons[i, 0] = reasons[i, 1] = reason or "the two orders contradict each other, or call it a tie"
    return Scored(outputs, np.zeros((len(suite.items), 2), dtype=bool), reasons, by_one_order)
