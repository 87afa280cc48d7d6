"""The audit of a data set before anyone trains on it: every detector over all rows, nothing removed, and a verdict for each source."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assay import engine as engines
from assay.curate import kernels
from assay.curate.kernels.features import asked
from assay.curate.pool import Pool, ingest
from assay.curate.runner import Tools, judged, length_bias
from assay.curate.step import Context, current_features
from assay.curate.steps import (
    AnyStep,
    agree,
    contradictions,
    decontaminate,
    duplicates,
    markers,
    near_duplicates,
    semantic_duplicates,
    shortcuts,
)
from assay.errors import MissingExtra
from assay.files import CONTRACT, claim, fingerprint
from assay.train.config import TrainConfig

SEMANTIC_LIMIT = 60_000
"""Above this many rows the exact search for semantic twins, whose cost grows with the square, is left out."""
LANGUAGES = 2_000
"""Prompts of each source whose language is looked at."""
TELLING = 5
TELLING_CHARS = 600


@dataclass(frozen=True, slots=True)
class Problem:
    """What is the matter with a source."""

    weight: int
    """1: worth knowing; 2: clean it first; 3: don't train on it as it is."""
    text: str


VERDICTS = {0: "fit for training", 1: "fit for training, with a note", 2: "clean it first", 3: "do not train on it as it is"}


def detectors(rows: int, against: dict[str, str], judge: str | None, split: str = "train") -> dict[str, AnyStep]:
    """The steps an audit runs, by what they look for. ``judge`` is a scorer, or a backbone to be cross-fitted on the data itself."""
    found: dict[str, AnyStep] = {
        "exact duplicates": duplicates.Config(key="pair"),
        "near duplicates": near_duplicates.Config(text="pair"),
        "contradictions": contradictions.Config(),
        "markers": markers.Config(),
        "shortcuts": shortcuts.Config(action="drop"),
    }
    if rows <= SEMANTIC_LIMIT:
        found["prompts that say the same"] = semantic_duplicates.Config(text="prompt")
    if against:
        found["contamination"] = decontaminate.Config(against=against, split=split, coverage=0.5)
    if judge:
        trains = not (":" in judge or "(" in judge or (Path(judge) / CONTRACT).is_file())  # no scorer's spec, so a backbone
        steps = max(20, min(300, rows // 64))
        found["noise"] = agree.Config(fit=TrainConfig(model=judge, max_steps=steps, max_length=256, validation=0.0)) if trains else agree.Config(scorers=[judge])
    return found


def audit(pairs: Path, folder: Path, *, against: dict[str, str] | None = None, judge: str | None = None, split: str = "train", workers: int = 1, engine: engines.Name = "local", **tools: Any) -> dict[str, Any]:
    """Run every detector over a pair table and give what they found; what an earlier call left in ``folder`` is not done again.

    Args:
        pairs: Parquet file of a pair table.
        folder: where the work and the result go.
        against: benchmarks by name, see the step ``decontaminate``.
        judge: a scorer that judges the labels, or a backbone that is cross-fitted on them. Without it noise is not estimated.
        split: split of benchmarks that are given as hub ids.
        tools: fields of ``runner.Tools``.

    Raises:
        AssayError: a benchmark or the judge cannot be read.
        MissingExtra: the extra ``audit`` is not installed.
    """
    given = Tools(**tools)
    if against:
        decontaminate.inputs(decontaminate.Config(against=against, split=split), given.data_root)  # what is not there is said before the work
    claim(folder)
    with engines.start(engine, workers) as running:
        with given.tick("sorting into shards") as tick:
            pool = ingest(pairs, folder / "pool", running, tick=tick)
        rows = pool.column("source", "category", "subset").with_columns(pl.col("source").fill_null("(none)"))
        one_a_prompt = rows.hstack(pool.features_at(rows["row"], "prompt_key")).unique("prompt_key", keep="first").sort("row").drop("prompt_key")
        steps = detectors(pool.height, against or {}, judge, split)
        found: dict[str, tuple[pl.DataFrame, dict[str, Any]]] = {}  # what would go, and notes
        for name, step in steps.items():
            workdir = folder / "steps" / name.replace(" ", "-")
            looked_at = one_a_prompt if isinstance(step, semantic_duplicates.Config) else rows
            if isinstance(step, near_duplicates.Config):  # what is counted as exact is not counted again
                looked_at = rows.join(found["exact duplicates"][0], on="row", how="anti")
            context = Context(pool, looked_at, running, workdir / "work", given.data_root, given.fit, given.score, given.likelihood, given.say, {}, given.tick)
            inputs = decontaminate.inputs(step, given.data_root) if isinstance(step, decontaminate.Config) else ""
            file, notes = judged(step, context, workdir, fingerprint(pool.content, step.model_dump(), inputs, kernels.VERSION))
            gone = pl.scan_parquet(file, glob=False).filter(~pl.col("keep")).drop("id", "copy").collect()
            found[name] = gone, notes
            given.say(f"{name}: {gone.height:,} rows")
        overview = _overview(pool, rows, folder, running)
    sources = {str(s): _source(str(s), part, found, overview) for (s,), part in rows.sort("source").group_by("source", maintain_order=True)}
    return {
        "rows": pool.height,
        "content": pool.content,
        "looked_for": list(steps),
        "not_looked_for": [n for n, there in (("contamination", against), ("noise", judge), ("prompts that say the same", pool.height <= SEMANTIC_LIMIT)) if not there],
        "found": {name: gone.height for name, (gone, _) in found.items()},
        "notes": {name: notes for name, (_, notes) in found.items()},
        "contamination": _by_benchmark(found),
        "sources": _with_examples(pool, sources, found),
    }


def _overview(pool: Pool, rows: pl.DataFrame, folder: Path, running: engines.Engine) -> pl.DataFrame:
    """row, source, category, lengths, turns, language of a sample."""
    shape = Context(pool, rows, running, folder / "overview" / pool.content).map(_shape, rows, ["prompt"], "shape")
    lengths = current_features(pool, rows, "chars", folder / "overview" / pool.content, running)
    return rows.join(lengths, on="row").hstack(pool.features_at(rows["row"], "prompt_key")).join(shape, on="row")


def _shape(shard: pl.DataFrame) -> pl.DataFrame:
    """A kernel: turns of the user in a prompt, its length in characters, and its language for some rows of every shard."""
    table = shard.select("row", turns=pl.col("prompt").list.eval(pl.element().struct["role"] == "user").list.sum(), text=asked())
    every = max(1, table.height // LANGUAGES)
    languages = [_language(text) if i % every == 0 else None for i, text in enumerate(table["text"])]
    return table.select("row", "turns", prompt_chars=pl.col("text").str.len_chars()).with_columns(pl.Series("language", languages, dtype=pl.String))


def _language(text: str) -> str:
    try:
        import pycld2
    except ImportError:
        raise MissingExtra("the audit", "audit") from None
    try:
        _, _, best = pycld2.detect("".join(c for c in text[:1_000] if c.isprintable()), bestEffort=True)
    except pycld2.error:
        return "unknown"
    return str(best[0][0]).capitalize()


def _source(name: str, part: pl.DataFrame, found: dict[str, tuple[pl.DataFrame, dict[str, Any]]], overview: pl.DataFrame) -> dict[str, Any]:
    mine = overview.join(part.select("row"), on="row", how="semi")
    chars = pl.concat([mine["chosen_chars"], mine["rejected_chars"]])
    hits = {detector: gone.join(part, on="row", how="semi").height for detector, (gone, _) in found.items()}
    languages = Counter(mine["language"].drop_nulls())
    noise = found["noise"][1]["noise"].get(name) if "noise" in found else None
    probed = found["shortcuts"][1].get(name)
    record: dict[str, Any] = {
        "rows": part.height,
        "prompts": mine["prompt_key"].n_unique(),
        "test_split": sorted(s for s in part["subset"].drop_nulls().unique() if re.search(r"(?<![a-z])test(?![a-z])", s.lower())),
        "categories": dict(part.group_by(pl.col("category").fill_null("(none)")).len().sort("len", "category", descending=[True, False]).head(8).iter_rows()),
        "languages": {language: count / languages.total() for language, count in languages.most_common(3)},
        "multi_turn": (mine["turns"] > 1).sum() / part.height,
        "prompt_chars": _quantiles(mine["prompt_chars"]),
        "answer_chars": _quantiles(chars),
        "length": length_bias(mine),
        "hits": hits,
        "noise": noise,
        "shortcut": probed,
    }
    problems = sorted(_problems(record), key=lambda p: -p.weight)
    return record | {"verdict": VERDICTS[max((p.weight for p in problems), default=0)], "weight": max((p.weight for p in problems), default=0), "problems": [p.text for p in problems]}


def _quantiles(values: pl.Series) -> dict[str, int]:
    return {f"{q:.0%}": int(values.quantile(q, "nearest") or 0) for q in (0.05, 0.5, 0.95)}


def _problems(source: dict[str, Any]) -> list[Problem]:
    """What speaks against a source. The thresholds are ours; the figures stand beside the verdict for anyone who would set others."""
    rows, hits = source["rows"], source["hits"]
    share = {name: count / rows for name, count in hits.items()}
    problems = []
    if rows < 200:
        problems.append(Problem(1, f"only {rows} rows: little can be said"))
    if hits.get("contamination"):
        problems.append(Problem(2, f"rows with a benchmark's prompt: {hits['contamination']:,}; figures on it would mean little"))
    for name, clean, stop in (("exact duplicates", 0.01, 0.5), ("near duplicates", 0.05, 0.5), ("contradictions", 0.01, 0.1), ("markers", 0.005, 0.2)):
        if share.get(name, 0) >= clean:
            problems.append(Problem(3 if share[name] >= stop else 2, f"{name}: {share[name]:.1%} of the rows"))
    if source["shortcut"]:
        told, length = source["shortcut"]["told"], source["shortcut"]["length"]
        low = source["shortcut"]["interval"][0]
        best = source["shortcut"]["tells"][0] if source["shortcut"]["tells"] else None
        lead = f", first of all by `{best['name']}` in {best['side']}" if best else ""
        if low >= 0.85:
            problems.append(Problem(3, f"{told:.0%} of the labels can be told without reading{lead}"))
        elif low >= 0.65 and told > length + 0.03:
            problems.append(Problem(1, f"{told:.0%} of the labels can be told without reading{lead}"))
    longer = source["length"]["chosen_longer"]
    if abs(longer - 0.5) >= 0.15:
        problems.append(Problem(2 if abs(longer - 0.5) >= 0.25 else 1, f"the chosen answer is the longer in {longer:.0%} of the rows"))
    if source["noise"] and rows >= 200 and source["noise"]["interval"][0] >= 0.1:
        problems.append(Problem(2, f"about {source['noise']['noise']:.0%} of the labels look wrong to the judge"))
    if source["test_split"]:
        problems.append(Problem(2, f"by its name part of it is a test set: {', '.join(source['test_split'][:3])}"))
    if source["prompts"] <= 0.5 * rows:
        problems.append(Problem(1, f"only {source['prompts']:,} different prompts: hold out by prompt"))
    return problems


def _by_benchmark(found: dict[str, tuple[pl.DataFrame, dict[str, Any]]]) -> dict[str, int]:
    """Rows that have a prompt of each benchmark; 0 for those of which none was found."""
    if "contamination" not in found:
        return {}
    gone, notes = found["contamination"]
    hits = gone.select(benchmark=pl.col("because_of").str.split(decontaminate.AND).explode().str.replace(r":\d+$", "")).group_by("benchmark").len()
    return dict.fromkeys(notes["references"]["prompts"], 0) | dict(hits.iter_rows())


ORDER = ("contamination", "contradictions", "markers", "shortcuts", "exact duplicates", "near duplicates", "noise", "prompts that say the same")


def _with_examples(pool: Pool, sources: dict[str, dict[str, Any]], found: dict[str, tuple[pl.DataFrame, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The sources, each with its most telling rows: of every detector in turn the one it is surest of, until there are five."""
    ranked = []
    for detector in ORDER:
        if detector in found:
            gone = found[detector][0]
            gone = gone.hstack(pool.at(gone["row"], "id", "source")).with_columns(pl.col("source").fill_null("(none)")).sort(pl.col("close").abs().fill_null(0), "row", descending=[True, False])
            ranked.append(gone.group_by("source", maintain_order=True).head(TELLING).select("row", "id", "source", "reason", "because_of", detector=pl.lit(detector)).with_columns(turn=pl.int_range(pl.len()).over("source")))
    picked = pl.concat(ranked).with_columns(order=pl.int_range(pl.len())).sort("source", "turn", "order").unique("row", keep="first", maintain_order=True)
    picked = picked.group_by("source", maintain_order=True).head(TELLING) if picked.height else picked
    texts = Context(pool, picked, engines.HERE, Path()).texts(picked) if picked.height else None
    examples: dict[str, list[dict[str, Any]]] = {}
    if texts is not None:
        for row in picked.join(texts.select("row", "prompt", "chosen", "rejected"), on="row", maintain_order="left").iter_rows(named=True):
            shown = {side: "\n".join(m["content"] for m in row[side])[:TELLING_CHARS] for side in ("prompt", "chosen", "rejected")}
            examples.setdefault(row["source"], []).append({"id": row["id"], "detector": row["detector"], "reason": row["reason"], "because_of": row["because_of"], **shown})
    return {name: source | {"examples": examples.get(name, [])} for name, source in sources.items()}

