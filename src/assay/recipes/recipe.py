"""What a recipe says, and reading one: every mistake in it is named with its place and the nearest right word."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay.curate.steps import MODULES, AnyStep
from assay.errors import AssayError, did_you_mean
from assay.files import first_line
from assay.pairs.pairing import Pairing, Rule
from assay.remote import fetch
from assay.train.config import TrainConfig


class Source(BaseModel):
    """Where pairs come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """A file, a folder, or a hub id `owner/name`, of which a copy may lie in the data root. Relative paths start at the recipe's folder."""
    name: str | None = None
    """Value of the column `source`, by which steps and offsets name these rows. By default what the rows have there, or else the name of the file or folder."""
    split: str = "train"
    """Split of a hub data set."""
    config: str | None = None
    """Configuration of a hub data set, or the folder of it that holds the rows."""
    format: str | None = None
    """Format of the rows; recognised by default. See `assay explain formats`."""
    attribute: str = "helpfulness"
    """Which rating orders the answers, where a row is one rated answer."""
    weights: dict[str, float] | None = None
    """A weighted sum of ratings instead of one, `{helpfulness: 0.65, correctness: 0.8}`."""
    rule: Rule = "best-worst"
    """Which of several rated answers make a pair: the best and the worst, the best and each of the rest (`best-rest`), or every two (`all`)."""
    min_gap: float = Field(0.0, ge=0.0)
    """Least difference of the ratings of a pair; equal ratings never make one."""
    per_prompt: int | None = Field(None, ge=1)
    """At most so many pairs a prompt, the largest differences first."""
    columns: dict[str, str] = {}
    """Columns to rename before reading, `{question: prompt}`."""
    scorer: str | None = None
    """A scorer that rates the answers of rows that have several, or one each, without ratings: a checkpoint, `rule:length`."""
    limit: int | None = Field(None, ge=1)
    """Read only the first rows."""

    def how(self) -> Pairing:
        """The rule by which rated answers become pairs."""
        return Pairing(self.attribute, self.weights, self.rule, self.min_gap, self.per_prompt, self.scorer)


class Evaluation(BaseModel):
    """What the model is measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suites: list[str] = []
    """Published suites by name, `RULE=PATH` for local copies, files of pairs, or descriptions; see `assay explain suites`."""


class Recipe(BaseModel):
    """From sources to a measured reward model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the recipe; begins the name of the run's folder."""
    about: str = ""
    """What it does, in a sentence or two."""
    sources: list[Source] = Field(min_length=1)
    """Where the pairs come from."""
    curate: list[AnyStep] = []
    """Steps of the curation, in order. See `assay explain steps`."""
    first: TrainConfig | None = None
    """A training before `train`, on the same sources, whose model `train` starts from, head included (then `train.model` is not read)."""
    train: TrainConfig = TrainConfig()
    """How the reward model is trained."""
    baseline: bool = False
    """Train a second model on everything that was read, for as many steps, to show what the curation did."""
    evaluate: Evaluation = Evaluation()
    """What the models are measured on."""
    open: list[str] = []
    """What the source of the recipe leaves open, and what is done here."""
    published: dict[str, Any] = {}
    """Figures of the source, to compare with."""


def shipped() -> dict[str, Path]:
    """The recipes that come with Assay, by name."""
    folder = Path(str(resources.files("assay.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(recipe: str, overrides: list[str] | None = None) -> tuple[Recipe, Path]:
    """The recipe that ``recipe`` names (a file or a shipped name), with ``key.path=value`` overrides; and the folder its paths start at.

    Raises:
        AssayError: there is no such recipe, it is not YAML, or a field is wrong; the message names the field.
    """
    path = fetch(recipe)
    if not path.is_file():
        known = shipped()
        if recipe not in known:
            raise AssayError(f"{recipe}: no such recipe file, and not a shipped recipe.{did_you_mean(recipe, known)} Shipped: {', '.join(known)}")
        path = known[recipe]
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except UnicodeDecodeError:
        raise AssayError(f"{path}: not UTF-8 text; a recipe is a YAML file") from None
    except NOT_YAML as error:
        raise AssayError(f"{path}: not YAML: {_yaml_problem(error)}") from None
    if not isinstance(data, dict):
        raise AssayError(f"{path}: expected a recipe (name, sources, curate, train, evaluate), found {type(data).__name__ if data is not None else 'an empty file'}")
    for override in overrides or []:
        _override(data, override)
    try:
        return Recipe.model_validate(data), path.resolve().parent
    except ValidationError as error:
        raise AssayError(_explain(path, data, error)) from None


NOT_YAML = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What PyYAML raises: its own error, and others for a date, a tag or a nesting that makes no sense."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice; YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key.start_mark)
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key `{key.value}` stands twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return first_line(error)


def _override(data: Any, override: str) -> None:
    """Set ``a.b.c=value`` in nested data. In the list of steps a step goes by its number (from 0) or its kind."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise AssayError(f"--set {override}: expected KEY=VALUE, for example --set train.epochs=2")
    *parents, last = path.split(".")
    here = data
    for key in parents:
        here = _enter(here, key, override)
    try:
        value = yaml.load(text, Loader=_Loader)
    except NOT_YAML as error:
        if any(sign in text for sign in "{}[]"):
            raise AssayError(f"--set {override}: not YAML: {_yaml_problem(error)}") from None
        value = text
    if isinstance(here, list):
        _enter(here, last, override)
        here[_position(here, last)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise AssayError(f"--set {override}: `{last}` is inside a plain value")


def _enter(here: Any, key: str, override: str) -> Any:
    if isinstance(here, list):
        at = _position(here, key)
        if at < 0:
            known = [item.get("kind") for item in here if isinstance(item, dict)]
            raise AssayError(f"--set {override}: nothing at `{key}`; the list holds {len(here)}{' (' + ', '.join(map(str, known)) + ')' if any(known) else ''}")
        return here[at]
    if not isinstance(here, dict):
        raise AssayError(f"--set {override}: `{key}` is inside a plain value")
    if here.get(key) is None:
        here[key] = {}
    return here[key]


def _position(items: list[Any], key: str) -> int:
    if key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(items):
        return int(key)
    return next((i for i, item in enumerate(items) if isinstance(item, dict) and item.get("kind") == key), -1)


def _explain(path: Path, data: dict[str, Any], error: ValidationError) -> str:
    """All that is wrong with a recipe, one line a mistake."""
    lines = [_mistake(data, dict(e)) for e in error.errors()]
    return "\n".join(f"{path}: {line}" for line in dict.fromkeys(lines))


def _mistake(data: dict[str, Any], error: dict[str, Any]) -> str:
    place = [part for part in error["loc"] if not (isinstance(part, str) and part in (*MODULES, "str", "bool", "int", "float"))]
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".") or "the recipe"
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        model, title = _model_at(data, place[:-1])
        topic = "select" if model.__name__ == "Group" else title.strip("`")
        return f"{where} is not a field of {title}.{did_you_mean(str(place[-1]), model.model_fields)} See `assay explain {topic}`."
    if kind == "missing":
        return f"{where} is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        named = given.get("kind") if isinstance(given, dict) else None
        if named is None:
            return f"{where} needs a `kind`. Steps: {', '.join(MODULES)}"
        return f"{where}: there is no step `{named}`.{did_you_mean(str(named), MODULES)} Steps: {', '.join(MODULES)}"
    if kind in ("model_type", "model_attributes_type"):
        hint = f"; write `- {{kind: {given}}}`" if isinstance(given, str) and given in MODULES else ""
        return f"{where}: expected fields, found {_short(given)}{hint}"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{where}: {message}, found {_short(given)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _model_at(data: Any, place: list[Any]) -> tuple[type[BaseModel], str]:
    """The model that holds the fields at ``place``, and what it is called."""
    if place[:1] == ["curate"] and len(place) >= 2:
        kind = data["curate"][place[1]]["kind"]
        if place[2:3] == ["fit"]:
            return TrainConfig, "`train`"
        if place[2:3] == ["groups"]:
            return MODULES[kind].Group, "a group of `select`"
        return MODULES[kind].Config, f"`{kind}`"
    models: dict[str, tuple[type[BaseModel], str]] = {"sources": (Source, "`sources`"), "train": (TrainConfig, "`train`"), "first": (TrainConfig, "`first`"), "evaluate": (Evaluation, "`evaluate`")}
    return models.get(str(place[0]), (Recipe, "`recipe`")) if place else (Recipe, "`recipe`")
