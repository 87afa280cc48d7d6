"""Checkpoints: trained, averaged, brought in, exported, published."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assay.cli.app import CORES, TRAINING, DataRoot, Json, Overrides, Workers, app, print_json
from assay.errors import AssayError
from assay.remote import as_given, fetch, url, with_output


@app.command(group=TRAINING)
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

        rows, given = read_source(url(pairs) or pairs).pairs, None
    else:
        given = read_stage(loaded.sources, base, output / "read", data_root=data_root, workers=workers, screen=screen)
        rows = curate_stage(loaded, base, output / "curate", given, data_root=data_root, workers=workers, screen=screen).kept()
    if dry_run:
        show_plan(plan_stage(loaded, base, output, rows, given, data_root=data_root))
        return 0
    manifest = train_stage(loaded, base, output, rows, given, data_root=data_root, screen=screen, ray=ray)
    if first:
        show_training(manifest, output / "checkpoint")
    return 0


@app.command(group=TRAINING)
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
        print_json(about)
    else:
        show_soup(about, output)
    return 0


@app.command(name="import", group=TRAINING)
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


@app.command(group=TRAINING)
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
    if measure and not int8:
        raise AssayError("--measure goes with --int8: an export in fp32 has the scores of the checkpoint, and its canaries show it")
    if (address := url(checkpoint)) and as_given(str(output)) == address:
        raise AssayError(f"{address}: writing there would delete the checkpoint it is made from; give another folder")
    for line in to_onnx(fetch(checkpoint), output, measure if int8 else None):
        say(line)
    write_text(output / FILE, model_card(output))
    return 0


@app.command(group=TRAINING)
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
