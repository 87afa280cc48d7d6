"""The verb ``evaluate``: one scoring pass over all suites, then each suite's own arithmetic, with intervals and baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay import __version__
from assay.errors import AssayError
from assay.evaluate.intervals import DRAWS, LEVEL, Floats, coin, interval, resampled_means
from assay.evaluate.suites import rewardbench
from assay.files import MANIFEST, fingerprint, write_json, write_parquet
from assay.pairs.read import read
from assay.pairs.schema import answer_text, prompt_id
from assay.score.scorer import Scorer

REWARDBENCH_HUB = "allenai/reward-bench"


@dataclass(frozen=True, slots=True)
class Suite:
    """Pairs to be measured on, and by which rule."""

    name: str
    pairs: pl.DataFrame
    rule: str
    """``rewardbench`` (sections with constant weights) or ``pairs`` (every pair counts the same)."""
    aside: int = 0
    """Rows that could not be read."""


def load_suite(spec: str, data_root: Path | None = None) -> Suite:
    """The suite that ``spec`` names: ``rewardbench`` (from the hub), ``rewardbench=PATH`` (a local copy or look-alike), or a file, folder or hub id of
    pairs. ``NAME=PATH`` gives any of them a name.

    Raises:
        AssayError: it cannot be read.
    """
    name, _, path = spec.rpartition("=")
    if spec == "rewardbench":
        name, path = "rewardbench", REWARDBENCH_HUB
    rule = "rewardbench" if name.startswith("rewardbench") else "pairs"
    reading = read(path, split="filtered" if rule == "rewardbench" else "test", data_root=data_root)
    pairs = reading.pairs.with_columns(subset=pl.coalesce("subset", "source").fill_null("all"))
    return Suite(name or Path(path).name.split(".")[0], pairs, rule, len(reading.aside))


def evaluate(scorer: Scorer, suites: Sequence[Suite], folder: Path | None = None) -> dict[str, Any]:
    """Score the suites with ``scorer`` and measure; write ``results.json`` and ``items.parquet`` to ``folder`` if given.

    A pair is right only if its chosen answer scores strictly higher; equal scores are wrong, and counted. Beside every accuracy stand: its 95% bootstrap interval
    over prompts, the accuracy of the longer answer (equal lengths count half), where a coin would lie, and the accuracy where the chosen answer
    is the longer and where it is the shorter one.
    """
    names = [suite.name for suite in suites]
    if len(set(names)) != len(names):
        raise AssayError(f"two suites have the same name ({', '.join(names)}); give them names with NAME=PATH")
    items = _score(scorer, suites)
    results = {
        "scorer": scorer.spec,
        "assay": __version__,
        "intervals": f"{LEVEL:.0%} percentile bootstrap over prompts, {DRAWS} draws",
        "suites": {suite.name: _measure(suite, items.filter(pl.col("suite") == suite.name)) for suite in suites},
    }
    if folder:
        write_parquet(folder / "items.parquet", items)
        write_json(folder / "results.json", results)
        write_json(folder / MANIFEST, {"fingerprint": fingerprint(results)})
    return results


def _score(scorer: Scorer, suites: Sequence[Suite]) -> pl.DataFrame:
    """One row a pair, all suites in one scoring pass."""
    rows = [(s.name, *row) for s in suites for row in s.pairs.select("id", "subset", "prompt", "chosen", "rejected").iter_rows()]
    conversations = [prompt + chosen for *_, prompt, chosen, _ in rows] + [prompt + rejected for *_, prompt, _, rejected in rows]
    scores = scorer.score(conversations)
    n = len(rows)
    chosen, rejected = scores.values[:n, 0], scores.values[n:, 0]
    return pl.DataFrame(
        {
            "suite": [r[0] for r in rows],
            "subset": [r[2] for r in rows],
            "id": [r[1] for r in rows],
            "prompt_id": [prompt_id(r[3]) for r in rows],
            "chosen_score": chosen,
            "rejected_score": rejected,
            "right": rewardbench.right(chosen, rejected),
            "tie": chosen == rejected,
            "truncated": scores.truncated[:n] | scores.truncated[n:],
            "chosen_chars": [len(answer_text(r[4])) for r in rows],
            "rejected_chars": [len(answer_text(r[5])) for r in rows],
        }
    )


def _measure(suite: Suite, items: pl.DataFrame) -> dict[str, Any]:
    draws = {}
    subsets = {}
    for (name,), part in items.sort("subset", maintain_order=True).group_by("subset", maintain_order=True):
        draws[str(name)] = _draws(part, f"{suite.name}/{name}")
        subsets[str(name)] = _figure(part, float(np.mean(part["right"].to_numpy())), draws[str(name)], _length_right(part))
    result: dict[str, Any] = {
        "rule": suite.rule,
        "pairs": items.height,
        "rows_aside": suite.aside,
        "ties": int(items["tie"].sum()),
        "truncated": int(items["truncated"].sum()),
        "subsets": subsets,
    }
    if suite.rule == "rewardbench":
        return {**result, **_rewardbench(items, subsets, draws)}
    overall = _draws(items, suite.name)
    return {**result, "overall": _figure(items, float(np.mean(items["right"].to_numpy())), overall, _length_right(items))}


def _rewardbench(items: pl.DataFrame, subsets: dict[str, Any], draws: dict[str, Floats]) -> dict[str, Any]:
    accuracy = {name: figure["accuracy"] for name, figure in subsets.items()}
    length = {name: figure["length"] for name, figure in subsets.items()}
    scored, by_length = rewardbench.sections(accuracy), rewardbench.sections(length)
    present = {s: [n for n in names if n in subsets] for s, names in rewardbench.SECTIONS.items()}
    section_draws = {s: _weighted([draws[n] for n in names], [rewardbench.WEIGHTS[n] for n in names]) for s, names in present.items() if names}
    if not section_draws:
        raise AssayError(f"rewardbench: none of the subsets {', '.join(sorted(subsets))} is a RewardBench subset; give the file as a plain suite instead")
    sections = {
        s: _figure(items.filter(pl.col("subset").is_in(present[s])), scored[s], section_draws[s], by_length[s]) for s in section_draws
    }
    mean = float(np.mean([sections[s]["accuracy"] for s in sections]))
    mean_draws = _weighted(list(section_draws.values()), [1] * len(section_draws))
    counted = items.filter(pl.col("subset").is_in([n for names in present.values() for n in names]))
    missing = [n for names in rewardbench.SECTIONS.values() for n in names if n not in subsets]
    overall = _figure(counted, mean, mean_draws, float(np.mean([by_length[s] for s in sections])))
    return {"sections": sections, "overall": overall, "missing_subsets": missing}


def _weighted(draws: list[Floats], weights: list[int]) -> Floats:
    result: Floats = np.average(np.stack(draws), axis=0, weights=weights)
    return result


def _draws(part: pl.DataFrame, name: str) -> Floats:
    return resampled_means(part["right"].to_numpy(), part["prompt_id"].to_numpy().astype(str), name)


def _figure(part: pl.DataFrame, accuracy: float, draws: Floats, length: float) -> dict[str, Any]:
    prompts = part["prompt_id"].n_unique()
    low, high = interval(draws, prompts)
    coin_low, coin_high = coin(part.height)
    longer, shorter = (part.filter(part["chosen_chars"] > part["rejected_chars"]), part.filter(part["chosen_chars"] < part["rejected_chars"]))
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "pairs": part.height,
        "prompts": prompts,
        "ties": int(part["tie"].sum()),
        "length": length,
        "coin": [coin_low, coin_high],
        "chosen_longer": {"pairs": longer.height, "accuracy": float(longer["right"].to_numpy().mean()) if longer.height else None},
        "chosen_shorter": {"pairs": shorter.height, "accuracy": float(shorter["right"].to_numpy().mean()) if shorter.height else None},
    }


def _length_right(part: pl.DataFrame) -> float:
    """Accuracy of the longer answer, equal lengths half."""
    difference = (part["chosen_chars"] - part["rejected_chars"]).to_numpy()
    return float(np.mean((np.sign(difference) + 1) / 2))
