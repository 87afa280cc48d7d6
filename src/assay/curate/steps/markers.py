"""Leaked markers: control tokens of chat templates inside an answer.

A marker that stands on one side only lets a model tell the better answer without reading it; the Magpie-Ultra part of the published
80K collection is a known case (RM-R1, arXiv 2505.02387, appendix F). The step looks for the control tokens of the common templates, outside code blocks, and for role tags that the prompt has not itself.
"""

import re
from typing import Literal

import polars as pl

from assay.curate.kernels.text import prompt_text
from assay.curate.step import Context, StepConfig, verdicts
from assay.pairs.schema import answer_text

TOKENS = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|end_of_text|eot_id|eom_id|begin_of_text|start_header_id|end_header_id|user|assistant|system|end)\|?>"
    r"|<(?:im_start|im_end|start_of_turn|end_of_turn)>|<\uff5c[^<>]{1,30}\uff5c>|\[/?INST\]|<</?SYS>>|<extra_id_[01]>|</?(?:bot|human)>:?"
)
"""Control tokens, wherever they stand."""
ROLES = re.compile(r"(?:^|\n)(?:###\s*)?(?:Human|Assistant|User):(?=\s|$)|###\s*(?:Human|Assistant):|(?:^|\n)###\s*(?:Instruction|Response|End)\b:?|\n(?:User|Human|Assistant)\s*\Z")
"""Role tags: leaks unless the prompt is a script that has them itself, or they stand in a code block."""
FENCED = re.compile(r"```.*?```", re.DOTALL)
STOP = re.compile(r"</s>")


def markers_in(text: str, prompt: str = "") -> list[str]:
    """The markers in an answer to ``prompt``, those of role tags as they stand."""
    outside = FENCED.sub("", text)
    found = TOKENS.findall(outside)
    if "</s>" in outside and not re.search(r"<s\b", outside):  # with an opening tag it is HTML
        found += STOP.findall(outside)
    if not ROLES.search(prompt):
        found += ROLES.findall(outside)
    return [marker.strip() for marker in found]


class Config(StepConfig):
    """Drop rows whose answers contain control tokens or role tags of a chat template."""

    kind: Literal["markers"] = "markers"


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Drop each row with a marker in an answer, naming the marker and its side."""
    found = context.map(find_markers, rows, ["prompt", "chosen", "rejected"])
    reason = pl.format("marker {} in {}", pl.col("marker"), pl.col("side"))
    return verdicts(found, keep=pl.lit(False), reason=reason, score=pl.col("count"))


def find_markers(shard: pl.DataFrame) -> pl.DataFrame:
    """For each row with a marker: the first of each side that has one, the sides, and how many there are on both."""
    found = []
    for row, prompt, chosen, rejected in shard.select("row", "prompt", "chosen", "rejected").iter_rows():
        asked = prompt_text(prompt)
        sides = {"chosen": markers_in(answer_text(chosen), asked), "rejected": markers_in(answer_text(rejected), asked)}
        marked = {side: hits for side, hits in sides.items() if hits}
        if marked:
            first = " and ".join(dict.fromkeys(hits[0] for hits in marked.values()))
            found.append((row, first, " and ".join(marked), sum(map(len, sides.values()))))
    schema = {"row": pl.UInt32, "marker": pl.String, "side": pl.String, "count": pl.Int64}
    return pl.DataFrame(found, schema=schema, orient="row")
