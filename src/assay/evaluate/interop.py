"""Results in the forms that other tools read: lm-eval, reward-bench, the hub's model card, Markdown and LaTeX."""

import itertools
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from assay import __version__
from assay.errors import AssayError, did_you_mean
from assay.evaluate.saved import Saved
from assay.evaluate.suites import RULES
from assay.evaluate.suites.pairs import right
from assay.files import write_json, write_text
from assay.pairs.schema import answer_text
from assay.tables import FIGURE_HEADS, figure_cells, figures


def lm_eval(saved: Saved, folder: Path) -> list[Path]:
    """``results_TIME.json`` and ``samples_TASK_TIME.jsonl`` as lm-evaluation-harness writes them: a task for each suite, and one for each of its subsets in a group."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    results: dict[str, dict[str, Any]] = {}
    groups, members, counts, versions, metric = {}, {}, {}, {}, {}
    taken = set(saved.results["suites"])
    for name, suite in saved.results["suites"].items():
        key = "acc" if suite["share"] else "spearman"
        results[name] = {"alias": name, **_measured(suite["overall"], key)}
        parts = dict(zip(_distinct([f"{name}_{_slug(part)}" for part in suite["subsets"]], taken), suite["subsets"].values(), strict=True)) if len(suite["subsets"]) > 1 else {}
        for task, figure in parts.items():
            results[task] = {"alias": f" - {task}", **_measured(figure, key)}
        if parts:
            groups[name] = results[name]
        members[name] = list(parts)
        for task, figure in {name: suite["overall"], **parts}.items():
            counts[task] = {"original": figure["items"], "effective": figure["items"]}
            versions[task], metric[task] = 1, {key: True}
    record = {
        "results": results,
        "groups": groups,
        "group_subtasks": members,
        "configs": {task: {"task": task, "metric_list": [{"metric": next(iter(metric[task])), "aggregation": "mean", "higher_is_better": True}], "output_type": "loglikelihood", "num_fewshot": 0} for task in results},
        "versions": versions,
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": metric,
        "n-samples": counts,
        "config": {"model": "assay", "model_args": f"scorer={saved.results['scorer']}", "batch_size": "auto", "device": None, "bootstrap_iters": 2_000},
        "git_hash": None,
        "date": datetime.now(UTC).timestamp(),
        "pretty_env_info": f"Assay {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "model_source": "assay",
        "model_name": saved.results["scorer"],
        "model_name_sanitized": _slug(saved.results["scorer"]),
    }
    paths = [folder / f"results_{stamp}.json"]
    write_json(paths[0], record)
    for name, slug in zip(saved.suites, _distinct([_slug(name) for name in saved.suites], set()), strict=True):
        paths.append(folder / f"samples_{slug}_{stamp}.jsonl")
        write_text(paths[-1], "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in _samples(saved, name)))
    return paths


def _measured(figure: dict[str, Any], key: str) -> dict[str, float | None]:
    """The value, and as its standard error a quarter of the 95% interval; null where there is none."""
    known = figure["value"] is not None
    return {f"{key},none": figure["value"], f"{key}_stderr,none": (figure["high"] - figure["low"]) / (2 * 1.959964) if known else None}


def _samples(saved: Saved, name: str) -> Iterator[dict[str, Any]]:
    """The items of a suite, each with what the suite's rule makes of it as ``acc``: null where the rule leaves it out, or where the figure is a correlation, which is of no item."""
    suite, rewards = saved.suites[name], saved.rewards[name]
    tree = RULES[suite.rule].measure(suite, rewards)
    sums, weights = np.zeros(len(suite.items)), np.zeros(len(suite.items))
    for part, weight in tree.overall.items() if tree.share else ():
        per_item = weight / max(1, len(tree.parts[part].rows))
        np.add.at(sums, tree.parts[part].rows, per_item * tree.parts[part].values)
        np.add.at(weights, tree.parts[part].rows, per_item)
    for i, item in enumerate(suite.items):
        scores = [_number(score) for score in rewards[i, : len(item.answers)]]
        acc = float(sums[i] / weights[i]) if weights[i] else None
        doc = {"id": item.id, "subset": item.subset, "prompt": item.prompt, "answers": item.answers}
        yield {"doc_id": i, "doc": doc, "target": [_number(g) for g in item.gold], "arguments": [], "resps": [[s] for s in scores], "filtered_resps": scores, "acc": acc}


def reward_bench(saved: Saved, folder: Path) -> list[Path]:
    """For every suite of two answers ``NAME.json`` and ``NAME.jsonl`` as reward-bench writes them.

    Raises:
        AssayError: no suite has two answers an item.
    """
    two = [name for name, suite in saved.suites.items() if all(len(item.answers) == 2 for item in suite.items)]
    if not two:
        raise AssayError(f"reward-bench's files are of pairs; {', '.join(saved.suites)} have items with another number of answers")
    paths = []
    for name, slug in zip(two, _distinct([_slug(name) for name in two], set()), strict=True):
        suite, rewards = saved.suites[name], saved.rewards[name]
        better = np.argmax(suite.gold, axis=1)
        rows = np.arange(len(better))
        chosen, rejected = rewards[rows, better], rewards[rows, 1 - better]
        results = right(chosen, rejected)
        extra = {part: figure["value"] for part, figure in saved.results["suites"][name]["subsets"].items()}
        paths += [folder / f"{slug}.json", folder / f"{slug}.jsonl"]
        write_json(paths[-2], {"accuracy": float(results.mean()), "num_prompts": len(results), "model": saved.results["scorer"], "ref_model": None, "tokenizer": saved.results["scorer"], "chat_template": None, "extra_results": extra})
        lines = []
        for i, item in enumerate(suite.items):
            texts = [answer_text(item.answers[j]) for j in (better[i], 1 - better[i])]
            lines.append({"prompt": "\n".join(m["content"] for m in item.prompt), "results": results[i], "scores_chosen": _number(chosen[i]), "scores_rejected": _number(rejected[i]), "text_chosen": texts[0], "text_rejected": texts[1], "subset": item.subset, "id": item.id})
        write_text(paths[-1], "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return paths


def _number(score: float) -> float | None:
    return float(score) if np.isfinite(score) else None


def model_index(saved: Saved, folder: Path) -> list[Path]:
    """``model-index.yml``: the block that the hub reads at the head of a model card."""
    results = []
    for name, suite in saved.results["suites"].items():
        kind = "accuracy" if suite["share"] else "spearmanr"
        hub = suite.get("hub", [])
        data = {"name": name, "type": hub[0][0] if len({path for path, _ in hub}) == 1 else name}
        if len(hub) == 1:
            data["split"] = hub[0][1]
        for label, figure in figures(suite):
            if figure["value"] is None:
                continue
            results.append({"task": {"type": "text-classification", "name": "Reward modelling"}, "dataset": data.copy(), "metrics": [{"type": kind, "name": f"{label.strip()} (95% interval {figure['low']:.3f} to {figure['high']:.3f})", "value": round(figure["value"], 4)}]})
    path = folder / "model-index.yml"
    write_text(path, yaml.safe_dump({"model-index": [{"name": saved.name, "results": results}]}, sort_keys=False, allow_unicode=True))
    return [path]


def markdown(saved: Saved, folder: Path) -> list[Path]:
    """``results.md``: a table for each suite."""
    lines = [f"# {_line(saved.results['scorer'])}", ""]
    for name, suite in saved.results["suites"].items():
        lines += [f"## {_line(name)}", "", "| | " + " | ".join(FIGURE_HEADS) + " |", "|---" + "|---:" * len(FIGURE_HEADS) + "|"]
        lines += [f"| {_line(label).replace('|', chr(92) + '|')} | {' | '.join(figure_cells(figure, suite['share']))} |" for label, figure in figures(suite)]
        lines += ["", *(f"- {warning}" for warning in suite["warnings"]), ""]
    path = folder / "results.md"
    write_text(path, "\n".join(lines).rstrip() + "\n")
    return [path]


def latex(saved: Saved, folder: Path) -> list[Path]:
    """``results.tex``: a booktabs table for each suite."""
    lines = []
    for name, suite in saved.results["suites"].items():
        lines += [r"\begin{tabular}{l" + "r" * len(FIGURE_HEADS) + "}", r"\toprule", " & ".join(["", *FIGURE_HEADS]).replace("%", r"\%") + r" \\", r"\midrule"]
        lines += [" & ".join(_tex(cell) for cell in (_line(label), *figure_cells(figure, suite["share"]))) + r" \\" for label, figure in figures(suite)]
        lines += [r"\bottomrule", r"\end{tabular}", f"% {_line(name)}: {_line(saved.results['scorer'])}", ""]
    path = folder / "results.tex"
    write_text(path, "\n".join(lines))
    return [path]


def _line(text: str) -> str:
    return " ".join(text.split())


def _tex(text: str) -> str:
    named = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", **{c: "\\" + c for c in "&%$#_{}"}}
    return "".join(named.get(c, c) for c in text).replace(" - ", "--")


def _distinct(names: Sequence[str], taken: set[str]) -> list[str]:
    """The names, with a number behind those that are in ``taken``, to which they are added."""
    found = []
    for name in names:
        found.append(next(one for one in itertools.chain([name], (f"{name}-{k}" for k in itertools.count(2))) if one not in taken))
        taken.add(found[-1])
    return found


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in text)


FORMS: dict[str, Callable[[Saved, Path], list[Path]]] = {"lm-eval": lm_eval, "reward-bench": reward_bench, "model-index": model_index, "markdown": markdown, "latex": latex}


def write_as(saved: Saved, form: str, folder: Path) -> list[Path]:
    """Write results in one of FORMS; the files.

    Raises:
        AssayError: there is no such form.
    """
    if form not in FORMS:
        raise AssayError(f"no form `{form}`.{did_you_mean(form, FORMS)} Forms: {', '.join(FORMS)}")
    return FORMS[form](saved, folder)
