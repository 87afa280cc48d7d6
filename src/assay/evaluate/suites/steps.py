"""Solutions in steps of which some are wrong (process reward models: PRM800K, ProcessBench, PRMBench and alike).

The scorer is given the solution up to each step. *Step order*: inside a solution, the share of pairs of a right and a wrong step in which the part that ends with the right one scores
higher, equal scores half. *First error found*: the step with the largest fall of the score from the step before is the first wrong one (the first step is compared with
the mean of all); solutions without an error don't count. The figure for all is the step order. Later steps are the longer texts and the likelier wrong ones: look at the length baseline.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Part, Suite, Tree, by_items
from assay.evaluate.suites.ppe import auc
from assay.evaluate.suites.raw import get, items_of, number, whole
from assay.pairs.messages import Aside, answer_of, check_text, prompt_of
from assay.pairs.schema import answer_text, prompt_id


def items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """Any of these rows:

    - ``prompt``, ``completions`` (steps), ``labels`` (one a step: true or above 0 is right);
    - ``problem``, ``steps``, ``label``: the number from 0 of the first wrong step, -1 if there is none;
    - ``prompt`` or ``question``, ``modified_process`` (steps) or ``rejected`` (steps as lines), ``error_steps``: the numbers from 1 of the wrong steps.
    """
    for place, row in enumerate(rows):
        try:
            yield _item(row, place)
        except Aside as reason:
            yield reason


def _item(row: dict[str, Any], place: int) -> Item:
    prompt = prompt_of(next((row[key] for key in ("prompt", "problem", "question") if row.get(key) is not None), None))
    if row.get("completions") is not None:
        steps, right = items_of(row, "completions"), [number(label, "labels") > 0 for label in items_of(row, "labels")]
    elif row.get("steps") is not None:
        steps, first = items_of(row, "steps"), whole(get(row, "label"), "label")
        if first >= len(steps):
            raise Aside(f"label names step {first} of {len(steps)}, counted from 0")
        right = [first < 0 or i < first for i in range(len(steps))]
    else:
        steps = items_of(row, "modified_process") if row.get("modified_process") is not None else answer_text(answer_of(get(row, "rejected"), "rejected")).split("\n")
        wrong = {whole(step, "error_steps") for step in items_of(row, "error_steps")}
        right = [i + 1 not in wrong for i in range(len(steps))]
        if not wrong <= set(range(1, len(steps) + 1)):
            raise Aside(f"error_steps names step {max(wrong)} of {len(steps)}")
    if len(right) != len(steps):
        raise Aside(f"{len(steps)} steps with {len(right)} labels")
    texts = [check_text(step, f"step {i + 1}") for i, step in enumerate(steps)]
    parts = [[{"role": "assistant", "content": "\n".join(texts[: i + 1])}] for i in range(len(texts))]
    subset = str(row.get("error_type") or row.get("subset") or row.get("source") or "all")
    return Item(str(row.get("id", place)), subset, prompt, parts, tuple(map(float, right)), prompt_id(prompt))


def measure(suite: Suite, scores: Floats) -> Tree:
    """Step order by subset and over all solutions that have right and wrong steps; and how often the first error is found."""
    order = auc(scores, np.where(np.isnan(suite.gold), np.nan, suite.gold))
    found = first_error_found(scores, suite.gold, suite.there)
    parts = {}
    for name in suite.subsets:
        rows = suite.rows(name)
        rows = rows[~np.isnan(order[rows])]
        if len(rows):
            parts[name] = Part(rows, order[rows])
    rows = np.flatnonzero(~np.isnan(found))
    overall = by_items(parts)
    return Tree({**parts, "first error found": Part(rows, found[rows])}, {}, overall)


def first_error_found(scores: Floats, gold: Floats, there: Any) -> Floats:
    """[n]: 1.0 where the largest fall is at the first wrong step, else 0.0; NaN where no step is wrong."""
    known = there & ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, scores, 0.0).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
        fall = np.concatenate([mean, scores[:, :-1]], axis=1) - scores
    told = there & ~np.isnan(fall)
    fall = np.where(told, fall, -np.inf)
    wrong = there & (gold == 0)
    found = (np.argmax(fall, axis=1) == np.argmax(wrong, axis=1)) & told.any(axis=1)
    return np.where(wrong.any(axis=1), found.astype(float), np.nan)
