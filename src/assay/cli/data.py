"""From preference data to a curated set, and what became of each row."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from assay.cli.app import CORES, DATA, DataRoot, EngineName, Json, Overrides, Workers, app, print_json
from assay.errors import AssayError
from assay.remote import fetch, with_output


@app.command(group=DATA)
@with_output
def read(
    *sources: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Parquet file for the pairs; rows set aside go beside it, to NAME.aside.jsonl.")],
    name: Annotated[str | None, Parameter(help="Value of the column `source`.")] = None,
    format: Annotated[str | None, Parameter(help="Format of the rows; recognised by default (`assay explain formats`).")] = None,
    attribute: Annotated[str, Parameter(help="Which rating orders the answers, where a row is one rated answer.")] = "helpfulness",
    weights: Annotated[list[str] | None, Parameter(negative="", help="A weighted sum of ratings instead, NAME=WEIGHT; may be repeated.")] = None,
    rule: Annotated[Literal["best-worst", "best-rest", "all"], Parameter(help="Which of several rated answers make a pair.")] = "best-worst",
    min_gap: Annotated[float, Parameter(help="Least difference of the ratings of a pair.")] = 0.0,
    per_prompt: Annotated[int | None, Parameter(help="At most so many pairs a prompt.")] = None,
    scorer: Annotated[str | None, Parameter(help="A scorer that rates answers which have no rating: a checkpoint folder, a hub id, `rule:length`.")] = None,
    columns: Annotated[list[str] | None, Parameter(negative="", help="Columns to rename first, OLD=NEW; may be repeated.")] = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "train",
    config: Annotated[str | None, Parameter(help="Configuration of a hub data set.")] = None,
    data_root: DataRoot = None,
    strict: Annotated[bool, Parameter(negative="", help="Stop at the first row that cannot be read.")] = False,
    as_json: Json = False,
) -> int:
    """Any format of preference data to one table of pairs.

    Parameters
    ----------
    sources
        Files, folders or hub ids.
    """
    from assay.files import write_parquet
    from assay.pairs.read import read as read_source
    from assay.pairs.read import write_aside
    from assay.pairs.schema import stack
    from assay.screen import Terminal
    from assay.tables import show_reading

    if not sources:
        raise AssayError("nothing to read: give files, folders or hub ids")
    if output.suffix != ".parquet":
        raise AssayError(f"-o {output}: the pairs are written as Parquet; give a name that ends in .parquet")
    renames, weighted = dict(_renames(columns or [])), dict(_weights(weights)) if weights else None
    screen, readings = Terminal(), []
    for source in sources:
        with screen.bar(f"reading {source}", None) as tick:
            readings.append(read_source(source, name=name, format=format, attribute=attribute, weights=weighted, rule=rule, min_gap=min_gap, per_prompt=per_prompt, scorer=scorer, columns=renames, split=split, config=config, data_root=data_root, strict=strict, tick=tick))
    pairs = stack([r.pairs for r in readings])
    write_parquet(output, pairs)
    aside = output.with_suffix(".aside.jsonl")
    write_aside(aside, [row for r in readings for row in r.aside])
    if as_json:
        print_json({"pairs": pairs.height, "readings": [r.summary() for r in readings], "output": str(output), "aside": str(aside)})
    else:
        show_reading(readings, pairs.height, output, aside)
    return 0


def _weights(given: list[str]) -> list[tuple[str, float]]:
    found = []
    for spec in given:
        name, equals, value = spec.partition("=")
        try:
            found.append((name, float(value)))
        except ValueError:
            equals = ""
        if not (name and equals):
            raise AssayError(f"--weights {spec}: expected NAME=WEIGHT, for example --weights helpfulness=0.65")
    return found


def _renames(columns: list[str]) -> list[tuple[str, str]]:
    pairs = [c.partition("=") for c in columns]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise AssayError(f"--columns {old}: expected OLD=NEW, for example --columns question=prompt")
    return [(old, new) for old, _, new in pairs]


@app.command(group=DATA)
@with_output
def curate(
    recipe: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the curated set, its ledger and its manifest.")],
    set_: Overrides = None,
    data_root: DataRoot = None,
    workers: Workers = CORES,
    engine: EngineName = "local",
    dry_run: Annotated[bool, Parameter(negative="", help="Only print what each step would remove; no curated set is written.")] = False,
    as_json: Json = False,
) -> int:
    """Read and curate by a recipe; what was dropped and why is in the ledger.

    Parameters
    ----------
    recipe
        A recipe file, or a shipped recipe.
    """
    from assay.files import read_json
    from assay.pipeline import curate_stage, read_stage
    from assay.recipes.recipe import load_recipe
    from assay.screen import Terminal
    from assay.tables import show_curation

    loaded, base = load_recipe(recipe, set_)
    screen = Terminal()
    pairs = read_stage(loaded.sources, base, output / "read", data_root=data_root, workers=workers, screen=screen)
    curated = curate_stage(loaded, base, output / "curate", pairs, data_root=data_root, workers=workers, engine=engine, dry_run=dry_run, screen=screen)
    if as_json:
        print_json({"read": read_json(output / "read" / "manifest.json"), **curated.manifest})
    else:
        show_curation(curated.manifest, output / "curate")
    return 0


@app.command(group=DATA)
@with_output
def audit(
    *sources: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for audit.html and audit.json.")],
    against: Annotated[list[str] | None, Parameter(negative="", help="A benchmark to look for: a known name (rewardbench, rewardbench2, rm-bench, judgebench, ppe) or NAME=PATH; may be repeated.")] = None,
    judge: Annotated[str | None, Parameter(help="What judges the labels: any scorer (a checkpoint, `rule:length`, `judge:MODEL@URL`), or a backbone such as minilm that is cross-fitted on the data. Without it noise is not estimated.")] = None,
    split: Annotated[str, Parameter(help="Split of hub data sets.")] = "train",
    data_root: DataRoot = None,
    workers: Workers = CORES,
    engine: EngineName = "local",
    as_json: Json = False,
) -> int:
    """Look at a data set with every detector and write one page: what is in it, what is wrong with it, a verdict for each source.

    Parameters
    ----------
    sources
        Files, folders or hub ids.
    """
    from assay.curate.audit import audit as look
    from assay.curate.audit import detectors
    from assay.files import write_json
    from assay.pipeline import read_stage, tools_for
    from assay.recipes.recipe import Source
    from assay.report.audit_page import write_audit
    from assay.screen import Terminal
    from assay.tables import show_audit

    if not sources:
        raise AssayError("nothing to audit: give files, folders or hub ids")
    screen = Terminal()
    pairs = read_stage([Source(path=s, split=split) for s in sources], Path(), output / "read", data_root=data_root, workers=workers, screen=screen)
    benchmarks = dict(_benchmark(b) for b in against or [])
    tools = tools_for(list(detectors(1, benchmarks, judge).values()), screen)
    found = look(pairs, output / "work", against=benchmarks, judge=judge, workers=workers, engine=engine, data_root=data_root, say=screen.say, tick=screen.tick, **tools)
    page = write_audit(found, ", ".join(Path(s).name for s in sources[:3]) + (" and others" if len(sources) > 3 else ""), output / "audit.html")
    write_json(output / "audit.json", found)
    if as_json:
        print_json(found)
    else:
        show_audit(found, page)
    return 0


def _benchmark(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    return (name, path) if equals else (Path(spec).name.split(".")[0], spec)


@app.command(name="self-test", group=DATA)
def self_test(
    recipe: str,
    *,
    set_: Overrides = None,
    data_root: DataRoot = None,
    workers: Workers = CORES,
    as_json: Json = False,
) -> int:
    """Plant benchmark prompts in a recipe's rows and count how many its decontamination finds, and how many false alarms it raises.

    Parameters
    ----------
    recipe
        A recipe file, or a shipped recipe, with a `decontaminate` step.
    """
    from tempfile import TemporaryDirectory

    from assay.curate.selftest import rows_of
    from assay.curate.selftest import self_test as plant
    from assay.files import read_parquet
    from assay.pipeline import read_stage, rooted
    from assay.recipes.recipe import load_recipe
    from assay.screen import Terminal
    from assay.tables import show_self_test

    loaded, base = load_recipe(recipe, set_)
    with TemporaryDirectory() as folder:
        pairs = read_stage(loaded.sources, base, Path(folder) / "read", data_root=data_root, workers=workers, screen=Terminal())
        found = plant(read_parquet(pairs), [rooted(step, base) for step in loaded.curate], Path(folder) / "test", data_root=data_root)
    if as_json:
        print_json(rows_of(found))
    else:
        show_self_test(found)
    return 0


@app.command(group=DATA)
def why(folder: Path, row: str, *, as_json: Json = False) -> int:
    """Why a row was kept or dropped: its whole path through the steps, with its twins.

    Parameters
    ----------
    folder
        A curation: the folder `assay curate -o` or `assay run` wrote, or its `curate` folder.
    row
        The id of the row, or the beginning of it.
    """
    from assay.curate.ledger import why as explain_row
    from assay.tables import show_why

    found = explain_row(_curation(folder), row)
    if as_json:
        print_json([{"outcome": w.outcome, "row": w.row, "path": w.path, "twins": w.twins, "now_id": w.now_id, "benchmark_prompts": w.benchmark_prompts} for w in found])
    else:
        show_why(found)
    return 0


@app.command(group=DATA)
def borderline(folder: Path, *, rows: Annotated[int, Parameter(help="Rows to list on each side of a threshold.", validator=Number(gte=1))] = 3, as_json: Json = False) -> int:
    """The rows nearest to the threshold of each step, so that a person can move it.

    Parameters
    ----------
    folder
        A curation.
    """
    from assay.curate.ledger import borderline as nearest
    from assay.tables import show_borderline

    table = nearest(_curation(folder), rows)
    if as_json:
        print_json(table.to_dicts())
    else:
        show_borderline(table)
    return 0


@app.command(group=DATA)
def diff(a: Path, b: Path, *, rows: Annotated[int, Parameter(help="Rows to list.")] = 10, as_json: Json = False) -> int:
    """Which rows one curated set has and the other has not, by step and reason.

    Parameters
    ----------
    a
        A curation.
    b
        Another curation.
    """
    from assay.curate.ledger import diff as compare
    from assay.tables import show_diff

    table = compare(_curation(a), _curation(b))
    if as_json:
        print_json(table.to_dicts())
    else:
        show_diff(table, a, b, rows)
    return 0


def _curation(folder: Path) -> Path:
    folder = fetch(folder)
    inner = folder / "curate"
    return inner if (inner / "manifest.json").is_file() or (inner / "steps").is_dir() else folder
