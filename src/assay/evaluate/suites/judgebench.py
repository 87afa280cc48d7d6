"""JudgeBench (Tan et al., arXiv 2410.12784): pairs of answers of which one is objectively right, from four sources.

A judge is asked twice, the second time with the answers exchanged. A verdict that agrees with the label counts +1, one that contradicts it -1, anything else (a tie, no
verdict) 0; right if the sum is positive. A scorer is asked once, and says A>B if A scores strictly higher, else B>A, so that on equal scores it is right exactly
where the label is B>A: this is the official wrapper's rule and flatters a constant scorer; ``ties`` beside the figure tells how many there were.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Suite, Tree, by_items, equally
from assay.evaluate.suites.pairs import by_subset
from assay.evaluate.suites.raw import answer, get, text
from assay.pairs.messages import Aside, prompt_of
from assay.pairs.schema import prompt_id

SOURCES = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")
FLIP = {"A>B": "B>A", "B>A": "A>B"}
LABELS = ("A>B", "B>A")


def items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """The published rows: ``pair_id``, ``source``, ``question``, ``response_A``, ``response_B``, ``label``. The answers keep their order, A first."""
    for row in rows:
        try:
            label = text(row, "label")
            if label not in LABELS:
                raise Aside(f"the label is {label!r}, expected A>B or B>A")
            prompt = prompt_of(get(row, "question"))
            both = [answer(get(row, f"response_{side}"), f"response_{side}") for side in "AB"]
            source = text(row, "source")
            yield Item(str(row.get("pair_id", "")), category(source), prompt, both, (1.0, 0.0) if label == "A>B" else (0.0, 1.0), prompt_id(prompt), {"source": source, "label": label})
        except Aside as reason:
            yield reason


def category(source: str) -> str:
    """Which of the four sources a row is of: by the beginning of its name; another name is its own category."""
    return next((name for name in SOURCES if source.startswith(name)), source)


def measure(suite: Suite, scores: Floats) -> Tree:
    """The share of right verdicts by source; over all pairs (micro); and the plain mean of the sources (macro), of each split by itself where both are there."""
    with np.errstate(invalid="ignore"):
        says_a = scores[:, 0] > scores[:, 1]
    values = (says_a == (suite.gold[:, 0] == 1)).astype(float)
    values[np.isnan(scores[:, :2]).any(axis=1)] = 0.0  # a failure is no verdict for B
    parts = by_subset(suite, values)
    splits = _splits(suite)
    return Tree(parts, {f"{split}macro average": equally([name for name in parts if splits[name] == split]) for split in sorted(set(splits.values()))}, by_items(parts))


def _splits(suite: Suite) -> dict[str, str]:
    """For each subset the beginning of its name, which says its split where several are there."""
    return {item.subset: f"{item.about['split']}, " if "split" in item.about else "" for item in suite.items}


def warnings(suite: Suite) -> list[str]:
    """Which of the four sources are missing, of each split."""
    missing = [f"{name} ({split.rstrip(', ')})" if split else name for split in sorted(set(_splits(suite).values())) for name in SOURCES if split + name not in suite.subsets]
    return [f"JudgeBench has no pair of {', '.join(missing)}; its figures are of the other sources and not comparable with published ones"] if missing else []


def is_right(label: str, verdicts: Sequence[str | None]) -> bool:
    """Whether a judge is right that said ``verdicts`` for (A, B) and, if asked twice, for (B, A): each in its own terms, None if it failed.

    Raises:
        AssayError: it was asked once and failed.
    """
    if len(verdicts) == 1:
        if verdicts[0] is None:
            raise AssayError("JudgeBench: the judge gave no verdict, and it was asked only once; ask in both orders, where a failure counts nothing")
        return verdicts[0] == label
    first, second = verdicts
    seen = (first, FLIP.get(second, second) if second else second)
    against = FLIP.get(label, label)
    return sum((verdict == label) - (verdict == against and against != label) for verdict in seen) > 0


def percent(pairs: Sequence[Mapping[str, Any]], single_game: bool = False) -> dict[str, float]:
    """Percent of right pairs (``source``, ``label``, ``decisions``) by source that is there, and ``Overall`` over all pairs.

    Raises:
        AssayError: there is no pair, or a judge that was asked once failed.
    """
    if not pairs:
        raise AssayError("JudgeBench: there are no pairs")
    right = [is_right(pair["label"], pair["decisions"][: 1 if single_game else 2]) for pair in pairs]
    found = {}
    for name in SOURCES:
        mine = [ok for ok, pair in zip(right, pairs, strict=True) if pair["source"].startswith(name)]
        if mine:
            found[name] = 100 * sum(mine) / len(mine)
    return {**found, "Overall": 100 * sum(right) / len(right)}


def verdict(a: float, b: float) -> str:
    """What a scorer says of two answers: A>B if A scores strictly higher, else B>A."""
    return "A>B" if a > b else "B>A"
