"""Shortcuts: what tells chosen from rejected without reading, and the rows that one artefact gives away.

For each source a linear probe is fitted on the surface of the answers (edges, words, marks, lengths, markup, refusals, repetition) and tried on
prompts it has not seen: the share of labels it tells right stands in the step's account beside that of length alone, with the most telling
features and example rows. A probe near 50% is good news; one near 100% says that a reward model can learn the source without reading it, as
with the leaked markers in the Magpie-Ultra part of the 80K collection (RM-R1, arXiv 2505.02387, appendix F.2).

An artefact is an exact piece of text (a mark such as `<|im_start|>`, or how an answer begins or ends) that almost always stands on the same side, in answers to
many prompts. By default the step only reports; ``drop`` removes the rows in which that side alone has it, ``trim`` cuts marks out of both answers. Where politeness or form is what a source
teaches, its artefacts are its lesson: look at the report before you drop.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from assay.curate.kernels.surface import has, literal
from assay.curate.pool import SEPARATOR
from assay.curate.probe import Probed, probe
from assay.curate.step import Context, StepConfig, verdicts
from assay.evaluate.intervals import wilson
from assay.files import read_parquet, write_parquet
from assay.pairs.schema import answer_text


class Config(StepConfig):
    """Report what gives labels away; drop or trim the rows that a single artefact gives away."""

    kind: Literal["shortcuts"] = "shortcuts"
    action: Literal["report", "drop", "trim"] = "report"
    """What becomes of rows with an artefact on one side: nothing, they go, or marks are cut out of them (other artefacts stay)."""
    purity: float = Field(0.98, ge=0.5, le=1.0)
    """An artefact stands on the same side in at least this share of the rows where just one side has it."""
    spread: float = Field(0.02, gt=0.0, le=1.0)
    """... and just one side has it in at least this share of the source's rows (and in 20 rows, and for 10 prompts)."""
    sample: int = Field(3_000, ge=100)
    """Rows of each source that the probe looks at; those found there are then looked for in all."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Probe each source; mark the rows of which an artefact tells the label."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    for source, probed in _probed(rows, config, context):
        context.notes[source] = _record(probed, context)
        context.say(f"shortcuts: {source}: {probed.told:.1%} of labels told without reading ({probed.length:.1%} by length alone)")
        artefacts = _artefacts(probed, config)
        if artefacts:
            found[source] = artefacts
    if config.action == "report" or not found:
        return verdicts(pl.DataFrame(schema={"row": pl.UInt32}), keep=pl.lit(True), reason="")
    touched = rows.filter(pl.col("source").fill_null("(none)").is_in(list(found)))
    marked = context.map(partial(_marked, artefacts=found), touched, ["source", "chosen", "rejected"])
    reason = pl.format("{} stands in {} alone, in this source nearly always", "artefact", "side")
    if config.action == "trim":
        cut = marked.filter(pl.col("marks").is_not_null())
        pieces = pl.col("marks").str.replace_all(SEPARATOR, " and ")
        good = pl.col("left") == "both"
        said = pl.when(good).then(pl.format("cut out {}", pieces)).when(pl.col("left") == "one").then(pl.format("both answers are the same without {}", pieces)).otherwise(pl.format("nothing is left of an answer without {}", pieces))
        return verdicts(cut, keep=good, reason=said, trim=pl.when(good).then("marks"), because_of=pl.col("artefact"))
    return verdicts(marked, keep=pl.lit(False), reason=reason, because_of=pl.col("artefact"))


def _probed(rows: pl.DataFrame, config: Config, context: Context) -> list[tuple[str, Probed]]:
    """The probe of each source that has enough rows, on a sample spread evenly over the order of ids."""
    place, size = pl.int_range(pl.len()).over("source"), pl.len().over("source")
    kept = (place * config.sample) // size > ((place - 1) * config.sample) // size
    sample = rows.sort("row").with_columns(pl.col("source").fill_null("(none)")).filter(kept | (size <= config.sample))
    texts = context.texts(sample)
    files: list[tuple[str, Path]] = []
    for (source,), part in texts.with_columns(pl.col("source").fill_null("(none)")).partition_by("source", as_dict=True).items():
        files.append((str(source), context.workdir / "samples" / f"{len(files):03d}.parquet"))
        write_parquet(files[-1][1], part.select("row", "id", "prompt_id", "chosen", "rejected"))
    with context.progress("shortcuts: probing sources") as tick:
        results = context.engine.map(_probe_file, [file for _, file in files], tick)
    return sorted(((source, probed) for (source, _), probed in zip(files, results, strict=True) if probed is not None), key=lambda found: found[0])


def _probe_file(file: Path) -> Probed | None:
    return probe(read_parquet(file))


def _record(probed: Probed, context: Context) -> dict[str, object]:
    record = probed.record()
    for tell in record["tells"]:
        tell["examples"] = context.ids(pl.Series(tell["examples"], dtype=pl.UInt32)).to_list()
    return record


def _artefacts(probed: Probed, config: Config) -> list[tuple[str, str, str, str]]:
    """(name, kind, piece, side) of the exact texts that nearly always stand on one side."""
    named = []
    for tell in probed.tells:
        exact = literal(tell.name)
        sure = wilson(round(tell.purity * tell.rows), tell.rows)[0]
        if exact and tell.purity >= config.purity and sure >= config.purity - 0.1 and tell.rows >= max(20, config.spread * probed.rows) and tell.prompts >= 10:
            named.append((tell.name, *exact, tell.side))
    return named


def _marked(shard: pl.DataFrame, artefacts: dict[str, list[tuple[str, str, str, str]]]) -> pl.DataFrame:
    """A kernel: the first artefact that just one side of a row has, all marks among them, and what is left without these: both answers, one and the same, or of one nothing."""
    found = []
    for row, source, chosen, rejected in shard.select("row", "source", "chosen", "rejected").iter_rows():
        better, worse = answer_text(chosen), answer_text(rejected)
        one_sided = [(name, kind, piece, side) for name, kind, piece, side in artefacts.get(source or "(none)", []) if _alone(better, worse, kind, piece) == side]
        if one_sided:
            marks = [piece for _, kind, piece, _ in one_sided if kind == "mark"]
            rest = {_without(text, marks) for text in (better, worse)}
            left = "none" if "" in rest else "one" if len(rest) == 1 else "both"
            found.append((row, one_sided[0][0], SEPARATOR.join(marks) or None, one_sided[0][3], left))
    schema = {"row": pl.UInt32, "artefact": pl.String, "marks": pl.String, "side": pl.String, "left": pl.String}
    return pl.DataFrame(found, schema=schema, orient="row")


def _alone(better: str, worse: str, kind: str, piece: str) -> str | None:
    """The side that alone has a piece of text."""
    a, b = has(better, kind, piece), has(worse, kind, piece)
    return None if a == b else "chosen" if a else "rejected"


def _without(text: str, pieces: list[str]) -> str:
    for piece in pieces:
        text = text.replace(piece, "")
    return text.strip()
