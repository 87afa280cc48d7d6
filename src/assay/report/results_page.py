"""The pages of an evaluation: the results of one scorer, several scorers side by side, and best of n."""

import math
from importlib import resources
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import yaml

from assay import __version__
from assay.evaluate.baselines import lengths
from assay.evaluate.intervals import Floats, wilson
from assay.evaluate.saved import Saved, load_results
from assay.evaluate.suite import Suite
from assay.files import write_text
from assay.pairs.schema import answer_text
from assay.report import plots
from assay.report.report import templates
from assay.tables import apart, best_first, correlation, doubts, figures, p_value, percent

WORST = 10
EXCERPT = 900
LENGTH_BINS = ((-np.inf, -1.0), (-1.0, -0.3), (-0.3, 0.3), (0.3, 1.0), (1.0, np.inf))
"""Differences of the logarithm of length, better less worse: factors of 2.7 and 1.35."""
LENGTH_NAMES = ("much shorter", "shorter", "about equal", "longer", "much longer")


def write_results_page(folder: Path) -> Path:
    """Write ``results.html`` beside the results of an evaluation: one file, no other needed to look at it."""
    saved = load_results(folder)
    suites = [_suite(saved, name) for name in saved.suites]
    page = _page("results.html.j2", saved=saved, suites=suites, version=__version__)
    write_text(folder / "results.html", page)
    return folder / "results.html"


def write_comparison_page(compared: dict[str, Any], path: Path) -> Path:
    """Write the page of ``assay.evaluate.compare.compare``'s result."""
    suites = [{"name": name, **suite, "against_first": _readable(suite["against_first"]), "leaderboard": _leaderboard(suite), "rows": _side_by_side(suite)} for name, suite in compared["suites"].items()]
    write_text(path, _page("comparison.html.j2", names=compared["names"], suites=suites, left_out=compared["left_out"], version=__version__))
    return path


def write_best_of_n_page(found: dict[str, Any], scorer: str, path: Path) -> Path:
    """Write the page of ``assay.evaluate.best_of_n.best_of_n``'s result."""
    order = [name for name in ("scorer", "random answer", "longest answer", "self-consistency", "weighted voting", "oracle") if name in found["curves"]]
    share = all(0 <= point["value"] <= 1 for point in found["curves"]["scorer"])
    drawn = [plots.banded("Gold value of the chosen answer", [(name, found["n"], found["curves"][name]) for name in order], "answers to choose from", percent=share, log=True)]
    drawn.append(plots.banded("Proxy against gold", [("gold", found["kl"], _scaled(found["curves"]["scorer"])), ("proxy (the reward)", found["kl"], _scaled(found["curves"]["proxy"]))], "KL from the policy, nats"))
    write_text(path, _page("best_of_n.html.j2", found=found, order=order, scorer=scorer, share=share, plots=[markupsafe.Markup(p) for p in drawn], version=__version__))
    return path


def _scaled(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """A curve moved to begin at 0 and to rise by 1 at most, so that two of different units can be laid over each other."""
    start = points[0]["value"]
    size = max(abs(p["value"] - start) for p in points) or 1.0
    return [{key: (p[key] - start) / size for key in ("value", "low", "high")} for p in points]


def _page(name: str, **values: Any) -> str:
    environment = templates()
    environment.filters.update(figure=lambda value, share=True: percent(value) if share else correlation(value), side=_placed, apart=apart, p=p_value)
    return environment.get_template(name).render(**values)


def _placed(value: float, share: bool = True) -> float:
    """Where a figure lies between the ends of its scale, 0 to 1; NaN for none."""
    return value if value != value else min(1.0, max(0.0, value if share else (value + 1) / 2))


def _suite(saved: Saved, name: str) -> dict[str, Any]:
    """What the page shows of a suite."""
    suite, rewards, result = saved.suites[name], saved.rewards[name], saved.results["suites"][name]
    rows = [{"label": label.strip(), "indent": label.startswith(" "), "figure": figure} for label, figure in figures(result)]
    computed = [f"scores computed in {precision}"] if (precision := saved.results.get("precision")) else []
    return {"name": name, "result": result, "rows": rows, "doubts": [*doubts(result), *computed], "plots": [markupsafe.Markup(svg) for svg in _plots(suite, rewards, result)], "worst": _worst(suite, rewards), **_references(result)}


def _references(result: dict[str, Any]) -> dict[str, Any]:
    """Published figures for the rule of a suite: the columns that are measured here too, and rows as shares."""
    every = yaml.safe_load((resources.files("assay.evaluate") / "reference.yaml").read_text(encoding="utf-8"))
    for table in every:
        if table["rule"] == result["rule"]:
            known = {"overall", *result["sections"], *result["subsets"]}
            places = [i for i, column in enumerate(table["columns"]) if column in known]
            if not places:
                break
            rows = {model: [values[i] / 100 if i < len(values) else None for i in places] for model, values in table["rows"].items()}
            return {"reference": {"columns": [table["columns"][i] for i in places], "rows": rows, "source": table["source"]}}
    return {"reference": None}


def _plots(suite: Suite, rewards: Floats, result: dict[str, Any]) -> list[str]:
    item, better, worse = suite.comparisons()
    if not len(item) or not np.isfinite(rewards).any():
        return []
    margin = rewards[item, better] - rewards[item, worse]
    right, wrong = suite.gold == np.nanmax(suite.gold, axis=1, keepdims=True), suite.gold == np.nanmin(suite.gold, axis=1, keepdims=True)
    found = [plots.histograms("Scores", [("better answers", _finite(rewards[right])), ("worse answers", _finite(rewards[wrong]))], "score")]
    if result["calibration"]:
        found.append(plots.reliability("Is the margin a probability?", result["calibration"]["reliability"]))
        buckets = result["calibration"]["by_margin"]
        found.append(plots.columns("Accuracy by size of the margin", [(f"{b['to']:.2g}", b["accuracy"], *wilson(b["accuracy"] * b["comparisons"], b["comparisons"])) for b in buckets], "margin up to", 0.5))
    found.append(plots.columns("Accuracy against length", _by_length(suite, item, better, worse, margin), "the better answer is", 0.5))
    return found


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _by_length(suite: Suite, item: Any, better: Any, worse: Any, margin: Floats) -> list[tuple[str, float, float, float]]:
    size = np.log1p(lengths(suite))
    difference = size[item, better] - size[item, worse]
    bars = []
    for name, (low, high) in zip(LENGTH_NAMES, LENGTH_BINS, strict=True):
        mine = (difference > low) & (difference <= high)
        if mine.any():
            share = float((margin[mine] > 0).mean())
            bars.append((f"{name}\n{mine.sum():,}", share, *wilson(share * mine.sum(), float(mine.sum()))))
    return bars


def _worst(suite: Suite, rewards: Floats) -> list[dict[str, Any]]:
    """The items in which a worse answer lies farthest above a better one."""
    item, better, worse = suite.comparisons()
    margin = rewards[item, better] - rewards[item, worse]
    shown: dict[int, dict[str, Any]] = {}
    for k in np.argsort(np.where(np.isnan(margin), np.inf, margin), kind="stable"):
        i = int(item[k])
        if len(shown) == WORST or not margin[k] < 0:
            break
        if i not in shown:
            one = suite.items[i]
            sides = [{"label": label, "score": float(rewards[i, j]), "text": _short(answer_text(one.answers[j]))} for label, j in (("better by the label", better[k]), ("scored higher", worse[k]))]
            shown[i] = {"id": one.id, "subset": one.subset, "margin": float(margin[k]), "prompt": _short("\n".join(m["content"] for m in one.prompt)), "sides": sides}
    return list(shown.values())


def _short(text: str) -> str:
    return text if len(text) <= EXCERPT else text[:EXCERPT] + " ..."


def _leaderboard(suite: dict[str, Any]) -> dict[str, Any]:
    """All scorers of a suite and the published models, the best in the first column first: a row has a figure, or a published number, for each column."""
    first = next(iter(suite["figures"].values()))
    published = _references(first)["reference"] or {"columns": ["overall", *first["sections"]], "rows": {}, "source": None}
    columns = published["columns"]
    rows = []
    for name, result in suite["figures"].items():
        every = {**result["subsets"], **result["sections"], "overall": result["overall"]}
        rows.append({"name": name, "measured": True, "figures": [every.get(column) for column in columns]})
    rows += [{"name": name, "measured": False, "figures": [None if v is None else {"value": v} for v in values]} for name, values in published["rows"].items()]
    return {"columns": columns, "rows": sorted(rows, key=lambda row: best_first(row["figures"][0]["value"] if row["figures"][0] else math.nan)), "source": published["source"]}


def _side_by_side(suite: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of all scorers in rows, with the test of each against the first."""
    every = {name: dict(figures(result)) for name, result in suite["figures"].items()}
    first = next(iter(every.values()))
    rows = []
    for label in first:
        tests = [against["tests"].get(label.strip()) for against in suite["against_first"].values()]
        rows.append({"label": label.strip(), "indent": label.startswith(" "), "figures": [one.get(label) for one in every.values()], "tests": tests})
    return rows


def _readable(against: dict[str, Any]) -> dict[str, Any]:
    """The items that changed, cut to be read."""
    return {name: {**one, "changed": {direction: [_cut(item) for item in items] for direction, items in one["changed"].items()}} for name, one in against.items()}


def _cut(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "prompt": _short("\n".join(m["content"] for m in item["prompt"])), "answers": [_short(answer_text(item["answers"][j])) for j in item["decided"]]}
