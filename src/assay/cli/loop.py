"""The whole loop: the demo and recipes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli.app import CORES, LOOP, DataRoot, EngineName, Overrides, Workers, app
from assay.remote import with_output


@app.command(group=LOOP)
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


@app.command(group=LOOP)
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
