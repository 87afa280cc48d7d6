"""``assay explain``: the documentation of one thing, from its own docstrings and fields."""

import ast
import inspect
import textwrap
import typing
from importlib import resources
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from assay.curate.steps import MODULES
from assay.errors import AssayError, did_you_mean
from assay.evaluate.load import Description
from assay.evaluate.suites import PUBLISHED, RULES
from assay.pairs.formats import FORMATS
from assay.recipes.recipe import Evaluation, Recipe, Source, shipped
from assay.train.config import LoraConfig, LossConfig, TrainConfig

SECTIONS: dict[str, type[BaseModel]] = {"recipe": Recipe, "sources": Source, "train": TrainConfig, "loss": LossConfig, "lora": LoraConfig, "evaluate": Evaluation}
STEPS = "solution-steps"
"""The topic of the suite rule `steps`, since the steps of a curation have that name."""
LOSSES = typing.get_args(LossConfig.model_fields["kind"].annotation)


def explain(topic: str) -> str:
    """The documentation of ``topic``: a step, a section of a recipe, a shipped recipe, a loss, a suite's rule, ``steps``, ``losses``, ``formats``, ``importing``,
    ``scorers``, ``suites`` or ``recipes``.

    Raises:
        AssayError: there is no such topic; the message names the nearest.
    """
    recipes = shipped()
    if topic in MODULES:
        module = MODULES[topic]
        return f"{inspect.cleandoc(module.__doc__ or '')}\n\n{fields(module.Config)}"
    if topic in SECTIONS:
        return f"{inspect.getdoc(SECTIONS[topic])}\n\n{fields(SECTIONS[topic])}"
    if topic in recipes:
        return recipes[topic].read_text(encoding="utf-8").rstrip()
    if topic == "steps":
        return "\n".join(f"{name}: {first_sentence(module.__doc__ or '')}" for name, module in MODULES.items())
    if topic in LOSSES:
        return _loss(topic)
    if topic == "losses":
        return "\n".join(f"{name}: {first_sentence(_loss(name))}" for name in LOSSES)
    if topic == "scorers":
        return _unimported("score/scorer.py")[0]
    if topic in RULES or topic == STEPS:
        return inspect.cleandoc(RULES["steps" if topic == STEPS else topic].about)
    if topic == "suites":
        return "\n".join(f"{name}: {first_sentence(rule.about)}{_published(name)}" for name, rule in RULES.items()) + f"\n\nA suite of your own, as a YAML file:\n\n{fields(Description)}"
    if topic == "importing":
        return _unimported("model/importing.py")[0]
    if topic == "formats":
        return "\n".join(f"{f.name}: {f.about}" for f in FORMATS)
    if topic == "recipes":
        return "\n".join(f"{name}: {path}" for name, path in recipes.items())
    known = [*MODULES, *SECTIONS, *LOSSES, *recipes, *(STEPS if rule == "steps" else rule for rule in RULES), "steps", "losses", "formats", "importing", "recipes", "scorers", "suites"]
    raise AssayError(f"nothing is called `{topic}`.{did_you_mean(topic, known)} Known: {', '.join(known)}")


def _published(name: str) -> str:
    return f" Published: {', '.join(dict.fromkeys(path for path, _ in PUBLISHED[name]))}." if name in PUBLISHED else ""


def _loss(name: str) -> str:
    functions = _unimported("train/losses.py")[1]
    return functions[f"_{name}"]


def _unimported(module: str) -> tuple[str, dict[str, str]]:
    """The docstrings of a module of ours and of its functions, read from its source: it imports PyTorch."""
    tree = ast.parse((resources.files("assay") / module).read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or "", {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}


def first_sentence(text: str) -> str:
    """The first line of a docstring."""
    return text.strip().splitlines()[0]


def fields(model: type[BaseModel]) -> str:
    """The fields of a model with their types, defaults and the prose under them."""
    prose: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            prose.update(field_prose(base))
    return "\n\n".join(f"{name}: {_type(info.annotation)}{_default(info)}\n{_indented(prose.get(name, ''))}" for name, info in model.model_fields.items())


def field_prose(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand under the fields of a class in its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(annotation)))
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    text = str(annotation).replace("typing.", "")
    return "list of steps" if "FieldInfo" in text else text.replace("assay.curate.steps.select.", "").replace("assay.recipes.recipe.", "").replace("assay.train.config.", "")


def _default(info: Any) -> str:
    if info.default is PydanticUndefined:
        return ""
    return " = the fields of `train`" if isinstance(info.default, TrainConfig) else f" = {info.default!r}"
