"""Which texts share word n-grams with a set of reference texts, by rolling hashes, each hit checked on the words.

The obvious twin (sets of tuples) is in the tests and must agree.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.curate.kernels.text import words

_BASE = np.uint64(0x9E3779B97F4A7C15)


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


@dataclass(frozen=True, slots=True)
class Hit:
    """A text shares n-grams with a reference text."""

    reference: int
    coverage: float
    """The share of the reference's different n-grams that the text contains, 0 to 1."""
    span: str
    """The longest run of words of the reference of which the text has every n-gram."""


def index(texts: Sequence[str], n: int) -> Reference:
    """Index reference texts. Texts of fewer than ``n`` words have no n-gram and can't be hit."""
    tokens = [words(text) for text in texts]
    hashes, owner, start = _grams(tokens, n)
    order = np.argsort(hashes, kind="stable")
    return Reference(n, tokens, hashes[order], owner[order], start[order])


def overlaps(texts: Sequence[str], reference: Reference) -> list[list[Hit]]:
    """For each text, the reference texts it shares an n-gram with, the highest coverage first."""
    tokens = [words(text) for text in texts]
    hashes, owner, start = _grams(tokens, reference.n)
    left = np.searchsorted(reference.hashes, hashes, side="left")
    right = np.searchsorted(reference.hashes, hashes, side="right")
    shared: list[dict[int, set[int]]] = [defaultdict(set) for _ in texts]
    for i in np.flatnonzero(right > left):
        text, begin = int(owner[i]), int(start[i])
        gram = tokens[text][begin : begin + reference.n]
        for j in range(left[i], right[i]):
            item, at = int(reference.owner[j]), int(reference.start[j])
            if reference.words[item][at : at + reference.n] == gram:
                shared[text][item].add(at)
    return [_hits(found, reference) for found in shared]


def _hits(found: dict[int, set[int]], reference: Reference) -> list[Hit]:
    hits = []
    for item, starts in found.items():
        item_words, n = reference.words[item], reference.n
        different = {tuple(item_words[i : i + n]) for i in range(len(item_words) - n + 1)}
        matched = {tuple(item_words[i : i + n]) for i in starts}
        hits.append(Hit(item, len(matched) / len(different), _longest_span(item_words, sorted(starts), n)))
    return sorted(hits, key=lambda hit: (-hit.coverage, hit.reference))


def _longest_span(item_words: list[str], starts: list[int], n: int) -> str:
    best = (starts[0], starts[0])
    first = last = starts[0]
    for at in starts[1:]:
        first, last = (first, at) if at == last + 1 else (at, at)
        if last - first > best[1] - best[0]:
            best = (first, last)
    return " ".join(item_words[best[0] : best[1] + n])


def _grams(tokens: list[list[str]], n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Hash, text and first word of every n-gram of every text; a gram never crosses from one text into the next."""
    lengths = np.array([len(t) for t in tokens], dtype=np.int64)
    vocabulary: dict[str, int] = {}
    codes = np.fromiter((vocabulary.setdefault(w, len(vocabulary)) for t in tokens for w in t), np.int64, int(lengths.sum()))
    hashed = np.fromiter(map(_word_hash, vocabulary), np.uint64, len(vocabulary))
    stream = hashed[codes] if len(codes) else np.zeros(0, np.uint64)
    owner = np.repeat(np.arange(len(tokens)), lengths)
    start = np.arange(len(stream)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if len(stream) < n:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    rolled = np.zeros(len(stream) - n + 1, np.uint64)
    for offset in range(n):
        rolled = rolled * _BASE + stream[offset : offset + len(rolled)]
    inside = owner[: len(rolled)] == owner[n - 1 :]
    return rolled[inside], owner[: len(rolled)][inside], start[: len(rolled)][inside]


def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")
