"""Contradictions and cycles: rows of one prompt that cannot all be right.

Two rows that give the same two answers in opposite order contradict each other: at most one can be right, and no rule can tell which without
reading, so by default all rows of such a group go. ``majority`` keeps the order that more rows have and drops the group only when both are
equally common. What is left is searched for longer cycles (A over B, B over C, C over A); every row that lies on one is named with the shortest
cycle it lies on as evidence. Not all of its rows need be wrong (votes of a crowd make cycles by chance), so by default they stay.
"""

from collections import defaultdict, deque
from typing import Literal

import polars as pl

from assay.curate.step import Context, StepConfig, named, verdicts
from assay.curate.steps.duplicates import repeated


class Config(StepConfig):
    """Drop rows that contradict each other."""

    kind: Literal["contradictions"] = "contradictions"
    resolve: Literal["drop", "majority"] = "drop"
    """`drop`: all rows of the group go. `majority`: the commoner order stays; if both are equally common, all go."""
    cycles: Literal["report", "drop", "ignore"] = "report"
    """What becomes of rows on a cycle of three and more: they are named in the step's verdicts and stay, they go, or they are not looked for."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop the rows on the losing side of each contradiction and the rows of each cycle, naming a row that says the opposite."""
    keyed = repeated(context.features(rows, "key").filter(pl.col("chosen_key") != pl.col("rejected_key")), ["prompt_key"])
    opposed = _opposed(keyed, config.resolve)
    found = [named(opposed, "against", context)]
    if config.cycles != "ignore":
        rest = keyed.join(opposed.filter(~pl.col("stays")), on="row", how="anti")
        cycles = _in_words(_cycles(rest), context).with_columns(stays=pl.lit(config.cycles == "report"))
        context.notes["rows on cycles"] = cycles.height
        found.append(cycles)
    return verdicts(pl.concat(found, how="diagonal_relaxed"), keep=pl.col("stays"), reason=pl.col("reason"), score=pl.col("share"), because_of=pl.col("against"))


def _opposed(keyed: pl.DataFrame, resolve: str) -> pl.DataFrame:
    """Rows whose two answers stand in the opposite order in another row: row, stays, reason, share, against."""
    ordered = keyed.with_columns(
        low_key=pl.min_horizontal("chosen_key", "rejected_key"),
        high_key=pl.max_horizontal("chosen_key", "rejected_key"),
        low_wins=pl.col("chosen_key") < pl.col("rejected_key"),
    )
    group = ["prompt_key", "low_key", "high_key"]
    several = repeated(ordered, group)
    sides = several.with_columns(size=pl.len().over(group), for_low=pl.col("low_wins").sum().over(group)).filter((pl.col("for_low") > 0) & (pl.col("for_low") < pl.col("size")))
    mine = pl.when(pl.col("low_wins")).then(pl.col("for_low")).otherwise(pl.col("size") - pl.col("for_low"))
    first_low, first_high = (pl.col("row").filter(side).min().over(group) for side in (pl.col("low_wins"), ~pl.col("low_wins")))
    return sides.select(
        "row",
        stays=(mine * 2 > pl.col("size")) if resolve == "majority" else pl.lit(False),
        reason=pl.format("{} of {} rows say the opposite", pl.col("size") - mine, pl.col("size")),
        share=mine / pl.col("size"),
        against=pl.when(pl.col("low_wins")).then(first_high).otherwise(first_low),
    )


def _cycles(keyed: pl.DataFrame) -> pl.DataFrame:
    """Rows on a cycle of three or more: row, cycle (the rows of the shortest one, beginning with itself)."""
    edges = keyed.select("row", "prompt_key", "chosen_key", "rejected_key")
    while True:  # a row whose better answer never loses, or whose worse answer never wins, lies on no cycle
        loses = edges.select("prompt_key", chosen_key="rejected_key").unique()
        wins = edges.select("prompt_key", rejected_key="chosen_key").unique()
        rest = edges.join(loses, on=["prompt_key", "chosen_key"], how="semi").join(wins, on=["prompt_key", "rejected_key"], how="semi")
        if rest.height == edges.height:
            break
        edges = rest
    found: list[tuple[int, list[int]]] = []
    for part in edges.partition_by("prompt_key"):
        beats: dict[int, dict[int, int]] = defaultdict(dict)
        for row, _, better, worse in part.sort("row").iter_rows():
            beats[better].setdefault(worse, row)
        for row, _, better, worse in part.iter_rows():
            back = _path(beats, worse, better)
            if back:
                found.append((row, [row, *back]))
    return pl.DataFrame(found, schema={"row": pl.UInt32, "cycle": pl.List(pl.UInt32)}, orient="row")


def _path(beats: dict[int, dict[int, int]], start: int, goal: int) -> list[int]:
    """The rows of a shortest way from ``start`` down to ``goal``; empty if there is none."""
    came: dict[int, tuple[int, int] | None] = {start: None}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        if here == goal:
            rows = []
            while (step := came[here]) is not None:
                rows.append(step[1])
                here = step[0]
            return rows[::-1]
        for worse, row in beats.get(here, {}).items():
            if worse not in came:
                came[worse] = (here, row)
                queue.append(worse)
    return []


def _in_words(cycles: pl.DataFrame, context: Context) -> pl.DataFrame:
    members = cycles.explode("cycle").with_columns(id=pl.col("cycle"))
    ids = named(members, "id", context).group_by("row", maintain_order=True).agg("id")
    others = pl.col("id").list.slice(1)
    return ids.select("row", stays=pl.lit(False), reason=pl.format("on a cycle of {} rows with {}", pl.col("id").list.len(), others.list.join(", ")), share=1 / pl.col("id").list.len(), against=others.list.first())
