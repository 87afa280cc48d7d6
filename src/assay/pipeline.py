"""The whole loop: read, curate, train, evaluate, report. Each stage is a folder that is done when its manifest exists.

A run lies in ``runs/NAME-FINGERPRINT``; the fingerprint covers the recipe, the content of the inputs and the version of the code. Started again,
a run goes on where it was killed, and a finished one is only opened.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from assay import __version__
from assay import engine as engines
from assay.curate import kernels
from assay.curate.runner import Curated, curate
from assay.curate.steps import AnyStep, agree
from assay.engine import start
from assay.errors import AssayError, MissingExtra, did_you_mean
from assay.files import (
    MANIFEST,
    ParquetStream,
    atomic,
    fingerprint,
    is_done,
    read_json,
    read_parquet,
    sha256_file,
    start_over,
    write_json,
    write_text,
)
from assay.pairs import schema, sources
from assay.pairs.ratings import read_ratings
from assay.pairs.read import default_name, read_to, write_aside
from assay.pairs.schema import prompt_id
from assay.recipes.recipe import Recipe, Source
from assay.score.sides import sides
from assay.screen import Quiet, Screen, training_progress
from assay.train.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    folder: Path
    reading: dict[str, Any]
    curation: dict[str, Any]
    trainings: dict[str, dict[str, Any]]
    """By arm: ``curated``, and ``everything`` where the recipe asks for the baseline."""
    results: dict[str, dict[str, Any]]
    """Evaluation results by arm."""


def run(recipe: Recipe, base: Path, runs: Path, *, data_root: Path | None = None, workers: int = 1, engine: engines.Name = "local", screen: Screen | None = None) -> Run:
    """Run a recipe, or go on with it.

    Args:
        recipe: see ``load_recipe``.
        base: folder that the recipe's relative paths start at.
        runs: folder under which the run's own folder is made.
        data_root: a folder with copies of hub data sets.
        workers: processes for reading and curation kernels.
        engine: where curation kernels run, ``local`` or ``ray``.
        screen: shows progress.

    Raises:
        AssayError: an input is missing or wrong, or PyTorch is not installed.
    """
    screen = screen or Quiet()
    folder = runs / f"{recipe.name}-{_fingerprint(recipe, base, data_root)}"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    screen.say(f"run folder: {folder}")
    pairs = read_stage(recipe.sources, base, folder / "read", data_root=data_root, workers=workers, screen=screen)
    curated = curate_stage(recipe, base, folder / "curate", pairs, data_root=data_root, workers=workers, engine=engine, screen=screen)
    arms = {"curated": curated.kept()}
    if recipe.baseline:
        arms["everything"] = read_parquet(pairs)
    trainings = {arm: train_stage(recipe, base, folder / "train" / arm, rows, pairs, data_root=data_root, screen=screen, arm=arm, like=arms["curated"]) for arm, rows in arms.items()}
    results = _evaluate(recipe, base, folder, list(arms), data_root, screen)
    return Run(folder, read_json(folder / "read" / MANIFEST), curated.manifest, trainings, results)


def _fingerprint(recipe: Recipe, base: Path, data_root: Path | None) -> str:
    described = recipe.model_dump(exclude={"about", "open", "published"})
    return fingerprint(described, _contents(recipe.sources, base, data_root), __version__, kernels.VERSION)[:10]


def _contents(given: list[Source], base: Path, data_root: Path | None) -> list[list[str | None]]:
    """What the sources hold: the hashes of local files; of a hub data set only its name."""
    contents: list[list[str | None]] = []
    for source in given:
        files = sources.find(resolve(source.path, base), data_root, source.split, source.config)
        contents.append([source.path, source.config, source.split] if files is None else [sha256_file(f) for f in files])
    return contents


def resolve(path: str, base: Path) -> str:
    """``path`` as seen from ``base``, if something is there; unchanged otherwise, as a URL always is."""
    inside = (base / path).resolve()
    return str(inside) if not Path(path).is_absolute() and inside.exists() else path


def read_stage(given: list[Source], base: Path, folder: Path, *, data_root: Path | None = None, workers: int = 1, screen: Screen | None = None) -> Path:
    """All sources as one pair table in ``folder``; the path of its file. A source that an earlier run finished is not read again."""
    screen = screen or Quiet()
    print_ = fingerprint([s.model_dump() for s in given], _contents(given, base, data_root), __version__)
    if not is_done(folder, print_):
        start_over(folder, print_)
        with start("local", min(workers, len(given))) as engine, screen.bar(f"reading {len(given)} sources", len(given)) as tick:
            tasks = [(folder / "parts" / f"{i:03d}", resolve(s.path, base), s, data_root) for i, s in enumerate(given)]
            summaries = engine.map(_read_source, tasks, tick)
        _put_together(folder, [task[0] for task in tasks])
        together = {key: sum(s[key] for s in summaries) for key in ("rows_read", "rows_used", "rows_aside", "pairs")}
        reasons = sum((Counter(s["reasons"]) for s in summaries), Counter())
        formats = {file: format for s in summaries for file, format in s["formats"].items()}
        write_json(folder / MANIFEST, {**together, "reasons": dict(sorted(reasons.items(), key=lambda r: (-r[1], r[0]))), "formats": formats, "fingerprint": print_})
        shutil.rmtree(folder / "parts")
    summary = read_json(folder / MANIFEST)
    screen.say(f"read: {summary['rows_read']:,} rows, {summary['pairs']:,} pairs, {summary['rows_aside']:,} rows set aside")
    return folder / "pairs.parquet"


def _read_source(task: tuple[Path, str, Source, Path | None]) -> dict[str, Any]:
    """Read one source to parts; what an earlier run finished is not read again."""
    folder, path, source, data_root = task
    if not (folder / MANIFEST).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # parts of a reading that did not come to its end
        settings = source.model_dump(include={"name", "format", "columns", "split", "config", "limit"})
        write_json(folder / MANIFEST, read_to(folder, path, how=source.how(), data_root=data_root, **settings))
    summary: dict[str, Any] = read_json(folder / MANIFEST)
    return summary


def _put_together(folder: Path, parts: list[Path]) -> None:
    """One pair table and one list of rows set aside from those of the sources, in their order."""
    files = [file for part in parts for file in sorted(part.glob("*.parquet"))]
    common = schema.common_schema([pl.read_parquet_schema(file) for file in files])
    with ParquetStream(folder / "pairs.parquet") as stream:
        for file in files:
            stream.write(schema.fitted(read_parquet(file), common))
    with atomic(folder / "aside.jsonl") as temporary, temporary.open("wb") as aside:
        for part in parts:
            with (part / "aside.jsonl").open("rb") as one:
                shutil.copyfileobj(one, aside)


def curate_stage(
    recipe: Recipe, base: Path, folder: Path, pairs: Path, *, data_root: Path | None = None, workers: int = 1, engine: engines.Name = "local", dry_run: bool = False, screen: Screen | None = None
) -> Curated:
    """The recipe's curation of the table ``pairs``, in ``folder``."""
    screen = screen or Quiet()
    steps = [rooted(step, base) for step in recipe.curate]
    tools = tools_for(steps, screen)
    return curate(pairs, steps, folder, workers=workers, engine=engine, dry_run=dry_run, data_root=data_root, say=screen.say, done=lambda a: screen.say(account_line(a)), tick=screen.tick, **tools)


def tools_for(steps: Sequence[AnyStep], screen: Screen) -> dict[str, Any]:
    """What these steps need of PyTorch, by the names of ``runner.Tools``.

    Raises:
        MissingExtra: PyTorch is not installed and a step needs it.
    """
    trains = [s for s in steps if isinstance(s, agree.Config) and not s.scorers and not s.columns]
    tools: dict[str, Any] = {"score": sides}
    try:
        if trains:
            from assay.train.fit import fitter

            tools["fit"] = fitter(screen)
        if any(step.kind == "perplexity" for step in steps):
            from assay.score.likelihood import measurer

            tools["likelihood"] = measurer(screen)
    except ImportError:
        raise MissingExtra(f"the step `{'agree' if trains else 'perplexity'}` runs a model and", "train") from None
    return tools


def rooted(step: Any, base: Path) -> Any:
    """A step whose files are named as seen from the recipe."""
    if step.kind == "decontaminate":
        return step.model_copy(update={"against": {name: resolve(path, base) for name, path in step.against.items()}})
    if step.kind == "agree":
        return step.model_copy(update={"scorers": [resolve(scorer, base) for scorer in step.scorers]})
    return step


def account_line(account: dict[str, Any]) -> str:
    """What a step did, in a line."""
    before, after = account["before"], account["after"]
    line = f"{account['step']}: {before['rows']:,} rows, {account['dropped']:,} dropped, {after['rows']:,} stay"
    for what in ("flipped", "trimmed"):
        if account[what]:
            line += f", {account[what]:,} {what}"
    if after["rows"] and before["rows"]:
        line += f"; chosen longer {before['chosen_longer']:.1%} -> {after['chosen_longer']:.1%}"
    return line


def train_stage(
    recipe: Recipe, base: Path, folder: Path, rows: pl.DataFrame, pairs: Path | None, *, data_root: Path | None = None, screen: Screen | None = None, arm: str = "curated", like: pl.DataFrame | None = None, ray: int | None = None
) -> dict[str, Any]:
    """Train by the recipe on the pairs ``rows``, or on the rated answers of its sources without the prompts of which no pair is left; the manifest.

    Args:
        recipe, base: see ``load_recipe``.
        folder: where to; the checkpoint is ``folder/checkpoint``.
        rows: pairs that were kept of the table ``pairs``.
        pairs: the file of all pairs that were read; without it they are read again where rated answers are trained on.
        like: take as many steps as these pairs ask for.
        ray: train in so many processes of a Ray cluster.
    """
    screen = screen or Quiet()
    config = recipe.train
    if recipe.first:
        given = _rows_for(recipe.first, recipe, base, folder, rows, pairs, data_root, screen)
        _train(given, recipe.first, folder / "first", screen, f"{arm}, first", ray)
        config = config.model_copy(update={"model": str((folder / "first" / "checkpoint").resolve())})
    given = _rows_for(config, recipe, base, folder, rows, pairs, data_root, screen)
    steps_by = given if like is None else _rows_for(config, recipe, base, folder, like, pairs, data_root, screen)
    return _train(given, _same_steps(config, steps_by), folder, screen, arm, ray)


def plan_stage(recipe: Recipe, base: Path, folder: Path, rows: pl.DataFrame, pairs: Path | None, *, data_root: Path | None = None) -> dict[str, Any]:
    """What ``train_stage`` would take, see ``assay.train.plan``; of two trainings, the second."""
    try:
        from assay.train.plan import plan
    except ImportError:
        raise MissingExtra("training", "train") from None
    config = recipe.train.model_copy(update={"model": recipe.first.model}) if recipe.first else recipe.train
    given = _rows_for(config, recipe, base, folder, rows, pairs, data_root, Quiet())
    return plan(given, _same_steps(config, given))


def _rows_for(config: TrainConfig, recipe: Recipe, base: Path, folder: Path, rows: pl.DataFrame, pairs: Path | None, data_root: Path | None, screen: Screen) -> pl.DataFrame:
    """What a training trains on: pairs, or, with attributes, the rated answers of the sources but for those whose prompts the curation dropped. Rated rows that can't be read go to ``ratings.aside.jsonl`` beside ``pairs``, or in ``folder``."""
    called = [(s.name or default_name(resolve(s.path, base)), s) for s in recipe.sources]
    names = [name for name, _ in called] if config.attributes else rows["source"].unique().to_list()
    if unknown := set(config.only or ()) - set(names):
        raise AssayError(f"only: there are no rows of the source {', '.join(sorted(unknown))}.{did_you_mean(min(unknown), names)} Sources: {', '.join(sorted(names))}")
    if not config.attributes:
        return rows if config.only is None else rows.filter(pl.col("source").is_in(config.only))
    fields = {"name", "columns", "split", "config", "limit"}
    given = [s for name, s in called if config.only is None or name in config.only]
    found = [read_ratings(resolve(s.path, base), config.attributes, data_root=data_root, **s.model_dump(include=fields)) for s in given]
    aside = [row for _, unread in found for row in unread]
    left = (pairs.parent if pairs else folder) / "ratings.aside.jsonl"
    write_aside(left, aside)
    screen.say(f"ratings: {sum(table.height for table, _ in found):,} rated answers, {len(aside):,} rows set aside" + (f": {left}" if aside else ""))
    dropped = (_prompts(read_parquet(pairs)) if pairs else _prompts_read(recipe, base, data_root, screen)) - _prompts(rows)
    return pl.concat([table for table, _ in found]).filter(~pl.col("prompt_id").is_in(list(dropped)))


def _prompts(pairs: pl.DataFrame) -> set[str]:
    return {prompt_id(p) for (p,) in pairs.select("prompt").iter_rows()}


def _prompts_read(recipe: Recipe, base: Path, data_root: Path | None, screen: Screen) -> set[str]:
    """The prompts of all pairs that the sources hold. They are read to a folder of this process alone: each of several does so, and none can wait for another yet."""
    with tempfile.TemporaryDirectory() as temporary:
        return _prompts(read_parquet(read_stage(recipe.sources, base, Path(temporary) / "read", data_root=data_root, screen=screen)))


def _same_steps(config: TrainConfig, curated: pl.DataFrame) -> TrainConfig:
    """``config`` with its number of steps written out, so that every arm takes as many as the curated set asks for."""
    if config.max_steps or curated.height == 0:
        return config
    try:
        from assay.train.examples import split
        from assay.train.train import steps_for
    except ImportError:
        raise MissingExtra("training", "train") from None
    seen, _ = split(curated, config.validation)
    return config.model_copy(update={"max_steps": steps_for(seen.height, config)})


def _train(rows: pl.DataFrame, config: TrainConfig, folder: Path, screen: Screen, arm: str, ray: int | None = None) -> dict[str, Any]:
    try:
        from assay.train.cluster import train_on_ray
        from assay.train.train import read_manifest, train
    except ImportError:
        raise MissingExtra("training", "train") from None
    screen.say(f"train ({arm}): {rows.height:,} {'rated answers' if config.attributes else 'pairs'}, {config.max_steps or 0:,} steps of {config.batch_size}")
    if ray:
        train_on_ray(rows, config, folder, ray)
        return read_manifest(folder)
    with screen.bar(f"training on {arm}", config.max_steps) as tick:
        train(rows, config, folder, progress=training_progress(tick))
    return read_manifest(folder)


def _evaluate(recipe: Recipe, base: Path, folder: Path, arms: list[str], data_root: Path | None, screen: Screen) -> dict[str, dict[str, Any]]:
    from assay.evaluate.evaluate import evaluate
    from assay.evaluate.load import load_suite
    from assay.evaluate.saved import read_results
    from assay.evaluate.scoring import key_of
    from assay.score.scorer import load_scorer

    results: dict[str, dict[str, Any]] = {}
    if not recipe.evaluate.suites:
        return results
    suites = [load_suite(_rooted_suite(spec, base), data_root) for spec in recipe.evaluate.suites]
    for arm in arms:
        out = folder / "evaluate" / arm
        print_ = fingerprint(read_json(folder / "train" / arm / "checkpoint" / MANIFEST)["fingerprint"], [[s.name, s.rule, [[i.gold, *(key_of(i.prompt + a) for a in i.answers)] for i in s.items]] for s in suites])
        if not is_done(out, print_):
            start_over(out, print_)
            with screen.bar(f"scoring with {arm}", None) as tick:
                evaluate(load_scorer(folder / "train" / arm / "checkpoint"), suites, out, cache=False, tick=tick)
            write_json(out / MANIFEST, {"fingerprint": print_})
        results[arm] = read_results(out)
    return results


def _rooted_suite(spec: str, base: Path) -> str:
    name, equals, path = spec.partition("=") if "=" in spec else ("", "", spec)
    return name + equals + resolve(path, base)


