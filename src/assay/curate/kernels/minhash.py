"""MinHash signatures of texts, cut into bands: rows that share a band are candidates for near duplicates.

A text is the set of its word n-grams (shingles). Of a set, MinHash keeps the least value under each of many permutations; two sets agree in
one with a probability equal to their Jaccard similarity J (Broder 1997), and share one of b bands of r values with 1 - (1 - J^r)^b.
"""

import numpy as np
import polars as pl
import rensa
from numpy.typing import NDArray

from assay.curate.kernels.tokens import Hashes, Places, grams, tokenize

SEED = 1
SIGNER = f"rensa {rensa.RMinHash.ALGORITHM_VERSION}" if hasattr(rensa.RMinHash, "ALGORITHM_VERSION") else "rensa"


def shingles(texts: pl.Series, size: int, short: int) -> tuple[Hashes, Places]:
    """The shingles of each text, repeats included: those of text i are ``[offsets[i]:offsets[i + 1]]``.

    A text of fewer than ``short`` words has shingles of two words (or its one word): one edit in it would change most of the longer ones.
    """
    tokens, least = tokenize(texts), max(size, short, 2)
    count = np.diff(tokens.offsets)
    owner_of_word = tokens.owner()
    hashes, owner = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for width, which in ((size, count >= least), (2, (count < least) & (count > 1)), (1, count == 1)):
        if which.any():
            found, place = grams(tokens, width)
            its = owner_of_word[place]
            chosen = slice(None) if which.all() else which[its]
            hashes, owner = np.concatenate([hashes, found[chosen]]), np.concatenate([owner, its[chosen]])
    order = slice(None) if (owner[1:] >= owner[:-1]).all() else np.argsort(owner, kind="stable")
    return hashes[order], np.searchsorted(owner[order], np.arange(len(texts) + 1))


def signatures(hashes: Hashes, offsets: Places, permutations: int) -> NDArray[np.uint32]:
    """[texts, permutations]."""
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.ascontiguousarray(hashes), offsets.astype(np.uint64), permutations, SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(offsets) - 1, permutations)


def bands(signature: NDArray[np.uint32], rows: int) -> Hashes:
    """[texts, bands]: each run of ``rows`` values as one hash."""
    parts = signature.reshape(len(signature), -1, rows).astype(np.uint64)
    mixed = np.zeros(parts.shape[:2], np.uint64)
    for i in range(rows):
        mixed = (mixed ^ parts[:, :, i]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def choose_bands(threshold: float, permutations: int, recall: float = 0.99) -> tuple[int, int]:
    """(bands, rows of a band): the longest band whose chance to catch a pair exactly at ``threshold`` is at least ``recall``.

    Longer bands give fewer candidates; candidates are checked, so only a missed one is an error.
    """
    for rows in range(permutations, 0, -1):
        if permutations % rows == 0 and caught(threshold, permutations // rows, rows) >= recall:
            return permutations // rows, rows
    return permutations, 1


def caught(similarity: float, bands_: int, rows: int) -> float:
    """The chance that a pair of this Jaccard similarity becomes a candidate."""
    return float(1 - (1 - similarity**rows) ** bands_)


def s_curve(bands_: int, rows: int) -> dict[str, float]:
    """The chance to become a candidate, by Jaccard similarity."""
    return {f"{j:.1f}": round(caught(j, bands_, rows), 4) for j in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}


def jaccard(a: Hashes, b: Hashes) -> float:
    """The similarity of two sets, each sorted and without repeats, 0 to 1; of two empty sets 1."""
    if len(a) == 0 and len(b) == 0:
        return 1.0
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)
