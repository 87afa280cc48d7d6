"""From what a person asks for to a suite: a known name, a file of pairs, or a description of five lines."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from assay.errors import AssayError, did_you_mean
from assay.evaluate.suite import Item, Suite
from assay.evaluate.suites import PUBLISHED, RULES, pairs
from assay.evaluate.suites.raw import Later
from assay.pairs import sources
from assay.pairs.messages import Aside
from assay.pairs.read import read, renamed
from assay.pairs.schema import prompt_id

LONGEST_RAW = 500


class Description(BaseModel):
    """A suite of your own: a YAML file whose name is given to `--suite`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """What it is called in the results."""
    data: str
    """A file, a folder or a hub id; a path is looked for beside the description."""
    rule: str = "pairs"
    """By what it is measured, see `assay explain suites`."""
    split: str = "test"
    """Split of a hub data set."""
    columns: dict[str, str] = {}
    """Columns to rename first, `{theirs: ours}`."""
    subset: str | None = None
    """The column that names the subsets; by default `subset`."""


def load_suite(spec: str, data_root: Path | None = None) -> Suite:
    """The suite that ``spec`` names.

    Args:
        spec: a published suite by name (``rewardbench``, ``rewardbench2``, ``rm-bench``, ``judgebench``, ``ppe-preference``, ``ppe-correctness``), which is read from the hub; ``RULE=PATH``, a
            local copy or look-alike measured by that rule (also ``rmb``, ``steps``, ``ratings``, ``best-of-n``); a file, folder or hub id of pairs; ``NAME=PATH`` to give it a name,
            ``NAME:RULE=PATH`` to say both; or a ``.yaml`` file, see ``Description``.
        data_root: a folder with copies of hub data sets.

    Raises:
        AssayError: it cannot be read, or holds no item.
    """
    name, _, path = spec.partition("=") if "=" in spec and not Path(spec).exists() else ("", "", spec)
    if path.endswith((".yaml", ".yml")):
        return _described(Path(path), name, data_root)
    if not name and path in PUBLISHED:
        return _suite(path, path, PUBLISHED[path], data_root)
    if not name and path == "rmb":
        raise AssayError("rmb: RMB is published in its repository, not on the hub; give the folder with its files, rmb=PATH")
    if not name and not any(sign in path for sign in "/\\.") and not Path(path).exists():
        raise AssayError(f"{path}: no such file, and not a published suite.{did_you_mean(path, PUBLISHED)} Published: {', '.join(PUBLISHED)}")
    given, colon, rule = name.rpartition(":")
    if colon and rule not in RULES:
        raise AssayError(f"{spec}: there is no rule `{rule}`.{did_you_mean(rule, RULES)} Rules: {', '.join(RULES)}")
    name, rule = (given, rule) if colon else (name, name if name in RULES else "pairs")
    published = tuple(data for data in PUBLISHED.get(rule, ()) if data[0] == path and not Path(path).exists())
    return _suite(name or Path(path).name.split(".")[0], rule, published or ((path, "filtered" if rule == "rewardbench" else "test"),), data_root)


def load_groups(source: str, gold: str | None = None, split: str = "test", data_root: Path | None = None) -> Suite:
    """Answers with gold values, for best of n; ``gold`` is the column that has them.

    Raises:
        AssayError: it cannot be read, or holds no group.
    """
    columns = {gold: "gold"} if gold and gold != "gold" else None
    return _suite(Path(source).name.split(".")[0], "best-of-n", ((source, split),), data_root, columns)


def _described(path: Path, name: str, data_root: Path | None) -> Suite:
    try:
        said = Description.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise AssayError(f"{path}: no such file") from None
    except OSError as error:
        raise AssayError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AssayError(f"{path}: not readable as YAML ({str(error).splitlines()[0]})") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "the file"
        raise AssayError(f"{path}, {key}: {first['msg']}.{did_you_mean(key, Description.model_fields)} A description of a suite has {', '.join(Description.model_fields)}") from None
    if said.rule not in RULES:
        raise AssayError(f"{path}, rule: there is no `{said.rule}`.{did_you_mean(said.rule, RULES)} Rules: {', '.join(RULES)}")
    data = str(path.parent / said.data) if (path.parent / said.data).exists() else said.data
    columns = {**said.columns, **({said.subset: "subset"} if said.subset else {})}
    return _suite(name or said.name, said.rule, ((data, said.split),), data_root, columns)


def _suite(name: str, rule: str, data: Sequence[tuple[str, str]], data_root: Path | None, columns: dict[str, str] | None = None) -> Suite:
    found: list[Item] = []
    aside: list[dict[str, Any]] = []
    for path, split in data:
        items, left = _pairs(path, split, data_root, columns) if RULES[rule].items is None else _rows(rule, path, split, data_root, columns)
        found += [_of_split(item, split) for item in items] if len({split for _, split in data}) > 1 else items
        aside += left
    if not found:
        first = f"; the first: {aside[0]['reason']}" if aside else ""
        raise AssayError(f"{name}: no item could be read{first}. What the rule `{rule}` reads: `assay explain {'solution-steps' if rule == 'steps' else rule}`")
    suite = Suite(name, rule, found, aside, hub=[(path, split) for path, split in data if sources.is_hub_id(path) and not Path(path).exists()])
    suite.warnings += RULES[rule].warnings(suite)
    return suite


def _of_split(item: Item, split: str) -> Item:
    """An item that says which split it is of, where a suite reads several."""
    return replace(item, subset=f"{split}, {item.subset}", about={**item.about, "split": split})


def _pairs(path: str, split: str, data_root: Path | None, columns: dict[str, str] | None) -> tuple[list[Item], list[dict[str, Any]]]:
    reading = read(path, split=split, data_root=data_root, columns=columns)
    return _of_pairs(reading.pairs), reading.aside


def suite_of(name: str, table: pl.DataFrame) -> Suite:
    """A suite of a table of pairs, each pair the same; its subsets are the column ``subset`` or, where that is empty, ``source``."""
    return Suite(name, "pairs", _of_pairs(table))


def _of_pairs(table: pl.DataFrame) -> list[Item]:
    named = table.with_columns(subset=pl.coalesce("subset", "source").fill_null("all"))
    rows = named.select("id", "subset", "prompt", "chosen", "rejected").iter_rows(named=True)
    return [pairs.item({**row, "prompt_id": prompt_id(row["prompt"])}) for row in rows]


def _rows(rule: str, path: str, split: str, data_root: Path | None, columns: dict[str, str] | None) -> tuple[list[Item], list[dict[str, Any]]]:
    read_items, keeps = RULES[rule].items, rule == "rm-bench"
    assert read_items is not None
    at: list[sources.RawRow] = []
    places: dict[int, sources.RawRow] = {}
    aside: list[dict[str, Any]] = []

    def values() -> Iterator[dict[str, Any]]:
        for row in renamed(sources.rows(path, split=split, data_root=data_root), columns or {}):
            at[:] = [row]
            if keeps:
                places[id(row.value)] = row
            if row.value is None:
                aside.append(_aside(row, row.reason or "unreadable"))
            else:
                yield {**row.value, "benchmark": row.value.get("benchmark") or _set_of(path)} if rule == "ppe-correctness" else row.value

    items = []
    for item in read_items(values()):
        if isinstance(item, Aside):
            aside.append(_aside(places[id(item.row)] if isinstance(item, Later) else at[0], str(item)))
        else:
            items.append(item)
    return items, aside


def _aside(row: sources.RawRow, reason: str) -> dict[str, Any]:
    return {"file": row.file, "row": row.number, "reason": reason, "raw": str(row.raw or row.value)[:LONGEST_RAW]}


def _set_of(path: str) -> str:
    """The name of a PPE set in the name of its data."""
    return Path(path).name.split(".")[0].removeprefix("PPE-").removesuffix("-Best-of-K")
