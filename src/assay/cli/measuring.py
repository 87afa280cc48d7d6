"""What a scorer is worth."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli.app import MEASURING, AllowDrift, DataRoot, Json, Precision, app, print_json
from assay.remote import fetch, with_output


@app.command(group=MEASURING)
@with_output
def evaluate(
    scorer: str,
    *,
    suite: Annotated[list[str], Parameter(negative="", help="A published suite (rewardbench, rewardbench2, rm-bench, judgebench, ppe-preference, ppe-correctness), RULE=PATH for a local copy, a file of pairs, or a description (.yaml); NAME=PATH or NAME:RULE=PATH names it; may be repeated. See `assay explain suites`.")],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for results.html, results.json and items.parquet.")] = None,
    precision: Precision = "auto",
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
        print_json(results)
    else:
        show_results(results, output)
    return 0


@app.command(group=MEASURING)
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
        print_json(found)
    else:
        show_comparison(found, output)
    return 0


@app.command(group=MEASURING)
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


@app.command(name="best-of-n", group=MEASURING)
@with_output
def best_of_n(
    scorer: str,
    data: str,
    *,
    gold: Annotated[str | None, Parameter(help="The column that says how good an answer is; by default the first of gold, is_correct, correct, label, score, rating.")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="Folder for best_of_n.html and best_of_n.json.")] = None,
    split: Annotated[str, Parameter(help="Split of a hub data set.")] = "test",
    precision: Precision = "auto",
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
        print_json(found)
    else:
        show_best_of_n(found, output)
    return 0
