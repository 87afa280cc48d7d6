"""Leaked markers: control tokens of chat templates inside an answer.

A marker that stands on one side only lets a model tell the better answer without reading it; the Magpie-Ultra part of the published
80K collection is a known case (RM-R1, arXiv 2505.02387, appendix F). The step looks for the control tokens of the common templates.
"""

import re
from typing import Literal

import polars as pl

from assay.curate.step import Context, StepConfig, verdicts
from assay.pairs.schema import answer_text

MARKERS = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|end_of_text|eot_id|eom_id|begin_of_text|start_header_id|end_header_id|user|assistant|system|end)\|?>"
    r"|<(?:im_start|im_end|start_of_turn|end_of_turn)>|</s>(?=\s*\Z)|<\uff5c[^<>]{1,30}\uff5c>|\[/?INST\]|<</?SYS>>|<extra_id_[01]>"
    r"|(?:^|\n)(?:###\s*)?(?:Human|Assistant|User):(?=\s|$)|(?:^|\n)###\s*(?:Instruction|Response):"
)


class Config(StepConfig):
    """Drop rows whose answers contain control tokens or role tags of a chat template."""

    kind: Literal["markers"] = "markers"


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """Drop each row with a marker in an answer, naming the marker and its side."""
    found = context.map(find_markers, rows)
    reason = pl.format("marker {} in {}", pl.col("marker"), pl.col("side"))
    return verdicts(found, keep=pl.lit(False), reason=reason, score=pl.col("count"))


def find_markers(shard: pl.DataFrame) -> pl.DataFrame:
    """For each row with a marker: the first marker, the side it is on, and how many there are on both sides."""
    found = []
    for id_, copy, chosen, rejected in shard.select("id", "copy", "chosen", "rejected").iter_rows():
        sides = {"chosen": MARKERS.findall(answer_text(chosen)), "rejected": MARKERS.findall(answer_text(rejected))}
        marked = [side for side, hits in sides.items() if hits]
        if marked:
            first = sides[marked[0]][0].strip()
            found.append((id_, copy, first, " and ".join(marked), sum(map(len, sides.values()))))
    schema = {"id": pl.String, "copy": pl.Int32, "marker": pl.String, "side": pl.String, "count": pl.Int64}
    return pl.DataFrame(found, schema=schema, orient="row")
