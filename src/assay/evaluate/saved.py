"""Results that were written down, to be measured, compared and shown again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay.errors import AssayError
from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Bools, Item, Suite, padded
from assay.evaluate.suites import RULES
from assay.files import read_json, read_parquet


@dataclass(frozen=True, slots=True)
class Saved:
    """The results of one scorer."""

    folder: Path
    results: dict[str, Any]
    suites: dict[str, Suite]
    rewards: dict[str, Floats]
    """For each suite, shape [items, width]."""
    truncated: dict[str, Bools]

    @property
    def name(self) -> str:
        """What the scorer is called: the end of its spec."""
        return str(self.results["scorer"]).rstrip("/").removesuffix("/checkpoint").rpartition("/")[2] or str(self.results["scorer"])


def load_results(folder: Path) -> Saved:
    """What ``assay evaluate -o FOLDER`` wrote.

    Raises:
        AssayError: it is not there, or damaged.
    """
    if not (folder / "results.json").is_file():
        raise AssayError(f"{folder}: no results.json; give a folder that `assay evaluate -o` wrote")
    table, results = read_parquet(folder / "items.parquet"), read_results(folder)
    suites, rewards, truncated = {}, {}, {}
    try:
        for (name, rule), part in table.group_by("suite", "rule", maintain_order=True):
            items = [_item(row) for row in part.iter_rows(named=True)]
            suite = Suite(str(name), str(rule), items)
            if suite.rule not in RULES or suite.name not in results["suites"]:
                raise AssayError(f"{folder / 'items.parquet'}: suite `{name}` with the rule `{rule}` is not in results.json, or no rule of this version; run `assay evaluate` again")
            suites[suite.name] = suite
            rewards[suite.name] = padded(part["scores"].to_list(), suite.width)
            truncated[suite.name] = padded(part["truncated"].to_list(), suite.width) == 1
    except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
        raise AssayError(f"{folder / 'items.parquet'}: not the items of an evaluation ({error})") from None
    return Saved(folder, results, suites, rewards, truncated)


def read_results(folder: Path) -> dict[str, Any]:
    """``results.json``, with NaN where a figure has no value: JSON has no word for that but null.

    Raises:
        AssayError: it is not there, or damaged.
    """
    results = read_json(folder / "results.json")
    try:
        suites = {name: _with_nan(suite) for name, suite in results["suites"].items()}
        return {**results, "scorer": results["scorer"], "suites": suites}
    except (AttributeError, KeyError, TypeError):
        raise AssayError(f"{folder / 'results.json'}: not the results of an evaluation; run `assay evaluate` again") from None


def _with_nan(suite: dict[str, Any]) -> dict[str, Any]:
    figures = {kind: {name: _figure(figure) for name, figure in suite[kind].items()} for kind in ("sections", "subsets")}
    if ranking := suite.get("model_ranking"):
        figures["model_ranking"] = {key: _figure(value) if isinstance(value, dict) else value for key, value in ranking.items()}
    return {**suite, **figures, "overall": _figure(suite["overall"])}


def _figure(figure: dict[str, Any]) -> dict[str, Any]:
    """The probe alone may be None, where none could be fitted."""
    return {key: _number(value) if key != "probe" else value for key, value in figure.items()}


def _number(value: Any) -> Any:
    return [_number(one) for one in value] if isinstance(value, list) else np.nan if value is None else value


def _item(row: dict[str, Any]) -> Item:
    return Item(row["id"], row["subset"], row["prompt"], row["answers"], tuple(np.nan if g is None else float(g) for g in row["gold"]), row["cluster"], json.loads(row["about"]))


def names_of(saved: list[Saved]) -> list[str]:
    """Different names for different results: the scorer's, or, where two have the same, the folder."""
    names = [one.name for one in saved]
    names = [name if names.count(name) == 1 else str(one.folder) for name, one in zip(names, saved, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)]
