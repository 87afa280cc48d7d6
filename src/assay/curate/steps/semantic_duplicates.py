"""Semantic duplicates: of the rows that say almost the same in other words, the best one stays.

Texts become unit vectors; two rows are twins if the cosine of theirs reaches the threshold. The search is exact: blocks of the whole
similarity matrix, none left out. Texts with different numbers are no twins, nor is a conversation of its own continuation: to an embedding they are alike. Static embeddings see
which words there are and not their order, and one word can turn a question round: look at what is found (``drop: false`` only marks the rows) before
it is dropped. On real prompts a person agreed with half of it (docs/results.md).
"""

import re
from functools import partial
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from assay.curate.embeddings import CHARS, STATIC, Vectors, vectors_of
from assay.curate.kernels.features import parts
from assay.curate.kernels.text import key, normal
from assay.curate.step import Context, StepConfig, named, verdicts
from assay.curate.steps.duplicates import best_value

BLOCK = 4_096
ROUNDING = 1e-6
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class Config(StepConfig):
    """Drop rows that repeat another in meaning, keep the best of each group."""

    kind: Literal["semantic_duplicates"] = "semantic_duplicates"
    text: Literal["prompt", "pair"] = "prompt"
    """What is compared: the users' side of the prompt, or prompt and both answers."""
    cosine: float = Field(0.95, gt=0.0, le=1.0)
    """Least cosine of twins."""
    embedding: str = STATIC
    """`static` (shipped by a package, no network), `static:FOLDER` (saved by model2vec), or `sentence-transformers:NAME`."""
    best: str | None = None
    """A numeric column: the row with the highest value stays. Without it, and among equals, the smallest id stays."""
    drop: bool = True
    """Drop the twins, or only mark them in the ledger of the step."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop all but the best row of each group. A row goes only if it is a twin of the very row that stays: no chains of small differences."""
    rows = rows.sort("row")
    best = best_value(rows, config.best, "semantic_duplicates", context)["best"].fill_null(-np.inf).to_numpy()
    edges = near(vectors_of(rows, config.embedding, config.text, context), config.cosine)
    said = context.map(partial(_numbers, text=config.text), rows, list(parts(config.text)), "numbers")["numbers"].to_numpy()
    edges = edges.filter(pl.Series(said[edges["a"].to_numpy()] == said[edges["b"].to_numpy()], dtype=pl.Boolean))
    if edges.height == 0:
        return verdicts(pl.DataFrame(schema={"row": pl.UInt32}), keep=pl.lit(True), reason="")
    numbers = rows["row"].to_numpy()
    found = [(numbers[a], numbers[b], cosine) for a, b, cosine in _stars(edges, best)]
    twins = named(pl.DataFrame(found, schema={"row": pl.UInt32, "kept": pl.UInt32, "cosine": pl.Float64}, orient="row"), "kept", context)
    if not config.drop:
        context.notes["only marked"] = twins.height
    reason = pl.format("says the same as a row that stays, cosine {}", pl.col("cosine").round(3))
    return verdicts(twins, keep=pl.lit(not config.drop), reason=reason, score=pl.col("cosine"), because_of=pl.col("kept"), close=pl.col("cosine") - config.cosine)


def _numbers(shard: pl.DataFrame, text: str) -> pl.DataFrame:
    """A kernel: a name of the numbers in a text, in their order, of the number of turns, and of the words beyond what the embedding looks at."""
    whole = list(parts(text).values())
    rest = pl.concat_str([part.str.slice(CHARS // len(whole)) for part in whole], separator="\n")
    table = shard.select(pl.concat_str(whole, separator="\n").alias("text"), turns=pl.col("prompt").list.len(), rest=rest)
    return shard.select("row").with_columns(pl.Series("numbers", [key(str(turns), *NUMBER.findall(text), normal(rest)) for text, turns, rest in table.iter_rows()], dtype=pl.UInt64))


def near(vectors: Vectors, cosine: float) -> pl.DataFrame:
    """All pairs of different rows with at least this cosine: a < b (places), cosine."""
    found = []
    for i in range(0, len(vectors), BLOCK):
        for j in range(i, len(vectors), BLOCK):
            a, b = np.nonzero((similar := vectors[i : i + BLOCK] @ vectors[j : j + BLOCK].T) >= cosine - ROUNDING)
            upper = a + i < b + j
            a, b = a[upper], b[upper]
            found.append(pl.DataFrame({"a": a + i, "b": b + j, "cosine": np.minimum(similar[a, b], 1).astype(np.float64)}))
    return pl.concat(found) if found else pl.DataFrame(schema={"a": pl.Int64, "b": pl.Int64, "cosine": pl.Float64})


def _stars(edges: pl.DataFrame, value: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    """(row that goes, row that stays, cosine): the best row stays, its twins go, and so on with the rest."""
    neighbours: dict[int, dict[int, float]] = {}
    for a, b, cosine in edges.iter_rows():
        neighbours.setdefault(a, {})[b] = cosine
        neighbours.setdefault(b, {})[a] = cosine
    gone: dict[int, tuple[int, float]] = {}
    for node in sorted(neighbours, key=lambda n: (-value[n], n)):
        if node not in gone:
            for other, cosine in neighbours[node].items():
                if other not in gone and (value[other], -other) <= (value[node], -node):
                    gone[other] = (node, cosine)
    return sorted((row, kept, cosine) for row, (kept, cosine) in gone.items())
