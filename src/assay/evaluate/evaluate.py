"""The verb ``evaluate``: one scoring pass over all suites, then each suite's own arithmetic, with the doubts beside the numbers.

Beside every figure stand its 95% interval (bootstrap over prompts), what the longer answer and a surface probe would get by the same rule, and where 95% of scorers that draw lots would
lie; beside every suite what the scores lean on, how well the margin is a probability, and what a reader must be warned of.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay import __version__
from assay.errors import AssayError
from assay.evaluate import baselines
from assay.evaluate.bias import lean
from assay.evaluate.calibration import calibrate
from assay.evaluate.contamination import contamination
from assay.evaluate.figures import draws_of, figure_of
from assay.evaluate.intervals import DRAWS, LEVEL, Floats
from assay.evaluate.model_ranking import model_ranking
from assay.evaluate.scoring import Scored, default_cache, score_suites
from assay.evaluate.suite import Suite, Tree, Weights
from assay.evaluate.suites import RULES
from assay.evaluate.suites.ratings import attributes
from assay.files import MANIFEST, fingerprint, write_json, write_parquet
from assay.pairs.schema import MESSAGES
from assay.score.scorer import Scorer, Tick

NAMED = 20
"""Items that are named in the results where texts were cut or got no score; all are marked in items.parquet."""


def evaluate(scorer: Scorer, suites: Sequence[Suite], folder: Path | None = None, *, cache: bool = True, tick: Tick | None = None) -> dict[str, Any]:
    """Score the suites with ``scorer`` and measure; write ``results.json`` and ``items.parquet`` to ``folder`` if given.

    Args:
        scorer: anything that scores.
        suites: see ``load_suite``.
        folder: where the results go.
        cache: keep the scores of a checkpoint in the cache folder, and take those that are there.
        tick: called with (conversations scored, conversations in all).

    Raises:
        AssayError: two suites have the same name, or one has nothing to measure; told before anything is scored.
    """
    names = [suite.name for suite in suites]
    if len(set(names)) != len(names):
        raise AssayError(f"two suites have the same name ({', '.join(names)}); give them names with NAME=PATH")
    for suite in suites:
        _tree(suite, np.where(suite.there, 0.0, np.nan))  # hours of scoring for a suite that cannot be measured would be lost
    scored = score_suites(scorer, suites, default_cache() if cache else None, tick)
    measured = {suite.name: measure(suite, scores, scorer) for suite, scores in zip(suites, scored, strict=True)}
    results: dict[str, Any] = {"scorer": scorer.spec, "assay": __version__, "intervals": f"{LEVEL:.0%} interval (bootstrap over prompts, {DRAWS:,} draws)", "suites": measured}
    results |= {name: value for name in ("precision", "usage") if (value := getattr(scorer, name, None))}
    if folder:
        write_parquet(folder / "items.parquet", pl.concat([item_table(suite, scores) for suite, scores in zip(suites, scored, strict=True)], how="diagonal_relaxed"))
        write_json(folder / "results.json", results)
        write_json(folder / MANIFEST, {"fingerprint": fingerprint(results)})
    return results


def measure(suite: Suite, scored: Scored, scorer: Scorer) -> dict[str, Any]:
    """All that is said of a scorer on a suite: the figures by its rule and the doubts."""
    rule = RULES[suite.rule].measure
    tree, rewards = _tree(suite, scored.rewards), scored.rewards
    draws = draws_of(suite, tree)
    beside = {"length": baselines.by_length(suite, rule), "probe": baselines.by_surface(suite, rule), "random": baselines.by_lot(suite, rule)}
    ties = tied(suite, rewards)

    def figure(name: str, weights: Weights) -> dict[str, Any]:
        rows = np.unique(np.concatenate([tree.parts[part].rows for part in weights]))
        others = {key: None if values is None else values[name] for key, values in beside.items()}
        return {**figure_of(suite, tree, weights, draws), "ties": int(ties[rows].sum()), **others}

    result = {
        "rule": suite.rule,
        "hub": suite.hub,
        "share": tree.share,
        "items": len(suite.items),
        "answers": int(suite.there.sum()),
        "rows_aside": len(suite.aside),
        "reasons_aside": _counted([row["reason"] for row in suite.aside]),
        "ties": int(ties.sum()),
        "truncated": int(scored.truncated.any(axis=1).sum()),
        "truncated_items": [suite.items[i].id for i in np.flatnonzero(scored.truncated.any(axis=1))[:NAMED]],
        "without_score": len(scored.reasons),
        "reasons": _counted(list(scored.reasons.values())),
        "overall": figure("overall", tree.overall),
        "sections": {name: figure(name, weights) for name, weights in tree.sections.items()},
        "subsets": {name: figure(name, {name: 1.0}) for name in tree.parts},
        "reversed": rule(suite, -rewards).values()["overall"],
        "lean": lean(suite, rewards),
        "calibration": calibrate(suite, rewards, temperature_of(scorer)),
    }
    if suite.rule == "ppe-preference":
        result["model_ranking"] = model_ranking(suite, rewards)
    if suite.rule == "ratings":
        result["by_own_output"] = _by_own_output(suite, scored, scorer)
    result["warnings"] = [*suite.warnings, *_warnings(suite, scored, result), *contamination(scorer, suite)]
    return result


def _tree(suite: Suite, rewards: Floats) -> Tree:
    """What the rule of a suite makes of scores.

    Raises:
        AssayError: there is nothing to measure.
    """
    tree = RULES[suite.rule].measure(suite, rewards)
    if not any(len(tree.parts[part].rows) for part in tree.overall):
        raise AssayError(f"{suite.name}: nothing to measure by the rule `{suite.rule}`: {'; '.join(suite.warnings) or 'no item has a right and a wrong answer'}")
    return tree


def temperature_of(scorer: Scorer) -> float | None:
    """The temperature of a scorer's contract, if it has one."""
    contract = getattr(scorer, "contract", None)
    return getattr(contract, "temperature", None)


def tied(suite: Suite, rewards: Floats) -> Any:
    """[items]: whether a better and a worse answer of the item have the same score."""
    item, better, worse = suite.comparisons()
    found = np.zeros(len(suite.items), dtype=bool)
    found[item[rewards[item, better] == rewards[item, worse]]] = True
    return found


def _counted(reasons: list[str]) -> dict[str, int]:
    table = pl.Series("reason", reasons, dtype=pl.String).value_counts(sort=True)
    return dict(table.head(NAMED).iter_rows())


def _by_own_output(suite: Suite, scored: Scored, scorer: Scorer) -> dict[str, float]:
    """The rank correlation of each attribute with the scorer's output of the same name."""
    found = {}
    for name in attributes(suite):
        if name in scorer.attributes and len(scorer.attributes) > 1:
            found[name] = RULES[suite.rule].measure(suite, scored.outputs[:, :, scorer.attributes.index(name)]).values()[name]
    return found


def _warnings(suite: Suite, scored: Scored, result: dict[str, Any]) -> list[str]:
    rewards = scored.rewards[suite.there]
    finite = rewards[np.isfinite(rewards)]
    said = []
    if len(finite) > 1 and finite.min() == finite.max():
        said.append(f"every answer got the same score, {finite[0]:g}: the scorer says nothing about these items, and under a strict rule none is right")
    elif result["ties"] > 0.05 * result["items"]:
        said.append(f"in {result['ties']:,} of {result['items']:,} items a better and a worse answer got the same score")
    if scored.reasons:
        first, count = next(iter(result["reasons"].items()))
        said.append(f"{len(scored.reasons):,} answers got no score and count as wrong ({count:,}: {first})")
    if scored.by_one_order:
        first, count = next(iter(_counted(scored.by_one_order).items()))
        said.append(f"in {len(scored.by_one_order):,} items one of the judge's two orders failed, and the other alone decided ({count:,}: {first})")
    if result["truncated"]:
        said.append(f"in {result['truncated']:,} of {result['items']:,} items a text was longer than the scorer reads")
    if result["overall"]["high"] < sum(result["overall"]["random"]) / 2 < result["reversed"]:
        said.append(f"the scorer ranks the wrong way round: with its sign changed it would get {result['reversed']:.3f}, as it is {result['overall']['value']:.3f}")
    return said


def item_table(suite: Suite, scored: Scored) -> pl.DataFrame:
    """One row an item: what it is, every answer with its score, whether the right answer won, and by how much."""
    item, better, worse = suite.comparisons()
    rewards = scored.rewards
    margin = np.full(len(suite.items), np.inf)
    with np.errstate(invalid="ignore"):
        difference = rewards[item, better] - rewards[item, worse]
    np.minimum.at(margin, item, np.where(np.isnan(difference), -np.inf, difference))
    margin[np.isinf(margin)] = np.nan
    sizes = [len(one.answers) for one in suite.items]
    rows = {
        "suite": [suite.name] * len(suite.items),
        "rule": [suite.rule] * len(suite.items),
        "subset": [one.subset for one in suite.items],
        "id": [one.id for one in suite.items],
        "cluster": [one.cluster for one in suite.items],
        "prompt": [one.prompt for one in suite.items],
        "answers": [one.answers for one in suite.items],
        "gold": [list(one.gold) for one in suite.items],
        "scores": [rewards[i, :n].tolist() for i, n in enumerate(sizes)],
        "truncated": [scored.truncated[i, :n].tolist() for i, n in enumerate(sizes)],
        "reason": ["; ".join(dict.fromkeys(r for j in range(n) if (r := scored.reasons.get((i, j))))) or None for i, n in enumerate(sizes)],
        "margin": margin,
        "tie": tied(suite, rewards),
        "about": [json.dumps(one.about, ensure_ascii=False, default=str) for one in suite.items],
    }
    schema: dict[str, Any] = dict.fromkeys(rows, pl.String) | {"prompt": MESSAGES, "answers": pl.List(MESSAGES), "gold": pl.List(pl.Float64), "scores": pl.List(pl.Float64), "truncated": pl.List(pl.Boolean), "margin": pl.Float64, "tie": pl.Boolean}
    return pl.DataFrame(rows, schema=schema)
