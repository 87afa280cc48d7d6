"""Texts as arrays of word hashes: a whole column at once, with no Python object a word.

A word is what ``text.words`` says it is. Texts are split and hashed from their bytes; those beyond ASCII, joined into one, go through
``text.only_words`` first. The 64-bit hash reads a word eight bytes at a time and is the same on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from assay.curate.kernels.text import folded, only_words

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

_ONE, _TWO = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)


def _lower_or_zero() -> bytes:
    """For every byte, its lower case if it can stand in a word, 0 if not. Bytes from 128 up come from ``text.only_words`` alone."""
    table = np.zeros(256, np.uint8)
    for code in range(256):
        if code >= 128 or chr(code).isalnum():
            table[code] = code if code >= 128 else ord(chr(code).lower())
    return table.tobytes()


_TABLE = _lower_or_zero()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words of a column of texts."""

    hashes: Hashes
    """The hash of every word, text after text."""
    offsets: Places
    """The words of text i are ``hashes[offsets[i]:offsets[i + 1]]``."""
    bytes_: NDArray[np.uint8]
    begin: Places
    end: Places
    """Where each word stands in ``bytes_``."""

    def words(self, first: int, last: int) -> list[str]:
        """The words from ``first`` up to ``last``, counted over all texts."""
        if last <= first:
            return []
        return [word.decode("utf-8") for word in self.bytes_[self.begin[first] : self.end[last - 1]].tobytes().split(b"\0") if word]

    def owner(self) -> Places:
        """For each word, the text it is of."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def tokenize(texts: Sequence[str] | pl.Series) -> Tokens:
    """Split a column of texts into words."""
    column = pl.Series("t", texts, dtype=pl.String).fill_null("")
    other = (column.str.len_bytes() != column.str.len_chars()).arg_true()
    if len(other):
        joined = "\n".join(folded(text).replace("\n", " ") for text in column.gather(other))
        column = column.scatter(other, only_words(joined).split("\n"))
    raw, bounds = _bytes(column)
    lowered = np.frombuffer(raw.tobytes().translate(_TABLE), np.uint8)
    inside = lowered != 0
    edges = np.flatnonzero(np.concatenate([inside[:1], inside[1:] != inside[:-1]]))
    begin, end = edges[::2], edges[1::2]
    return Tokens(_hashed(lowered, begin, end), np.searchsorted(begin, bounds), lowered, begin, end)


def _bytes(column: pl.Series) -> tuple[NDArray[np.uint8], Places]:
    """The texts as UTF-8, a line break after each, and where each begins; the last place is the end."""
    array = (column + "\n").rechunk().to_arrow().cast(pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    if len(array) == 0 or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]], bounds - bounds[0]


def _hashed(lowered: NDArray[np.uint8], begin: Places, end: Places) -> Hashes:
    """Mix in eight bytes of every word at a time, those beyond its end masked."""
    padded = np.concatenate([lowered, np.zeros(8, np.uint8)])
    eight: NDArray[np.uint64] = np.ndarray(len(lowered) + 1, np.dtype("<u8"), padded, strides=(1,))
    length = end - begin
    hashes = _mixed(length.astype(np.uint64) * _TWO, eight[begin] & _MASKS[np.minimum(length, 8)])
    long, done = np.flatnonzero(length > 8), 8
    while len(long):
        rest = np.minimum(length[long] - done, 8)
        hashes[long] = _mixed(hashes[long], eight[begin[long] + done] & _MASKS[rest])
        done += 8
        long = long[length[long] > done]
    return hashes


def _mixed(hashes: Hashes, more: Hashes) -> Hashes:
    hashes ^= more
    hashes *= _ONE
    hashes ^= hashes >> np.uint64(32)
    hashes *= _TWO
    hashes ^= hashes >> np.uint64(29)
    return hashes


def grams(tokens: Tokens, n: int) -> tuple[Hashes, Places]:
    """The hash of every word n-gram, and the word it begins at; none crosses from one text into the next.

    The hash of 2k words follows from two of k words, so n words take about log2(n) passes.
    """
    total = len(tokens.hashes) - n + 1
    if total <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    rolled, size = _rolled(tokens.hashes, n)
    assert size == n
    inside = np.ones(total, np.bool_)
    ends = tokens.offsets[1:-1]
    crossing = (ends[:, None] - np.arange(1, n)).ravel()
    inside[crossing[(crossing >= 0) & (crossing < total)]] = False
    places = np.flatnonzero(inside)
    return rolled[:total][places], places


def _rolled(hashes: Hashes, n: int) -> tuple[Hashes, int]:
    """Hashes of all runs of n: an associative polynomial, built by doubling."""
    block, width = hashes, 1
    whole: Hashes | None = None
    filled = 0
    while True:
        if n >> (width.bit_length() - 1) & 1:
            whole = block if whole is None else whole[: len(block) - filled] * _power(width) + block[filled : filled + len(whole)][: len(whole[: len(block) - filled])]
            filled += width
        if width * 2 > n:
            assert whole is not None
            return whole, filled
        block = block[:-width] * _power(width) + block[width:]
        width *= 2


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_ONE), exponent, 1 << 64))
