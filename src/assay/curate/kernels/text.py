"""Texts made comparable: one normal form, its words, and the text of a prompt."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from assay.pairs.schema import Message

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_JOINERS = "\u00ad\u200b\u200c\u200d\u2060\u20e3" + "".join(map(chr, range(0xFE00, 0xFE10)))
"""Characters that show how others are joined or drawn: soft hyphen, joiners, variation selectors, keycaps."""
_UNSPACED = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
"""Scripts written without spaces: Chinese characters and Japanese syllables. Each counts as a word."""
_GAP, _LETTER, _JOINER, _WORD = range(4)


def words(text: str) -> list[str]:
    """The words of a text, case folded, NFKC, without punctuation; line breaks and spacing make no difference."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return only_words(folded(text)).split()


def folded(text: str) -> str:
    """A text in NFKC, case folded."""
    return unicodedata.normalize("NFKC", text).casefold()


def only_words(folded: str) -> str:
    """A folded text with a space for whatever is in no word; line breaks stay."""
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[codes]
    codes = np.where(kinds == _GAP, ord(" "), codes)
    alone = np.flatnonzero(kinds == _WORD)
    if len(alone) or (kinds == _JOINER).any():
        joiners = np.flatnonzero(kinds == _JOINER)
        spaces = np.concatenate([alone, alone + 1])
        codes = np.insert(np.delete(codes, joiners), spaces - np.searchsorted(joiners, spaces), ord(" "))
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _kinds() -> NDArray[np.uint8]:
    """For every code point, what it does to a word; a line break counts as a letter, so it stays."""
    kinds = np.zeros(0x110000, np.uint8)
    for code in range(0x110000):
        c = chr(code)
        kinds[code] = _LETTER if c.isalnum() or unicodedata.category(c)[0] == "M" or c == "\n" else _GAP
    for first, last in _UNSPACED:
        block = kinds[first : last + 1]
        block[block == _LETTER] = _WORD
    kinds[[ord(c) for c in _JOINERS]] = _JOINER
    return kinds


def spaced(text: str) -> str:
    """A text with one space wherever it has any. Unlike ``normal`` it keeps every sign: in code and arithmetic a sign is the answer."""
    return " ".join(text.split())


_SIGNS = re.compile(r"(?<=[\w)\]])\s*(?:[+/^=<>%]+|(?<!\*)\*(?!\*)|-(?=\s*[\d(]))|(?<=\w)#")


def signs(text: str) -> str:
    """The signs between words or at the end of one, as in 7 + 8, a < b and C++, which words leave out; a hyphen only before a number."""
    return "".join("".join(_SIGNS.findall(text)).split())


def normal(text: str) -> str:
    """The normal form by which two texts count as the same: their words, one space apart."""
    return " ".join(words(text))


def prompt_text(prompt: Iterable[Message]) -> str:
    """What the users of a conversation said, turn after turn."""
    return "\n".join(m["content"] for m in prompt if m["role"] == "user")


def key(*texts: str) -> int:
    """A 64-bit number that names a sequence of texts. Among ten million texts two share one with a chance of about 3 in a million."""
    joined = "\x1f".join(texts)
    return int.from_bytes(hashlib.sha256(joined.encode("utf-8")).digest()[:8], "big")
