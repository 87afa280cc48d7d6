"""Decontamination: drop rows whose prompt is in a benchmark.

Two tiers, after case, punctuation, spacing and line breaks are taken away. First, the prompt as a whole equals a benchmark prompt
(which covers those too short to have an n-gram). Second, it shares word n-grams with one; `coverage` asks how much of the
benchmark prompt must be there. The published re-release of the 80K collection dropped a row for a single shared 7-gram; the
authors' later data used 13-grams (Skywork-Reward-V2, arXiv 2507.01352, appendix D). Every drop names the benchmark
prompt and the words they share.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from assay.curate.kernels import ngrams
from assay.curate.kernels.text import normal, prompt_text
from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError
from assay.files import fingerprint
from assay.pairs import sources
from assay.pairs.messages import Aside, messages, prompt_of, split_conversations


class Config(StepConfig):
    """Drop rows whose prompt is, or overlaps with, a prompt of a benchmark."""

    kind: Literal["decontaminate"] = "decontaminate"
    against: dict[str, str] = Field(min_length=1)
    """Benchmarks by name: a file, a folder or a hub id whose rows have a prompt."""
    ngram: int = Field(13, ge=2, le=50)
    """Words an n-gram has. 13 finds few false alarms; 7 is the rule of the 80K re-release."""
    coverage: float = Field(0.0, ge=0.0, le=1.0)
    """Least share of the benchmark prompt's n-grams that a row must contain to be dropped. At 0 one n-gram is enough."""
    min_words: int = Field(4, ge=1)
    """Benchmark prompts of fewer words are not looked for: `hello` is in every data set."""
    split: str = "train"
    """Split of a benchmark on the hub (`filtered` for RewardBench, `test` for RewardBench 2)."""


def references(config: Config, data_root: Path | None) -> pl.DataFrame:
    """The benchmark prompts: columns benchmark, row (counted over all files of the benchmark), text.

    Raises:
        AssayError: a benchmark cannot be opened or its rows have no prompt.
    """
    found: list[tuple[str, int, str]] = []
    for name, source in sorted(config.against.items()):
        before = len(found)
        for number, row in enumerate(sources.rows(source, split=config.split, data_root=data_root), start=1):
            text = _prompt(row.value) if row.value else None
            if text and text.strip():
                found.append((name, number, text))
        if len(found) == before:
            raise AssayError(f"step `decontaminate`: no row of {source} has a prompt (prompt, question, instruction, messages, or chosen and rejected)")
    frame = pl.DataFrame(found, schema={"benchmark": pl.String, "row": pl.Int64, "text": pl.String}, orient="row")
    return frame.unique("text", keep="first", maintain_order=True).sort("benchmark", "text")


def _prompt(row: dict[str, Any]) -> str | None:
    for column in ("prompt", "question", "instruction", "messages", "input", "query"):
        if row.get(column):
            try:
                return prompt_text(prompt_of(row[column]))
            except Aside:
                return None
    try:
        shared, _, _ = split_conversations(messages(row.get("chosen"), "chosen"), messages(row.get("rejected"), "rejected"))
        return prompt_text(shared)
    except Aside:
        return None


def inputs(config: Config, data_root: Path | None) -> str:
    """A name for the content of the benchmarks, so that a changed file makes the step run again."""
    return fingerprint(references(config, data_root).rows())


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """Drop each row whose prompt equals or sufficiently overlaps a benchmark prompt, naming it and the shared words."""
    reference = references(config, context.data_root)
    normals = [normal(text) for text in reference["text"]]
    looked_for = [i for i, text in enumerate(normals) if len(text.split()) >= config.min_words]
    whole = {normals[i]: i for i in reversed(looked_for)}
    grams = ngrams.index([normals[i] for i in looked_for], config.ngram)
    found = context.map(partial(_overlap, whole=whole, grams=grams, items=looked_for), rows)
    names = reference.select(
        pl.int_range(pl.len()).alias("item"), pl.format("{}:{}", "benchmark", "row").alias("because_of")
    )
    named = found.join(names, on="item", how="left").sort("id", "copy")
    exact = pl.col("tier") == "exact"
    reason = pl.when(exact).then(pl.lit("prompt is in the benchmark")).otherwise(
        pl.format(f"shares {{}}% of a benchmark prompt's {config.ngram}-grams: \"{{}}\"", (pl.col("coverage") * 100).round(0).cast(pl.Int64), pl.col("span"))
    )
    drop = exact | (pl.col("coverage") >= config.coverage)
    return verdicts(named, keep=~drop, reason=reason, score=pl.col("coverage"), because_of=pl.col("because_of"))


def _overlap(shard: pl.DataFrame, whole: dict[str, int], grams: ngrams.Reference, items: list[int]) -> pl.DataFrame:
    texts = [normal(prompt_text(prompt)) for (prompt,) in shard.select("prompt").iter_rows()]
    found = []
    for (id_, copy), text, hits in zip(shard.select("id", "copy").iter_rows(), texts, ngrams.overlaps(texts, grams), strict=True):
        if text in whole:
            found.append((id_, copy, whole[text], "exact", 1.0, text))
        elif hits:
            found.append((id_, copy, items[hits[0].reference], "n-gram", hits[0].coverage, hits[0].span))
    schema = {"id": pl.String, "copy": pl.Int32, "item": pl.Int64, "tier": pl.String, "coverage": pl.Float64, "span": pl.String}
    return pl.DataFrame(found, schema=schema, orient="row")
