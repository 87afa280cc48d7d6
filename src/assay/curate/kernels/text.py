"""Texts made comparable: one normal form, its words, and the text of a prompt."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from assay.pairs.schema import Message

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, case folded, NFKC, without punctuation; line breaks and spacing make no difference."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normal(text: str) -> str:
    """The normal form by which two texts count as the same: their words, one space apart."""
    return " ".join(words(text))


def prompt_text(prompt: Iterable[Message]) -> str:
    """What the users of a conversation said, turn after turn."""
    return "\n".join(m["content"] for m in prompt if m["role"] == "user")


def key(*texts: str) -> str:
    """32 hex characters that name a sequence of texts."""
    joined = "\x1f".join(texts)
    return hashlib.sha256(joined.encode("utf-8")).hexdigest()[:32]
