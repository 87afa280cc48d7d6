"""The suites, one file each: how the published rows are read, and the official rule.

A rule is a module (or a part of one) with ``items`` (rows to items) and ``measure`` (items and scores to figures); ``pairs`` and ``rewardbench`` take
their items from any format of pairs that Assay reads.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Suite, Tree
from assay.evaluate.suites import (
    best_of_n,
    groups,
    judgebench,
    pairs,
    ppe,
    ratings,
    rewardbench,
    rewardbench2,
    rm_bench,
    rmb,
    steps,
)
from assay.pairs.messages import Aside


@dataclass(frozen=True, slots=True)
class Rule:
    """How a suite is read and measured."""

    about: str
    """Its documentation."""
    measure: Callable[[Suite, Floats], Tree]
    items: Callable[[Iterable[dict[str, Any]]], Iterable[Item | Aside]] | None = None
    """None: the rows are pairs of any known format."""
    warnings: Callable[[Suite], list[str]] = lambda _: []


RULES = {
    "pairs": Rule(pairs.__doc__ or "", pairs.measure),
    "best-of-n": Rule(best_of_n.__doc__ or "", best_of_n.measure, groups.items, best_of_n.warnings),
    "rewardbench": Rule(rewardbench.__doc__ or "", rewardbench.measure, None, rewardbench.warnings),
    "rewardbench2": Rule(rewardbench2.__doc__ or "", rewardbench2.measure, rewardbench2.items, rewardbench2.warnings),
    "rm-bench": Rule(rm_bench.__doc__ or "", rm_bench.measure, rm_bench.items, rm_bench.warnings),
    "judgebench": Rule(judgebench.__doc__ or "", judgebench.measure, judgebench.items, judgebench.warnings),
    "ppe-preference": Rule(ppe.__doc__ or "", ppe.measure_preference, ppe.preference_items),
    "ppe-correctness": Rule(ppe.__doc__ or "", ppe.measure_correctness, ppe.correctness_items, ppe.correctness_warnings),
    "rmb": Rule(rmb.__doc__ or "", rmb.measure, rmb.items, rmb.warnings),
    "steps": Rule(steps.__doc__ or "", steps.measure, steps.items),
    "ratings": Rule(ratings.__doc__ or "", ratings.measure, ratings.items),
}
"""What a suite can be measured by."""

PUBLISHED: dict[str, tuple[tuple[str, str], ...]] = {
    "rewardbench": (("allenai/reward-bench", "filtered"),),
    "rewardbench2": (("allenai/reward-bench-2", "test"),),
    "rm-bench": (("THU-KEG/RM-Bench", "train"),),
    "judgebench": (("ScalerLab/JudgeBench", "gpt"), ("ScalerLab/JudgeBench", "claude")),
    "ppe-preference": (("lmarena-ai/PPE-Human-Preference-V1", "test"),),
    "ppe-correctness": tuple((f"lmarena-ai/PPE-{name}-Best-of-K", "train") for name in ppe.SETS),
}
"""Where the published data of a suite is: data sets on the hub and their splits. RMB is in its repository: give the folder, ``rmb=PATH``."""
