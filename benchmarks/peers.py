"""Near duplicates and decontamination against what people use instead, on the same texts in one run: seconds of the processor, and whether the decisions are the same.

    python benchmarks/skywork_pool.py /tmp/pool --scale 1 --defects
    python benchmarks/peers.py /tmp/pool [--rows 50000]

Peers: datasketch's MinHash and LSH with its defaults (as text-dedup and others build on), with the same bands and candidates checked by true Jaccard similarity as ours;
and the usual set of word tuples for n-grams. One process each, no workers; best of three.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay.curate.kernels import minhash, ngrams
from assay.curate.kernels.text import words
from assay.curate.steps.near_duplicates import sharing
from assay.pairs.read import read

JACCARD, SIZE, SHORT, PERMUTATIONS = 0.8, 3, 20, 128


def shingle_set(text: str) -> frozenset[tuple[str, ...]]:
    """The shingles of a text as the step defines them, the plain way."""
    said = words(text)
    size = SIZE if len(said) >= SHORT else min(2, len(said))
    return frozenset(zip(*(said[i:] for i in range(size)), strict=False)) if said else frozenset()


def ours_near(texts: list[str]) -> set[tuple[int, int]]:
    """Pairs of near duplicates by Assay's kernels."""
    count, width = minhash.choose_bands(JACCARD, PERMUTATIONS)
    parts = []
    for start in range(0, len(texts), 500):
        hashes, offsets = minhash.shingles(pl.Series(texts[start : start + 500]), SIZE, SHORT)
        parts.append(minhash.bands(minhash.signatures(hashes, offsets, PERMUTATIONS), width))
    banded, numbers = np.concatenate(parts), np.arange(len(texts))
    pairs = np.unique(np.concatenate([sharing(numbers, banded[:, i]) for i in range(count)]), axis=0)
    needed = np.unique(pairs)
    hashes, offsets = minhash.shingles(pl.Series([texts[i] for i in needed]), SIZE, SHORT)
    sets = {int(i): np.unique(hashes[a:b]) for i, a, b in zip(needed, offsets, offsets[1:], strict=False)}
    return {(int(a), int(b)) for a, b in pairs if minhash.jaccard(sets[int(a)], sets[int(b)]) >= JACCARD}


def datasketch_near(texts: list[str]) -> set[tuple[int, int]]:
    """The same by datasketch."""
    from datasketch import MinHash, MinHashLSH

    count, width = minhash.choose_bands(JACCARD, PERMUTATIONS)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(count, width))
    sets = [shingle_set(text) for text in texts]
    found = set()
    for i, shingles in enumerate(sets):
        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([" ".join(s).encode() for s in shingles])
        for j in index.query(signature):
            both = len(shingles & sets[j])
            if both / (len(shingles) + len(sets[j]) - both) >= JACCARD:
                found.add((j, i))
        index.insert(i, signature)
    return found


def tuples_hit(texts: list[str], reference: list[str], n: int = 13) -> list[bool]:
    """Which texts share a word n-gram with a reference text, by sets of tuples."""
    grams: set[tuple[str, ...]] = set()
    for text in reference:
        said = words(text)
        grams.update(zip(*(said[i:] for i in range(n)), strict=False))
    hits = []
    for text in texts:
        said = words(text)
        hits.append(not grams.isdisjoint(zip(*(said[i:] for i in range(n)), strict=False)))
    return hits


def ours_hit(texts: list[str], reference: list[str], n: int = 13) -> list[bool]:
    """The same by Assay's kernel, with the span of every hit found as well."""
    index = ngrams.index(reference, n)
    return [bool(hit) for start in range(0, len(texts), 500) for hit in ngrams.overlaps(pl.Series(texts[start : start + 500]), index)]


def best(function: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """(seconds of the fastest of some runs, result)."""
    taken, result = [], None
    for _ in range(times):
        start = time.process_time()
        result = function()
        taken.append(time.process_time() - start)
    return min(taken), result


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    args = parser.parse_args()
    files = sorted((args.pool / "Magpie-Align" / "Magpie-Llama-3.1-Pro-DPO-100K-v0.1").rglob("*.parquet"))
    parts: list[pl.DataFrame] = []
    while files and sum(part.height for part in parts) < args.rows:
        parts.append(read(files.pop(0)).pairs.select("prompt", "chosen"))
    pairs = pl.concat(parts).head(args.rows)
    texts = ["\n".join(m["content"] for m in [*p, *c]) for p, c in pairs.iter_rows()]
    prompts = ["\n".join(m["content"] for m in p) for p in pairs["prompt"].to_list()]
    bench = pl.read_parquet(args.pool / "allenai/reward-bench/data/filtered-00000.parquet")
    reference = [str(p) for p in bench["prompt"]] + prompts[:: max(1, len(prompts) // 500)]
    print(f"{len(prompts):,} prompts of {sum(map(len, prompts)) / len(prompts):,.0f} characters, {len(texts):,} texts of {sum(map(len, texts)) / len(texts):,.0f}\n")
    print("| task | ours, s | peer | peer, s | ratio | same decisions |\n|---|---:|---|---:|---:|---|")
    a, near = best(lambda: ours_near(prompts))
    b, theirs = best(lambda: datasketch_near(prompts), 1)
    print(f"| near duplicates, {len(prompts):,} prompts | {a:.2f} | datasketch | {b:.2f} | {b / a:.1f} | {len(near & theirs):,} in both, {len(near - theirs):,} ours alone, {len(theirs - near):,} theirs alone |")
    a, hit = best(lambda: ours_hit(texts, reference))
    b, their_hits = best(lambda: tuples_hit(texts, reference), 1)
    print(f"| 13-grams of {len(reference):,} prompts, {len(texts):,} texts | {a:.2f} | set of tuples | {b:.2f} | {b / a:.1f} | {'yes' if hit == their_hits else 'NO'}, {sum(hit):,} hits |")


if __name__ == "__main__":
    main()
