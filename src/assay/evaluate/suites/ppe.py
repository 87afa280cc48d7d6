"""PPE, Preference Proxy Evaluations (Frick et al., arXiv 2410.14872): human votes, and best of k with verified answers.

The definitions are our reading of the paper and of the published columns; the official code could not be had, so nothing here is checked against its numbers.

*Preference*: a vote is right if the answer that won it scores strictly higher; votes without a winner are left out. Where the rows name their models, these are ranked by the votes and by the scorer's choices (`assay.evaluate.model_ranking`). *Correctness*: for each of five sets, the share of the published
pairs (one answer verified, the other refuted) in which the verified one scores strictly higher, and the share of prompts whose highest-scoring answer of all is verified, with the
area under the ROC curve beside them. The figure for all is the mean of the pair accuracies of the sets.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Part, Suite, Tree, by_items, equally
from assay.evaluate.suites.best_of_n import credit
from assay.evaluate.suites.pairs import by_subset, right
from assay.evaluate.suites.raw import answer, get, items_of, number, text, whole
from assay.pairs.messages import Aside, kind_of, prompt_of
from assay.pairs.schema import prompt_id

SETS = {"MMLU-Pro": "mmlu_pro", "MATH": "math", "GPQA": "gpqa", "IFEval": "ifeval", "MBPP-Plus": "mbpp_plus"}


def preference_items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """The published votes: ``prompt``, ``response_1``, ``response_2``, ``winner`` (``model_a``, ``model_b`` or a tie), ``language``, which names the subset, and, if they are there, ``model_a`` and ``model_b``."""
    for row in rows:
        try:
            winner = text(row, "winner")
            if winner not in ("model_a", "model_b"):
                raise Aside(f"no winner ({winner}): a vote that is a tie is not measured")
            prompt = prompt_of(get(row, "prompt"))
            both = [answer(get(row, f"response_{i}"), f"response_{i}") for i in (1, 2)]
            models = [row.get("model_a"), row.get("model_b")]
            if winner == "model_b":
                both.reverse()
                models.reverse()
            about = {"models": models} if all(isinstance(name, str) for name in models) else {}
            yield Item(str(row.get("question_id", "")), str(row.get("language") or "unknown"), prompt, both, (1.0, 0.0), prompt_id(prompt), about)
        except Aside as reason:
            yield reason


def correctness_items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """The published rows: ``prompt``, ``response_1`` and on, ``scores`` (whether each is right) and ``sampled_conflict_pairs`` (numbers from 0)."""
    for row in rows:
        try:
            yield _correctness(row)
        except Aside as reason:
            yield reason


def _correctness(row: dict[str, Any]) -> Item:
    scores = items_of(row, "scores")
    if (odd := [s for s in scores if not isinstance(s, (bool, int, float))]):
        raise Aside(f"scores holds {kind_of(odd[0])}, expected numbers")
    gold = [number(s, "scores") for s in scores]
    prompt = prompt_of(get(row, "prompt"))
    answers = [answer(get(row, f"response_{i + 1}"), f"response_{i + 1}") for i in range(len(scores))]
    conflicts = _conflicts(row.get("sampled_conflict_pairs") or [])
    if any(not 0 <= i < len(scores) for pair in conflicts for i in pair):
        raise Aside("sampled_conflict_pairs names an answer that is not there")
    ordered = [(a, b) if gold[a] > gold[b] else (b, a) for a, b in conflicts if gold[a] != gold[b]]
    name = str(row.get("benchmark") or row.get("subset") or "all")
    return Item(str(row.get("question_id", "")), name, prompt, answers, tuple(gold), prompt_id(prompt), {"pairs": ordered})


def _conflicts(value: Any) -> list[tuple[int, int]]:
    what = "sampled_conflict_pairs"
    if not isinstance(value, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        raise Aside(f"{what} is not a list of pairs of numbers")
    return [(whole(a, what), whole(b, what)) for a, b in value]


def measure_preference(suite: Suite, scores: Floats) -> Tree:
    """The share of right votes by language and over all votes."""
    parts = by_subset(suite, right(scores[:, 0], scores[:, 1]))
    return Tree(parts, {}, by_items(parts))


def measure_correctness(suite: Suite, scores: Floats) -> Tree:
    """For each set its pair accuracy, how often the best of all answers is right, and the area under the ROC curve."""
    chosen = [pair for item in suite.items for pair in item.about["pairs"]]
    owner = np.repeat(np.arange(len(suite.items)), [len(item.about["pairs"]) for item in suite.items])
    better, worse = (np.array([pair[side] for pair in chosen], dtype=np.int64) for side in (0, 1))
    won = right(scores[owner, better], scores[owner, worse])
    parts = {}
    for name in suite.subsets:
        rows = suite.rows(name)
        mine = np.isin(owner, rows)
        parts[f"{name}, pairs"] = Part(owner[mine], won[mine])
        parts[f"{name}, best of all"] = Part(rows, credit(scores[rows], suite.gold[rows] > 0.5, suite.there[rows]))
        area = auc(scores[rows], suite.gold[rows])
        parts[f"{name}, ROC area"] = Part(rows[~np.isnan(area)], area[~np.isnan(area)])
    measured = [name for name in parts if name.endswith(", pairs") and len(parts[name].rows)]
    return Tree(parts, {}, equally(measured))


def correctness_warnings(suite: Suite) -> list[str]:
    """Which sets are missing, and which figures of a set there are not, and why."""
    missing = [name for name, column in SETS.items() if name not in suite.subsets and column not in suite.subsets]
    said = [f"PPE has no prompt of {', '.join(missing)}; the figure for all is the mean of the others and not comparable with published ones"] if missing else []
    for name in suite.subsets:
        items = [item for item in suite.items if item.subset == name]
        if not any(item.about["pairs"] for item in items):
            said.append(f"{name}: no prompt has a published pair of a right and a wrong answer, so the set has no pair accuracy and does not count in the figure for all")
        if not any(max(item.gold) > 0.5 >= min(item.gold) for item in items):
            said.append(f"{name}: no prompt has right and wrong answers, so the set has no ROC area")
    return said


def auc(scores: Floats, gold: Floats) -> Floats:
    """[n]: the share of pairs of a right (``gold`` above 0.5) and a wrong answer in which the right one scores higher, equal scores half; NaN without such pairs."""
    both = (gold[:, :, None] > 0.5) & (gold[:, None, :] <= 0.5)
    with np.errstate(invalid="ignore"):
        won = (scores[:, :, None] > scores[:, None, :]) + 0.5 * (scores[:, :, None] == scores[:, None, :])
        return np.asarray((won * both).sum(axis=(1, 2)) / both.sum(axis=(1, 2)))
