"""The figures of a suite with their intervals, from what its rule makes of the scores."""

from typing import Any

import numpy as np

from assay.evaluate.intervals import DRAWS, Floats, interval, resampled_means
from assay.evaluate.suite import Suite, Tree, Weights


def draws_of(suite: Suite, tree: Tree) -> dict[str, Floats]:
    """The resampled means of every part that has items, the same resamples for all."""
    groups = {name: (part.rows, part.values) for name, part in tree.parts.items() if len(part.rows)}
    return resampled_means(groups, [item.cluster for item in suite.items], [item.subset for item in suite.items], suite.name)


def figure_of(suite: Suite, tree: Tree, weights: Weights, draws: dict[str, Floats]) -> dict[str, Any]:
    """The figure that is made of parts by ``weights``: its value, the ends of its interval, and how many items and prompts it is made of."""
    value, rows = tree.value(weights), np.unique(np.concatenate([tree.parts[part].rows for part in weights]))
    strata: dict[str, list[str]] = {}
    for part in weights:
        if part in draws:
            strata.setdefault(suite.items[tree.parts[part].rows[0]].subset, []).append(part)
    sums = {name: sum((weights[part] * draws[part] for part in parts), np.zeros(DRAWS)) for name, parts in strata.items()}
    prompts = {part: {suite.items[i].cluster for i in tree.parts[part].rows} for part in weights}
    of_strata = [(float(np.nanvar(drawn)), len(set[str]().union(*(prompts[part] for part in strata[name])))) for name, drawn in sums.items()]
    of_parts = [(weights[part], tree.parts[part].mean, len(prompts[part])) for parts in strata.values() for part in parts]
    every = len(set[str]().union(*prompts.values()))
    low, high = interval(value, sum(sums.values(), np.zeros(DRAWS)), every, tree.share, of_parts, of_strata) if value == value else (value, value)
    return {"value": value, "low": low, "high": high, "items": len(rows), "prompts": every}
