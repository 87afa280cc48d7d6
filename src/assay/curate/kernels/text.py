"""Texts made comparable: one normal form, its words, and the text of a prompt."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from assay.pairs.schema import Message

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_JOINERS = re.compile("[\u00ad\u200b-\u200d\u2060\u20e3\ufe00-\ufe0f]")
"""Characters that show how others are joined or drawn: soft hyphen, joiners, variation selectors, keycaps."""
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
"""Scripts written without spaces: Chinese characters and Japanese syllables. Each counts as a word."""


def words(text: str) -> list[str]:
    """The words of a text, case folded, NFKC, without punctuation; line breaks and spacing make no difference."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = _UNSPACED.sub(r" \1 ", _JOINERS.sub("", unicodedata.normalize("NFKC", text).casefold()))
    return "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded).split()


def spaced(text: str) -> str:
    """A text with one space wherever it has any. Unlike ``normal`` it keeps every sign: in code and arithmetic a sign is the answer."""
    return " ".join(text.split())


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
