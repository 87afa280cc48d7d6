"""What an answer looks like without reading it: its edges, words, marks, lengths, markup, refusals and repetition, each under a name."""

import ast
import itertools
import math
import re

from assay.curate.kernels.text import words

MARK = re.compile(r"<[^<>\s]{1,30}>(?:(?<=\|>)(?:assistant|user|system)\b)?|\[/?[A-Z_]{2,20}\]|(?m:^)\W{0,4}[A-Z][a-z]{2,11}:(?=\s|$)")
"""Template and role markers of any kind: `<...>`, `[INST]`, a line that begins with `Human:`."""
MARKDOWN = re.compile(r"^#{1,6} |^\s*(?:[-*+]|\d+[.)]) |\*\*[^*\n]+\*\*|^```|^\|.*\|\s*$", re.MULTILINE)
"""Headings, list items, bold text, code fences, table rows."""
REFUSAL = re.compile(r"\s*(?:i['\u2019]?m sorry|sorry,|i apologi[sz]e|i can(?:no|['\u2019])t|i(?: a|['\u2019])m (?:un|not )able|as an ai|i must decline|unfortunately, i)", re.IGNORECASE)
EDGE = 8
LONGEST = 8_000
"""Characters of an answer that are looked at, half from each end."""


def presence(text: str) -> set[str]:
    """Names of what a text has. A name begins with its kind: `mark`, `begins`, `ends`, `first word`, `last word`, `word`, `words`, `opens`."""
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + "\n" + text[-LONGEST // 2 :]
    said = words(text)
    found = {f"mark: {m.strip()}" for m in MARK.findall(text)}
    if text:
        found |= {f"begins: {text[:EDGE]!r}", f"ends: {text[-EDGE:]!r}", f"ends: {text[-1]!r}"}
    if said:
        found |= {f"first word: {said[0]}", f"last word: {said[-1]}", f"first words: {' '.join(said[:2])}", f"last words: {' '.join(said[-2:])}"}
    if REFUSAL.match(text):
        found.add("opens: with a refusal")
    found |= {f"word: {word}" for word in said}
    found |= {f"words: {a} {b}" for a, b in itertools.pairwise(said)}
    return found


def amounts(text: str, turns: int = 1) -> dict[str, float]:
    """How much of something a text has, lengths as logarithms."""
    said = words(text)
    return {
        "length": math.log1p(len(text)),
        "words": math.log1p(len(said)),
        "lines": math.log1p(text.count("\n")),
        "markdown": math.log1p(len(MARKDOWN.findall(text))),
        "code": math.log1p(text.count("```")),
        "digits": sum(c.isdigit() for c in text[:LONGEST]) / (len(text[:LONGEST]) + 1),
        "repetition": 1 - len(set(said)) / len(said) if said else 0.0,
        "turns": float(turns),
    }


def literal(name: str) -> tuple[str, str] | None:
    """(kind, text) of a name that stands for an exact piece of text; None for the others."""
    kind, _, text = name.partition(": ")
    if kind == "mark":
        return kind, text
    if kind in ("begins", "ends"):
        return kind, str(ast.literal_eval(text))
    return None


def has(text: str, kind: str, piece: str) -> bool:
    """Whether a text has a literal."""
    if kind == "begins":
        return text.startswith(piece)
    return text.endswith(piece) if kind == "ends" else piece in text
