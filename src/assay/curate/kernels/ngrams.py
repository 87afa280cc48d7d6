"""Which texts share word n-grams with a set of reference texts: by rolling hashes, each hit checked on the words.

The obvious twin (sets of tuples) is in the tests and must agree.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from assay.curate.kernels.tokens import Tokens, grams, tokenize

_BITS = np.uint64(26)
"""Size of the filter before the exact lookup, as a power of two: 8 MB, which stays in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Reference texts, indexed by the hash of each word n-gram."""

    n: int
    words: list[list[str]]
    hashes: NDArray[np.uint64]
    """Sorted hashes of all n-grams."""
    owner: NDArray[np.int64]
    """For each hash, which text the n-gram is of."""
    start: NDArray[np.int64]
    """For each hash, the word of that text at which the n-gram begins."""
    filter: NDArray[np.uint8]
    """One bit for each value the leading bits of a hash can have."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A text shares n-grams with a reference text."""

    reference: int
    coverage: float
    """The share of the reference's different n-grams that the text contains, 0 to 1."""
    span: str
    """The longest run of words of the reference of which the text has every n-gram."""
    at: int
    """The word of the text at which the first shared n-gram begins."""


def index(texts: Sequence[str], n: int) -> Reference:
    """Index reference texts. Texts of fewer than ``n`` words have no n-gram and can't be hit."""
    tokens = tokenize(texts)
    hashes, place = grams(tokens, n)
    order = np.argsort(hashes, kind="stable")
    owner = tokens.owner()[place[order]] if len(place) else np.zeros(0, np.int64)
    lists = [tokens.words(a, b) for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    there = np.zeros(1 << int(_BITS), np.bool_)
    there[(hashes >> (np.uint64(64) - _BITS)).astype(np.int64)] = True
    bits = np.packbits(there, bitorder="little")
    return Reference(n, lists, hashes[order], owner, place[order] - tokens.offsets[owner], bits)


def _bit(slot: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (slot & np.uint64(7)).astype(np.uint8))


def overlaps(texts: Sequence[str] | pl.Series, reference: Reference) -> list[list[Hit]]:
    """For each text, the reference texts it shares an n-gram with, the highest coverage first."""
    hits: list[list[Hit]] = [[] for _ in range(len(texts))]
    tokens = tokenize(texts)
    for text, found in _shared(tokens, reference).items():
        hits[text] = _hits(found, reference)
    return hits


def _shared(tokens: Tokens, reference: Reference) -> dict[int, dict[int, dict[int, int]]]:
    """For each text with a hit: reference text -> word there -> word here."""
    hashes, place = grams(tokens, reference.n)
    slot = hashes >> (np.uint64(64) - _BITS)
    maybe = np.flatnonzero(reference.filter[(slot >> np.uint64(3)).astype(np.int64)] & _bit(slot))
    left = np.searchsorted(reference.hashes, hashes[maybe], side="left")
    right = np.searchsorted(reference.hashes, hashes[maybe], side="right")
    shared: dict[int, dict[int, dict[int, int]]] = {}
    hit = np.flatnonzero(right > left)
    owner = np.searchsorted(tokens.offsets, place[maybe[hit]], side="right") - 1
    said: list[str] = []
    last = -1
    for i, text in zip(hit.tolist(), owner.tolist(), strict=True):
        if text != last:
            said, last = tokens.words(int(tokens.offsets[text]), int(tokens.offsets[text + 1])), text
        here = int(place[maybe[i]] - tokens.offsets[text])
        for j in range(left[i], right[i]):
            item, at = int(reference.owner[j]), int(reference.start[j])
            if reference.words[item][at : at + reference.n] == said[here : here + reference.n]:
                shared.setdefault(text, defaultdict(dict))[item].setdefault(at, here)
    return shared


def _hits(found: dict[int, dict[int, int]], reference: Reference) -> list[Hit]:
    hits = []
    for item, starts in found.items():
        item_words, n = reference.words[item], reference.n
        different = {tuple(item_words[i : i + n]) for i in range(len(item_words) - n + 1)}
        matched = {tuple(item_words[i : i + n]) for i in starts}
        hits.append(Hit(item, len(matched) / len(different), _longest_span(item_words, sorted(starts), n), min(starts.values())))
    return sorted(hits, key=lambda hit: (-hit.coverage, hit.reference))


def _longest_span(item_words: list[str], starts: list[int], n: int) -> str:
    best = (starts[0], starts[0])
    first = last = starts[0]
    for at in starts[1:]:
        first, last = (first, at) if at == last + 1 else (at, at)
        if last - first > best[1] - best[0]:
            best = (first, last)
    return " ".join(item_words[best[0] : best[1] + n])
