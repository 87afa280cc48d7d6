"""Rated answers: how far the order of the scores is the order of the ratings, for each attribute.

Spearman's rank correlation over all rated answers, mean ranks for equal values. Its interval comes from the linear part of the correlation (its influence function), resampled over prompts
like every other figure. An attribute for which the scorer has an output of its own is also measured by that output.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Part, Suite, Tree, equally, set_apart
from assay.evaluate.suites.raw import answer, get, number
from assay.pairs.messages import Aside, check_prompt, helpsteer_prompt, messages
from assay.pairs.ratings import PREFIX
from assay.pairs.schema import prompt_id

KNOWN = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """Rows with ``prompt``, ``response`` and the ratings: columns ``attr_NAME``, or those of HelpSteer2."""
    for place, row in enumerate(rows):
        try:
            ratings = {key.removeprefix(PREFIX): number(value, key) for key, value in row.items() if (key.startswith(PREFIX) or key in KNOWN) and _is_number(value)}
            if not ratings:
                raise Aside(f"has no rating: no column {PREFIX}NAME holds a number")
            prompt = messages(row["prompt"], "prompt") if isinstance(row.get("prompt"), list) else helpsteer_prompt(row.get("prompt"))
            check_prompt(prompt)
            yield Item(str(row.get("id", place)), str(row.get("subset") or "all"), prompt, [answer(get(row, "response"), "response")], (float("nan"),), prompt_id(prompt), {"ratings": ratings})
        except Aside as reason:
            yield reason


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def attributes(suite: Suite) -> list[str]:
    """The attributes that answers are rated by, in the order they appear."""
    return list(dict.fromkeys(name for item in suite.items for name in item.about["ratings"]))


def measure(suite: Suite, scores: Floats) -> Tree:
    """The rank correlation with each attribute, and their plain mean."""
    parts = {}
    for name in attributes(suite):
        rows = np.array([i for i, item in enumerate(suite.items) if name in item.about["ratings"]])
        rated = np.array([suite.items[i].about["ratings"][name] for i in rows])
        parts[set_apart(name)] = Part(rows, spearman_terms(scores[rows, 0], rated))
    return Tree(parts, {}, equally(list(parts)), share=False)


def spearman_terms(x: Floats, y: Floats) -> Floats:
    """[n]: numbers whose mean is Spearman's correlation of ``x`` and ``y``, and whose spread is that of the correlation; all 0 where one of them is constant. NaN in ``x`` ranks lowest."""
    a, b = (_standard(ranks(np.where(np.isnan(v), -np.inf, v))) for v in (x, y))
    rho = float(np.mean(a * b)) if len(a) else 0.0
    return np.asarray(rho + a * b - rho / 2 * (a * a + b * b)) if a.any() and b.any() else np.zeros(len(x))


def ranks(values: Floats) -> Floats:
    """[n]: ranks from 0, equal values their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[place])


def _standard(values: Floats) -> Floats:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
