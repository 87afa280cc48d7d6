"""What a score leans on besides quality: length and style, told from the comparisons of a suite (a better and a worse answer to the same prompt).

Every comparison counts so that the comparisons of an item weigh one together. *Length-controlled* accuracy is the mean of the accuracy where the better answer is the longer one and where it
is the shorter one: what the scorer would get if length told nothing about the label. *Style-controlled* accuracy is that of what is left of the margins once the part that is
linear in differences of style (length, lines, markdown, code) has been taken away, fitted on the other prompts, half where nothing is left; compare the style control of Chatbot Arena.
"""

import zlib
from typing import Any

import numpy as np

from assay.curate.kernels.surface import REFUSAL, amounts
from assay.evaluate.intervals import Floats, Ints, interval, resampled_means
from assay.evaluate.suite import Suite
from assay.evaluate.suites.ratings import spearman_terms
from assay.pairs.schema import answer_text

STYLE = ("length", "lines", "markdown", "code")
LEANINGS = ("length", "markdown", "refusal")
DRAWS = 400
LEAST = 20
"""Comparisons below which nothing is said of a leaning."""


def lean(suite: Suite, scores: Floats) -> dict[str, Any] | None:
    """What the scores of a suite lean on; None if it has no comparisons.

    Returns:
        ``length_controlled`` and ``style_controlled`` (value, low, high), ``chosen_longer`` and ``chosen_shorter`` (comparisons, accuracy), and for each of
        LEANINGS the rank correlation of the difference in score with the difference in that.
    """
    item, better, worse = suite.comparisons()
    if not len(item):
        return None
    weight = 1 / np.bincount(item, minlength=len(suite.items))[item]
    style = _styles(suite)
    difference = style[item, better] - style[item, worse]
    with np.errstate(invalid="ignore"):
        margin = scores[item, better] - scores[item, worse]
    margin = np.where(np.isnan(margin), 0.0, margin)
    right = (margin > 0).astype(float)
    longer, shorter = difference[:, 0] > 0, difference[:, 0] < 0
    found: dict[str, Any] = {
        "comparisons": len(item),
        "chosen_longer": {"comparisons": int(longer.sum()), "accuracy": _mean(right, weight, longer)},
        "chosen_shorter": {"comparisons": int(shorter.sum()), "accuracy": _mean(right, weight, shorter)},
        "length_controlled": _length_controlled(suite, item, right, weight, longer, shorter),
        "style_controlled": _style_controlled(suite, item, margin, difference[:, : len(STYLE)]),
    }
    for name, column in zip(LEANINGS, (0, STYLE.index("markdown"), len(STYLE)), strict=True):
        found[name] = _leaning(suite, item, margin, difference[:, column])
    return found


def _mean(values: Floats, weight: Floats, where: Any) -> float | None:
    return float(np.average(values[where], weights=weight[where])) if where.any() else None


def _styles(suite: Suite) -> Floats:
    """Shape [items, width, STYLE and refusal]."""
    found = np.full((*suite.gold.shape, len(STYLE) + 1), np.nan)
    known: dict[str, list[float]] = {}
    for i, one in enumerate(suite.items):
        for j, answer in enumerate(one.answers):
            text = answer_text(answer)
            if text not in known:
                amount = amounts(text)
                known[text] = [*(amount[name] for name in STYLE), float(bool(REFUSAL.match(text)))]
            found[i, j] = known[text]
    return found


def _by_item(item: Ints, values: Floats) -> tuple[Ints, Floats]:
    """The items there are, and the mean of the values of each."""
    rows, place = np.unique(item, return_inverse=True)
    return rows, np.bincount(place, weights=values) / np.bincount(place)


def _draws(suite: Suite, groups: dict[str, tuple[Ints, Floats]], name: str, weights: dict[str, Floats] | None = None) -> tuple[dict[str, Floats], int]:
    clusters = [one.cluster for one in suite.items]
    return resampled_means(groups, clusters, ["all"] * len(clusters), f"{suite.name}/{name}", DRAWS, weights), len(set(clusters))


def _length_controlled(suite: Suite, item: Ints, right: Floats, weight: Floats, longer: Any, shorter: Any) -> dict[str, float] | None:
    if not longer.any() or not shorter.any():
        return None
    sides = {"longer": longer, "shorter": shorter}
    draws, clusters = _draws(suite, {name: (item[where], right[where]) for name, where in sides.items()}, "length", {name: weight[where] for name, where in sides.items()})
    means = {name: float(np.average(right[where], weights=weight[where])) for name, where in sides.items()}
    value = (means["longer"] + means["shorter"]) / 2
    parts = [(0.5, means[name], len({suite.items[i].cluster for i in item[where]})) for name, where in sides.items()]
    strata = [(weight**2 * float(np.nanvar(draws[name])), n) for name, (weight, _, n) in zip(sides, parts, strict=True)]
    low, high = interval(value, (draws["longer"] + draws["shorter"]) / 2, clusters, parts=parts, strata=strata)
    return {"value": value, "low": low, "high": high}


def _style_controlled(suite: Suite, item: Ints, margin: Floats, difference: Floats) -> dict[str, float] | None:
    if len(item) < LEAST:
        return None
    fold = np.array([zlib.crc32(one.cluster.encode("utf-8")) % 5 for one in suite.items])[item]
    finite = np.isfinite(margin)
    rest = margin.copy()
    for f in range(5):
        fit, held = (fold != f) & finite, fold == f
        if fit.any() and held.any():
            # without a constant, each comparison stands for both of its orders
            rest[held] -= difference[held] @ np.linalg.lstsq(difference[fit], margin[fit], rcond=None)[0]
    nothing = 1e-9 * (float(np.std(margin[finite])) or 1.0)
    rows, values = _by_item(item, (rest > nothing) + 0.5 * (np.abs(rest) <= nothing))
    draws, clusters = _draws(suite, {"rest": (rows, values)}, "style")
    value = float(values.mean())
    low, high = interval(value, draws["rest"], clusters)
    return {"value": value, "low": low, "high": high}


def _leaning(suite: Suite, item: Ints, margin: Floats, difference: Floats) -> dict[str, float] | None:
    """Spearman's correlation over comparisons where the two answers differ in this, each in both orders."""
    differ = difference != 0
    if differ.sum() < LEAST:
        return None
    item, margin, difference = item[differ], margin[differ], difference[differ]
    terms = spearman_terms(np.concatenate([margin, -margin]), np.concatenate([difference, -difference]))
    terms = (terms[: len(item)] + terms[len(item) :]) / 2
    draws, clusters = _draws(suite, {"terms": (item, terms)}, "leaning")
    value, spread = float(terms.mean()), 1.96 * float(np.nanstd(draws["terms"])) * (clusters / max(1, clusters - 1)) ** 0.5
    return {"value": value, "low": max(-1.0, value - spread), "high": min(1.0, value + spread)}
