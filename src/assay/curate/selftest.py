"""The self-test of decontamination: benchmark prompts planted in your own rows in four ways, and how many the recipe's step finds.

Verbatim; re-wrapped (other line breaks, spacing, case and punctuation); embedded in a row's own prompt; and paraphrased (half the content words replaced
or moved), which n-grams cannot find and only a step with ``cosine`` marks. What the step finds in your rows as they are is counted first: these are
contaminated already, or false alarms, and ``assay why`` on a curation shows which.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.kernels.text import words
from assay.curate.runner import curate
from assay.curate.steps import AnyStep, decontaminate
from assay.errors import AssayError
from assay.evaluate.intervals import wilson
from assay.files import read_parquet
from assay.pairs.schema import BOOKKEEPING

PLANTED = 400
"""Benchmark prompts planted of each kind, at most."""
SAMPLE = 12_000
"""Rows that are looked at as they are, and that the prompts are planted in, at most."""


@dataclass(frozen=True, slots=True)
class Recall:
    """How one kind of planting fared."""

    kind: str
    planted: int
    dropped: int
    marked: int
    """Kept, but marked as near a benchmark prompt."""
    interval: tuple[float, float]
    """Of the share dropped."""


def self_test(pairs: pl.DataFrame, steps: Sequence[AnyStep], folder: Path, *, data_root: Path | None = None, seed: int = 0) -> list[Recall]:
    """Run the recipe's ``decontaminate`` steps on rows as they are (`as they are`) and with benchmark prompts planted (the other kinds), and count.

    Args:
        pairs: rows of the user's; those that the steps drop as they are carry nothing.
        steps: a recipe's steps; only its ``decontaminate`` steps are run, over all sources.
        folder: an empty folder for the work.

    Raises:
        AssayError: the recipe has no such step, or there are too few rows to plant in.
    """
    ours = [s.model_copy(update={"only": None}) for s in steps if isinstance(s, decontaminate.Config)]
    if not ours:
        raise AssayError("the recipe has no `decontaminate` step to be tested")
    prompts = pl.concat([decontaminate.references(s, data_root).with_columns(least=pl.lit(s.min_words)) for s in ours]).unique("text", maintain_order=True)
    prompts = prompts.filter(pl.Series([len(words(text)) >= least for text, least in prompts.select("text", "least").iter_rows()], dtype=pl.Boolean))
    if prompts.height == 0:
        raise AssayError("no benchmark prompt is long enough to be looked for (`min_words`), so none can be planted")
    sample = pairs.drop(BOOKKEEPING, strict=False).sort("id").gather_every(max(1, pairs.height // SAMPLE))
    untouched = curate(sample, ours, folder / "before", data_root=data_root)
    before = untouched.kept().select(sample.columns)
    count = min(PLANTED, prompts.height, before.height // 8)
    if count < 1:
        raise AssayError(f"the self-test needs at least 8 clean rows to plant in, found {before.height}")
    rng = random.Random(seed)
    texts = rng.sample(prompts["text"].to_list(), count)
    planted = []
    for number, (kind, plant) in enumerate(PLANTS.items()):
        carriers = before.slice(number * count, count)
        new = [_with_prompt(row, plant(text, _asked(row), rng)) for row, text in zip(carriers["prompt"].to_list(), texts, strict=True)]
        planted.append(carriers.with_columns(pl.Series("prompt", new, dtype=pairs.schema["prompt"]), planted=pl.lit(kind)))
    tested = curate(pl.concat(planted), ours, folder / "after", data_root=data_root)
    as_is = untouched.manifest["dropped"]
    return [Recall("as they are", sample.height, as_is, 0, wilson(as_is, sample.height)), *_counted(tested.folder)]


def _counted(folder: Path) -> list[Recall]:
    kept, dropped = read_parquet(folder / "kept.parquet"), read_parquet(folder / "dropped.parquet")
    verdicts = pl.concat([read_parquet(f).select("id", "copy", "keep") for f in sorted(folder.glob("steps/*/verdicts.parquet"))])
    marked = kept.join(verdicts.filter("keep"), left_on=["row_id", "row_copy"], right_on=["id", "copy"], how="semi")
    found = []
    for kind in PLANTS:
        gone = dropped.filter(pl.col("planted") == kind).height
        all_ = gone + kept.filter(pl.col("planted") == kind).height
        found.append(Recall(kind, all_, gone, marked.filter(pl.col("planted") == kind).height, wilson(gone, all_)))
    return found


def _asked(prompt: list[dict[str, str]]) -> str:
    return next((m["content"] for m in reversed(prompt) if m["role"] == "user"), "")


def _with_prompt(prompt: list[dict[str, str]], text: str) -> list[dict[str, str]]:
    """The conversation as one user turn with this text."""
    return [*(m for m in prompt if m["role"] == "system"), {"role": "user", "content": text}]


def verbatim(text: str, carrier: str, rng: random.Random) -> str:
    """The benchmark prompt as it is."""
    return text


def rewrapped(text: str, carrier: str, rng: random.Random) -> str:
    """The same words with other line breaks, spacing, case and punctuation."""
    words = text.split()
    lines = [" ".join(words[i : i + 8]) for i in range(0, len(words), 8)]
    shouted = "\n  ".join(line.upper() if rng.random() < 0.5 else line.lower() for line in lines)
    return re.sub(r"[,;:](?=\s)", " -", shouted) + " !"


def embedded(text: str, carrier: str, rng: random.Random) -> str:
    """The benchmark prompt in the middle of another."""
    words = carrier.split()[:200]
    at = rng.randint(0, len(words))
    return " ".join([*words[:at], "\n\nConsider this:", text, "\n\n", *words[at:]])


def paraphrased(text: str, carrier: str, rng: random.Random) -> str:
    """About half the longer words written another way, and the sentences in another order."""
    sentences = re.split(r"(?<=[.?!])\s+", text)
    rng.shuffle(sentences)
    words = " ".join(sentences).split()
    return "Please help: " + " ".join(_otherwise(w) if len(w) > 4 and rng.random() < 0.5 else w for w in words)


def _otherwise(word: str) -> str:
    stem = word.rstrip(".,?!")
    return (f"{stem[:-3]}ed" if stem.endswith("ing") else f"{stem}s" if not stem.endswith("s") else stem[:-1]) + word[len(stem) :]


PLANTS: dict[str, Callable[[str, str, random.Random], str]] = {"verbatim": verbatim, "re-wrapped": rewrapped, "embedded": embedded, "paraphrased": paraphrased}


def rows_of(recalls: Sequence[Recall]) -> list[dict[str, Any]]:
    """As plain values."""
    return [{"kind": r.kind, "planted": r.planted, "dropped": r.dropped, "marked": r.marked, "interval": list(r.interval)} for r in recalls]

