"""Near duplicates: of the rows whose texts are almost the same, the best one stays.

A text is the set of its word 3-grams (of 2-grams where it is short; such texts must have the same signs between their words, too: 7 + 8 is not 7 - 8). MinHash and LSH find candidates (Broder 1997), the true Jaccard similarity
decides, rows that are similar directly or through others form a group, and of each group the best row stays. The bands are chosen so that a pair
exactly at the threshold is a candidate with at least 99%; the whole curve is in the step's account.
"""

import itertools
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from assay.curate.kernels import minhash
from assay.curate.kernels.components import components
from assay.curate.kernels.features import parts
from assay.curate.kernels.text import key, signs
from assay.curate.step import Context, StepConfig, named, verdicts
from assay.curate.steps.duplicates import best_value

BUCKET = 20_000
"""Candidate rows whose shingles are compared at a time."""
WINDOW = 32
"""In a band shared by more texts than this, each is compared with the next so many."""

NEAR_MISS = 0.05
"""Rows that miss the threshold by less are named in the step's verdicts, and stay."""

Edges = NDArray[np.int64]


class Config(StepConfig):
    """Drop near duplicates, keep the best of each group."""

    kind: Literal["near_duplicates"] = "near_duplicates"
    text: Literal["prompt", "pair"] = "prompt"
    """What is compared: the users' side of the prompt; or prompt, chosen and rejected, each of which must be alike."""
    jaccard: float = Field(0.8, gt=0.0, le=1.0)
    """Least similarity of near duplicates, as the share of different shingles that both have."""
    shingle: int = Field(3, ge=1, le=20)
    """Words of a shingle."""
    short: int = Field(20, ge=1)
    """Texts of fewer words have shingles of two words."""
    permutations: Literal[64, 128, 256] = 128
    """Length of the signatures: more find more and cost more."""
    best: str | None = None
    """A numeric column: the row with the highest value stays. Without it, and among equals, the smallest id stays."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop all but the best row of each group of near duplicates, naming the one that stays and the similarity to the nearest."""
    best = best_value(rows, config.best, "near_duplicates", context)
    count, width = minhash.choose_bands(config.jaccard, config.permutations)
    context.notes.update(signer=minhash.SIGNER, bands=count, rows_a_band=width, caught_at_jaccard=minhash.s_curve(count, width))
    columns = list(parts(config.text))
    signed = context.map_files(partial(_signed, config=config, width=width), rows, columns, "bands")
    pairs = _candidates(signed, count)
    context.notes.update(candidates=len(pairs))
    if len(pairs) == 0:
        return verdicts(pl.DataFrame(schema={"row": pl.UInt32}), keep=pl.lit(False), reason="")
    alike = _checked(pairs, rows, columns, config, context)
    return _best_stay(alike, best, config, context)


def _signed(shard: pl.DataFrame, config: Config, width: int) -> pl.DataFrame:
    """A kernel: the bands of every row's signature; a row without a word has none.

    The parts of a pair are signed together, their shingles told apart: if every part reaches the threshold, so does the whole.
    """
    found = []
    for rows in shard.iter_slices(2_000):
        hashes, offsets = _together([minhash.shingles(rows.select(text.alias("t"))["t"], config.shingle, config.short) for _, text in parts(config.text).items()])
        hashed = minhash.bands(minhash.signatures(hashes, offsets, config.permutations), width)
        table = pl.DataFrame({"row": rows["row"], **{f"b{i}": hashed[:, i] for i in range(hashed.shape[1])}})
        found.append(table.filter(pl.Series(np.diff(offsets) > 0)))
    return pl.concat(found)


def _together(parts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles of several texts a row as those of one."""
    if len(parts) == 1:
        return parts[0]
    owner = np.concatenate([np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) for _, offsets in parts])
    hashes = np.concatenate([hashes ^ np.uint64(0xA24BAED4963EE407 * number % (1 << 64)) for number, (hashes, _) in enumerate(parts)])
    return hashes[np.argsort(owner, kind="stable")], np.sum([offsets for _, offsets in parts], axis=0)


def _candidates(files: list[Path], count: int) -> Edges:
    """Pairs of rows that share a band, [pairs, 2], the lower row first. One band at a time is in memory."""
    found = np.zeros((0, 2), np.int64)
    for band in range(count):
        table = pl.concat([pl.read_parquet(f, columns=["row", f"b{band}"]) for f in files])
        fresh = sharing(table["row"].to_numpy().astype(np.int64), table[f"b{band}"].to_numpy())
        found = np.unique(np.concatenate([found, fresh]), axis=0)
    return found


def sharing(row: NDArray[np.int64], band: NDArray[np.uint64]) -> Edges:
    """Pairs of rows with the same value of a band, [pairs, 2], the lower row first."""
    order = np.lexsort((row, band))
    row, band = row[order], band[order]
    found = [np.zeros((0, 2), np.int64)]
    for ahead in range(1, min(WINDOW, len(row) - 1) + 1):
        same = np.flatnonzero(band[ahead:] == band[:-ahead])
        if len(same) == 0:
            break
        found.append(np.stack([row[same], row[same + ahead]], axis=1))
    return np.concatenate(found)


def _checked(pairs: Edges, rows: pl.DataFrame, columns: list[str], config: Config, context: Context) -> pl.DataFrame:
    """The true similarity of candidates that are near duplicates, or nearly: a, b, jaccard.

    Rows of one component are compared together, so their shingles are gathered by component: each shard writes those of its rows, bucket by bucket.
    """
    nodes, group = components(pairs)
    groups = int(group.max()) + 1
    sizes = np.bincount(group, minlength=groups)
    bucket_of_group = np.cumsum(sizes) // BUCKET
    bucket = bucket_of_group[group]
    wanted = rows.join(pl.DataFrame({"row": nodes.astype(np.uint32)}), on="row", how="semi").sort("row")
    files = context.map_files(partial(_sets, config=config), wanted, columns, "shingles")
    pair_bucket = bucket[np.searchsorted(nodes, pairs[:, 0])]
    found = []
    for number in np.unique(pair_bucket):
        mine = nodes[bucket == number]
        sets: dict[int, list[NDArray[np.uint64]]] = {}
        signs: dict[int, int] = {}
        for table in (pl.scan_parquet(f).filter(pl.col("row").is_in(mine.tolist())).collect() for f in files):
            parts = [table[c] for c in table.columns[2:]]
            signs |= dict(table.select("row", "signs").iter_rows())
            sets |= {row: [hashes.to_numpy() for hashes in each] for row, *each in zip(table["row"], *parts, strict=True)}
        for a, b in pairs[pair_bucket == number]:
            similarity = min(minhash.jaccard(mine, theirs) for mine, theirs in zip(sets[int(a)], sets[int(b)], strict=True))
            if similarity >= config.jaccard - NEAR_MISS and signs[int(a)] == signs[int(b)]:
                found.append((int(a), int(b), similarity))
    return pl.DataFrame(found, schema={"a": pl.UInt32, "b": pl.UInt32, "jaccard": pl.Float64}, orient="row")


def _sets(shard: pl.DataFrame, config: Config) -> pl.DataFrame:
    """A kernel: a name of the signs in the short texts of every row, and the different shingles, sorted; those of a pair side by side for prompt, chosen and rejected."""
    found, between = shard.select("row"), [""] * shard.height
    for name, text in parts(config.text).items():
        texts = shard.select(text.alias("text"))["text"]
        between = [f"{before}\n{signs(text) if len(text.split()) < config.short else ''}" for before, text in zip(between, texts, strict=True)]
        hashes, offsets = minhash.shingles(texts, config.shingle, config.short)
        sets = [np.unique(hashes[a:b]) for a, b in itertools.pairwise(offsets)]
        found = found.with_columns(pl.Series(name, sets, dtype=pl.List(pl.UInt64)))
    return found.insert_column(1, pl.Series("signs", [key(s) for s in between], dtype=pl.UInt64))


def _best_stay(alike: pl.DataFrame, best: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    twins = alike.filter(pl.col("jaccard") >= config.jaccard)
    nodes, group = components(twins.select("a", "b").to_numpy().astype(np.int64))
    nearest = _nearest(alike)
    members = pl.DataFrame({"row": nodes.astype(np.uint32), "group": group.astype(np.int64)}).join(best, on="row").join(nearest, on="row")
    ranked = members.sort("group", "best", "row", descending=[False, True, False], nulls_last=True)
    ranked = ranked.with_columns(place=pl.int_range(pl.len()).over("group"), kept=pl.col("row").first().over("group"), size=pl.len().over("group"))
    gone = named(named(ranked.filter(pl.col("place") > 0), "kept", context), "other", context)
    missed = named(nearest.filter(pl.col("jaccard") < config.jaccard), "other", context)
    nearest_is = pl.when(pl.col("other") == pl.col("kept")).then(pl.lit("")).otherwise(pl.format(" with {}", "other"))
    reason = pl.format("near duplicate, one of {}: Jaccard {}{}", "size", pl.col("jaccard").round(3), nearest_is)
    close = pl.col("jaccard") - config.jaccard
    return pl.concat([
        verdicts(gone, keep=pl.lit(False), reason=reason, score=pl.col("jaccard"), because_of=pl.col("kept"), close=close),
        verdicts(missed, keep=pl.lit(True), reason=pl.format("not quite a near duplicate: Jaccard {}", pl.col("jaccard").round(3)), score=pl.col("jaccard"), because_of=pl.col("other"), close=close),
    ])


def _nearest(alike: pl.DataFrame) -> pl.DataFrame:
    """For every row the most similar other: row, other, jaccard."""
    both = pl.concat([alike.select(row="a", other="b", jaccard="jaccard"), alike.select(row="b", other="a", jaccard="jaccard")])
    return both.sort("row", "jaccard", "other", descending=[False, True, False]).unique("row", keep="first", maintain_order=True)
