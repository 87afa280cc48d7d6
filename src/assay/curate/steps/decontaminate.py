"""Decontamination: drop rows whose prompt is in a benchmark.

Three tiers, after case, punctuation, spacing and line breaks are taken away. First, the prompt as a whole equals a benchmark prompt.
Second, it shares word n-grams with one; ``coverage`` asks how much of the benchmark prompt must be there. A benchmark prompt too short to
have an n-gram is looked for as a whole, from ``short`` words on, and must have the same signs between its words: 7 + 8 is not 7 - 8. Third, if ``cosine`` is given, prompts near a benchmark prompt in meaning
are marked and never dropped. The published re-release of the 80K collection dropped a row for a single shared 7-gram; the authors' later data
used 13-grams (Skywork-Reward-V2, arXiv 2507.01352, appendix D). Every drop names the benchmark prompt, the words they share, and where they stand.

Known benchmarks go by name: `rewardbench`, `rewardbench2`, `rm-bench`, `judgebench`, `ppe` (or one half of it, `ppe-preference`, `ppe-correctness`); RMB and others are files, `NAME: PATH`. What was looked
for is kept beside the verdicts, under the hash of its content. ``assay self-test`` measures what the step finds in your data.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from assay.curate.embeddings import STATIC, embed, vectors_of
from assay.curate.kernels import ngrams
from assay.curate.kernels.features import asked
from assay.curate.kernels.text import normal, prompt_text, signs
from assay.curate.kernels.tokens import tokenize
from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError
from assay.evaluate.suites import PUBLISHED
from assay.files import fingerprint, write_parquet
from assay.pairs import sources
from assay.pairs.messages import Aside, messages, prompt_of, split_conversations

BENCHMARKS = {**PUBLISHED, "ppe": (*PUBLISHED["ppe-preference"], *PUBLISHED["ppe-correctness"])}
"""Benchmarks by name: data sets on the hub and their splits."""


class Config(StepConfig):
    """Drop rows whose prompt is, or overlaps with, a prompt of a benchmark."""

    kind: Literal["decontaminate"] = "decontaminate"
    against: dict[str, str] = Field(min_length=1)
    """Benchmarks by name: a known one (`{rewardbench: rewardbench}`), or a file, a folder or a hub id whose rows have a prompt."""
    ngram: int = Field(13, ge=2, le=50)
    """Words an n-gram has. 13 finds few false alarms; 7 is the rule of the 80K re-release."""
    coverage: float = Field(0.0, ge=0.0, le=1.0)
    """Least share of the benchmark prompt's n-grams that a row must contain to be dropped. At 0 one n-gram is enough."""
    short: int | None = Field(5, ge=1)
    """Benchmark prompts of at least this many words and fewer than `ngram` are looked for inside longer prompts. `null`: they are not."""
    min_words: int = Field(4, ge=1)
    """Benchmark prompts of fewer words are not looked for at all: `hello` is in every data set."""
    cosine: float | None = Field(None, gt=0.0, le=1.0)
    """Mark, but keep, rows whose prompt is at least this near to a benchmark prompt in meaning."""
    embedding: str = STATIC
    """What embeds the prompts for `cosine`; see `assay explain semantic_duplicates`."""
    split: str = "train"
    """Split of a benchmark that is given as a hub id."""


def references(config: Config, data_root: Path | None) -> pl.DataFrame:
    """The benchmark prompts, each once in every benchmark that has it: columns benchmark, row (counted over all files of the benchmark), text.

    Raises:
        AssayError: a benchmark cannot be opened or its rows have no prompt.
    """
    found: list[tuple[str, int, str]] = []
    for name, source in sorted(config.against.items()):
        before, number = len(found), 0
        for path, split in BENCHMARKS.get(source, ((source, config.split),)):
            for row in sources.rows(path, split=split, data_root=data_root):
                number += 1
                text = _prompt(row.value) if row.value else None
                if text and text.strip():
                    found.append((name, number, text))
        if len(found) == before:
            raise AssayError(f"step `decontaminate`: no row of {source} has a prompt (prompt, question, instruction, messages, or chosen and rejected)")
    frame = pl.DataFrame(found, schema={"benchmark": pl.String, "row": pl.Int64, "text": pl.String}, orient="row")
    return frame.unique(("benchmark", "text"), keep="first", maintain_order=True).sort("benchmark", "text")


def _prompt(row: dict[str, Any]) -> str | None:
    for column in ("prompt", "question", "instruction", "messages", "input", "query", "conversation_input"):
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


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop each row whose prompt equals or sufficiently overlaps a benchmark prompt, naming it and the shared words."""
    reference = references(config, context.data_root)
    name = fingerprint(reference.rows())
    write_parquet(context.workdir.parent / "references" / f"{name}.parquet", reference)
    context.notes.update(references={"content": name, "prompts": dict(reference.group_by("benchmark").len().sort("benchmark").iter_rows())})
    places = reference.group_by("text", maintain_order=True).agg(because_of=pl.format("{}:{}", "benchmark", "row").str.join(AND))
    texts = places["text"].to_list()
    found = context.map(partial(_overlap, looked_for=_looked_for(texts, config)), rows, ["prompt"])
    if config.cosine is not None:
        found = pl.concat([found, _in_meaning(rows.join(found, on="row", how="anti"), texts, config, context)])
    names = places.select(pl.int_range(pl.len()).alias("item"), "because_of")
    listed = found.join(names, on="item", how="left").sort("row")
    shares = pl.format("shares {}% of a benchmark prompt's {}: \"{}\", from word {}", (pl.col("score") * 100).round(0).cast(pl.Int64), pl.lit(f"{config.ngram}-grams"), "span", "at")
    reason = (
        pl.when(pl.col("tier") == "exact").then(pl.lit("prompt is in the benchmark"))
        .when(pl.col("tier") == "short").then(pl.format("holds a whole benchmark prompt: \"{}\", from word {}", "span", "at"))
        .when(pl.col("tier") == "meaning").then(pl.format("near a benchmark prompt in meaning, cosine {}: \"{}\"", pl.col("score").round(3), "span"))
        .otherwise(shares)
    )
    drop = pl.col("tier").is_in(["exact", "short"]) | ((pl.col("tier") == "n-gram") & (pl.col("score") >= config.coverage))
    context.notes["only marked"] = listed.filter(~drop).height
    close = pl.when(pl.col("tier") == "n-gram").then((pl.col("score") - config.coverage).abs())
    return verdicts(listed, keep=~drop, reason=reason, score=pl.col("score"), because_of=pl.col("because_of"), close=close)


AND = " and "
"""Between the benchmarks that have the same prompt."""
LookedFor = tuple[dict[tuple[str, str], int], list[str], list[tuple[str, list[int], ngrams.Reference]]]
"""Whole prompts by their words and signs; the signs of every item; and by tier, the items indexed and their n-grams."""


def _looked_for(texts: list[str], config: Config) -> LookedFor:
    normals = [normal(text) for text in texts]
    length = [len(text.split()) for text in normals]
    items = [i for i, n in enumerate(length) if n >= config.min_words]
    between = [signs(text) if n < config.ngram else "" for text, n in zip(texts, length, strict=True)]
    whole = {(normals[i], between[i]): i for i in reversed(items)}
    tiers = [("n-gram", items, ngrams.index([normals[i] for i in items], config.ngram))]
    for size in range(max(config.short or config.ngram, config.min_words), config.ngram):
        these = [i for i in items if length[i] == size]
        if these:
            tiers.append(("short", these, ngrams.index([normals[i] for i in these], size)))
    return whole, between, tiers


FOUND = {"row": pl.UInt32, "item": pl.Int64, "tier": pl.String, "score": pl.Float64, "span": pl.String, "at": pl.Int64}


def _overlap(shard: pl.DataFrame, looked_for: LookedFor) -> pl.DataFrame:
    """A kernel: the best match of every row that has one; a whole prompt counts before n-grams of one."""
    whole, between, tiers = looked_for
    texts = shard.select(asked())["prompt"]
    hits: dict[int, tuple[int, str, float, str, int]] = {}
    tokens = tokenize(texts)
    sizes = {len(text.split()) for text, _ in whole}
    of_form = tiers[0][2].n  # from so many words on, signs are form
    for i in np.flatnonzero(np.isin(np.diff(tokens.offsets), list(sizes))).tolist():
        words = tokens.words(int(tokens.offsets[i]), int(tokens.offsets[i + 1]))
        same = " ".join(words), signs(texts[i]) if len(words) < of_form else ""
        if same in whole:
            hits[i] = (whole[same], "exact", 1.0, same[0], 0)
    for tier, items, grams in sorted(tiers, key=lambda t: t[0] != "short"):
        for i, found in enumerate(ngrams.overlaps(texts, grams)):
            if i in hits or not found:
                continue
            here = signs(texts[i])
            best = next((hit for hit in found if between[items[hit.reference]] in here), None)
            if best:
                hits[i] = (items[best.reference], tier, best.coverage, best.span, best.at)
    rows = shard["row"]
    return pl.DataFrame([(rows[i], *hit) for i, hit in sorted(hits.items())], schema=FOUND, orient="row")


def _in_meaning(rows: pl.DataFrame, texts: list[str], config: Config, context: Context) -> pl.DataFrame:
    """Rows near a benchmark prompt, by exact search."""
    if rows.height == 0:
        return pl.DataFrame(schema=FOUND)
    assert config.cosine is not None
    vectors, theirs = vectors_of(rows, config.embedding, "prompt", context), embed(texts, config.embedding)
    numbers, found = rows.sort("row")["row"].to_list(), []
    for i in range(0, len(vectors), 4_096):
        similar = vectors[i : i + 4_096] @ theirs.T
        best = similar.argmax(axis=1)
        value = similar[np.arange(len(best)), best]
        found += [(numbers[i + j], int(best[j]), "meaning", float(value[j]), texts[best[j]][:200], 0) for j in np.flatnonzero(value >= config.cosine)]
    return pl.DataFrame(found, schema=FOUND, orient="row")
