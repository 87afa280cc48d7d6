"""How well chosen and rejected can be told apart without reading: a cross-fitted linear probe on what answers look like.

A logistic regression on the differences of surface features, fitted on some prompts and tried on the others (compare RM-R1, arXiv 2505.02387,
appendix F.2, on the marker that gave away a third of the 80K set). Beside it: every single feature with how often it differs and which way it points.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from assay.curate.kernels.surface import amounts, presence
from assay.errors import MissingExtra
from assay.evaluate.intervals import wilson
from assay.pairs.schema import answer_text

FOLDS = 3
LEAST = 60
"""A source of fewer rows is not probed."""
VOCABULARY = 20_000


@dataclass(frozen=True, slots=True)
class Tell:
    """One feature that gives labels away."""

    name: str
    side: str
    """The side that has it more often."""
    rows: int
    """Rows in which just one side has it, or has more of it."""
    purity: float
    """Share of those in which it is ``side``."""
    prompts: int
    """Different prompts among them."""
    examples: list[int] = field(default_factory=list)
    """Numbers of some such rows."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found in a set of pairs."""

    rows: int
    told: float
    """Share of labels that the probe tells right on prompts it was not fitted on, undecided ones half; 0.5 is a coin."""
    interval: tuple[float, float]
    length: float
    """Share that the longer (or the shorter, if that is better) answer tells right."""
    tells: list[Tell]
    """Features that point one way too often for chance, the most telling first."""

    def record(self) -> dict[str, Any]:
        """As plain values; of the tells the first dozen."""
        tells = [{"name": t.name, "side": t.side, "rows": t.rows, "purity": t.purity, "prompts": t.prompts, "examples": t.examples} for t in self.tells[:12]]
        return {"rows": self.rows, "told": self.told, "interval": list(self.interval), "length": self.length, "tells": tells}


def probe(pairs: pl.DataFrame, most: int = 500) -> Probed | None:
    """Probe pairs (``row``, ``prompt_id``, ``chosen``, ``rejected``); None if there are too few.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from scipy.sparse import csr_matrix, hstack
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtra("the probe for shortcuts", "audit") from None
    if pairs.height < LEAST:
        return None
    names, matrix, sizes = _differences(pairs)
    spread = sizes.std(axis=0)
    scaled = sizes / np.where(spread > 0, spread, 1)
    x = hstack([csr_matrix(matrix), csr_matrix(scaled)]).tocsr()
    fold = np.array([int(p[:8], 16) % FOLDS for p in pairs["prompt_id"]])
    turn = np.where(np.array([int(i[8:16], 16) % 2 for i in pairs["id"]]) == 0, 1, -1)  # half the rows the other way round, so that there are two classes
    right = np.full(pairs.height, 0.5)
    for f in range(FOLDS):
        fit, held = fold != f, fold == f
        if not held.any() or len(set(turn[fit])) < 2:
            continue
        model = LogisticRegression(C=0.3, fit_intercept=False, solver="liblinear").fit(x[fit].multiply(turn[fit][:, None]).tocsr(), turn[fit])
        side = model.decision_function(x[held])
        right[held] = (side > 0) + 0.5 * (side == 0)
    longer = sizes[:, 0]
    by_length = float(((longer > 0) + 0.5 * (longer == 0)).mean())
    told = float(right.sum())
    return Probed(pairs.height, told / pairs.height, wilson(told, pairs.height), max(by_length, 1 - by_length), _tells(names, matrix, sizes, pairs, most))


AMOUNTS = tuple(amounts(""))


def _differences(pairs: pl.DataFrame) -> tuple[list[str], Any, Any]:
    """Names of features; a sparse matrix [pairs, names] of what only one side has (+1 chosen, -1 rejected); and [pairs, AMOUNTS], by how much the sides differ."""
    from scipy.sparse import csc_matrix

    vocabulary: dict[str, int] = {}
    columns: list[Any] = []
    signs: list[Any] = []
    sizes = np.zeros((pairs.height, len(AMOUNTS)))
    for i, (chosen, rejected) in enumerate(pairs.select("chosen", "rejected").iter_rows()):
        better, worse = answer_text(chosen), answer_text(rejected)
        a, b = presence(better), presence(worse)
        one_sided = [(a - b, 1), (b - a, -1)]
        columns.append(np.array([vocabulary.setdefault(name, len(vocabulary)) for names, _ in one_sided for name in names], np.int32))
        signs.append(np.repeat(np.array([sign for _, sign in one_sided], np.int8), [len(names) for names, _ in one_sided]))
        sizes[i] = np.subtract(list(amounts(better, len(chosen)).values()), list(amounts(worse, len(rejected)).values()))
    at_row = np.repeat(np.arange(pairs.height), [len(c) for c in columns])
    at_column, sign = np.concatenate(columns), np.concatenate(signs)
    counts = np.bincount(at_column, minlength=len(vocabulary))
    names = list(vocabulary)
    often = sorted(np.flatnonzero(counts >= max(5, pairs.height // 200)).tolist(), key=lambda c: (-counts[c], names[c]))[:VOCABULARY]
    place = np.full(len(vocabulary), -1)
    place[often] = np.arange(len(often))
    kept = place[at_column] >= 0
    matrix = csc_matrix((sign[kept].astype(float), (at_row[kept], place[at_column[kept]])), shape=(pairs.height, len(often)))
    return [names[c] for c in often], matrix, sizes


def _tells(names: list[str], matrix: Any, sizes: Any, pairs: pl.DataFrame, most: int) -> list[Tell]:
    """Features with one direction far beyond chance (four standard deviations), by how many labels they give away."""
    numbers, prompts = pairs["row"].to_list(), pairs["prompt_id"].to_list()
    columns = [(name, matrix.indices[a:b], matrix.data[a:b]) for name, a, b in zip(names, matrix.indptr, matrix.indptr[1:], strict=False)]
    columns += [(f"more {name}", np.flatnonzero(sizes[:, i]), np.sign(sizes[np.flatnonzero(sizes[:, i]), i])) for i, name in enumerate(AMOUNTS)]
    found = []
    for name, at, sign in columns:
        n, lead = len(sign), float(sign.sum())
        if n and abs(lead) >= 4 * np.sqrt(n):
            side = 1 if lead > 0 else -1
            examples = [numbers[i] for i in at[sign == side][:3]]
            different = len({prompts[i] for i in at[sign == side]})
            found.append(Tell(name, "chosen" if side > 0 else "rejected", n, float((sign == side).mean()), different, examples))
    return sorted(found, key=lambda t: (-(2 * t.purity - 1) * t.rows, t.name))[:most]
