"""What the command line prints: tables and short texts on stdout."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.table import Table

from assay.remote import as_given
from assay.screen import stdout

if TYPE_CHECKING:
    from assay.curate.ledger import Why
    from assay.curate.selftest import Recall
    from assay.demo.demo import Found
    from assay.model.doctor import Finding
    from assay.pairs.read import Reading
    from assay.pipeline import Run


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash for none."""
    return "-" if value is None or value != value else f"{100 * value:.{digits}f}%"


def say(text: str = "") -> None:
    """A line on stdout, never wrapped or coloured."""
    print(as_given(text))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def show_reading(readings: Sequence["Reading"], pairs: int, output: Path, aside: Path) -> None:
    """What was read, in which format, and what was set aside."""
    for reading in readings:
        for file, format in reading.formats.items():
            say(f"{file}: {format}")
    read, used = sum(r.rows_read for r in readings), sum(r.rows_used for r in readings)
    say(f"{read:,} rows read = {used:,} used + {read - used:,} set aside; {pairs:,} pairs in {output}")
    reasons: dict[str, int] = {}
    for reading in readings:
        for reason, count in reading.reasons().items():
            reasons[reason] = reasons.get(reason, 0) + count
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:10]:
        say(f"  {count:,} x {reason}")
    if reasons:
        say(f"rows set aside, with their reasons: {aside}")


def show_curation(manifest: dict[str, Any], folder: Path) -> None:
    """A table a step, and the sum."""
    for account in manifest["accounts"]:
        show_account(account)
    say(f"{manifest['read']:,} pairs read = {manifest['kept']:,} kept + {manifest['dropped']:,} dropped")
    say(f"rows near a threshold: assay borderline {folder}")
    if manifest.get("dry_run"):
        say("a dry run: no curated set was written; the same command without --dry-run takes the verdicts from here")
        return
    say(f"curated set: {folder / 'kept.parquet'}; why a row went: assay why {folder} ID")


def show_account(account: dict[str, Any]) -> None:
    """What one step cost, by source, and what it changed."""
    before, after = account["before"], account["after"]
    table = _table(f"{account['step']}: {before['rows']:,} in, {account['dropped']:,} dropped, {after['rows']:,} stay", "source", "dropped", "stay")
    for source in sorted(set(account["kept_by_source"]) | set(account["dropped_by_source"])):
        table.add_row(source, f"{account['dropped_by_source'].get(source, 0):,}", f"{account['kept_by_source'].get(source, 0):,}")
    stdout.print(table)
    if account["dropped_by_category"] and list(account["dropped_by_category"]) != ["(none)"]:
        say("  dropped by category: " + ", ".join(f"{c} {n:,}" for c, n in account["dropped_by_category"].items()))
    if before["rows"] and after["rows"]:
        say(f"  chosen is the longer: {percent(before['chosen_longer'])} before, {percent(after['chosen_longer'])} after")
    for line in note_lines(account["notes"]):
        say(f"  {line}")
    say()


def note_lines(notes: dict[str, Any]) -> list[str]:
    """What a step has to tell beside its verdicts, a line each."""
    lines = []
    if "caught_at_jaccard" in notes:
        curve = ", ".join(f"{j}: {100 * p:.0f}%" for j, p in notes["caught_at_jaccard"].items())
        lines.append(f"{notes['bands']} bands of {notes['rows_a_band']}; chance to become a candidate by Jaccard similarity {curve}; {notes.get('candidates', 0):,} candidates checked")
    if "references" in notes:
        lines.append("looked for: " + ", ".join(f"{name} {count:,} prompts" for name, count in notes["references"]["prompts"].items()))
    if notes.get("rows on cycles"):
        lines.append(f"{notes['rows on cycles']:,} rows on cycles (A over B, B over C, C over A); the verdicts name them")
    if notes.get("only marked"):
        lines.append(f"{notes['only marked']:,} rows are only marked and stay")
    lines += notes.get("names nobody has", [])
    for source, noise in notes.get("noise", {}).items():
        low, high = noise["interval"]
        lines.append(f"{source}: {percent(noise['ranked_wrong'])} ranked wrong; estimated wrong labels {percent(noise['noise'])} ({percent(low)} to {percent(high)})")
    for source, margin in notes.get("margins", {}).items():
        lines.append(f"{source}: " + ("the judge is nowhere more often right than the labels, so all its rows stay" if margin is None else f"rows go from a margin of {margin:+.2f}, where the judge is more often right than the labels"))
    for source, found in notes.get("annotators_differ", {}).items():
        lines.append(f"{source}: annotators not of one mind on {percent(found['not_of_one_mind'])} of {found['rows']:,} rows")
    for source, probed in notes.items():
        if isinstance(probed, dict) and "told" in probed:
            low, high = probed["interval"]
            lines.append(f"{source}: {percent(probed['told'])} ({percent(low)} to {percent(high)}) of labels told without reading, {percent(probed['length'])} by length alone")
            lines += [f"  {tell['name']}: in {tell['side']}, {percent(tell['purity'])} of {tell['rows']:,} rows; for example {tell['examples'][0]}" for tell in probed["tells"][:3]]
    return lines


def show_why(found: Sequence["Why"]) -> None:
    """A row's path, its texts and its twins."""
    for why in found:
        row = why.row
        say(f"{row['id']}  (source {row['source']}, category {row['category'] or '-'})")
        say(f"  {why.outcome if why.outcome.startswith('kept') else f'dropped by {why.outcome}'}" + (f", now {why.now_id}" if why.now_id else ""))
        for verdict in why.path:
            say("  " + _verdict_line(verdict))
        _show_texts(row)
        for twin in why.twins.values():
            say(f"\n  named above: {twin['id']}")
            _show_texts(twin)
        for name, text in why.benchmark_prompts.items():
            say(f"\n  named above: {name}\n    {textwrap.shorten(text, 600, placeholder=' ...')}")


def show_self_test(found: Sequence["Recall"]) -> None:
    """Recall by kind of planting, and false alarms."""
    table = _table("Benchmark prompts planted in your rows, and what the decontamination did", "planted", "rows", "dropped", "share", "95% interval", "only marked")
    for r in found:
        low, high = r.interval
        table.add_row("nothing: rows as they are" if r.kind == "as they are" else r.kind, f"{r.planted:,}", f"{r.dropped:,}", percent(r.dropped / r.planted if r.planted else None), f"{percent(low)} to {percent(high)}", f"{r.marked:,}")
    stdout.print(table)


def show_audit(audit: dict[str, Any], page: Path) -> None:
    """A verdict for each source."""
    short = {"exact duplicates": "exact", "near duplicates": "near", "prompts that say the same": "meaning", "contradictions": "contrary", "shortcuts": "artefact", "contamination": "bench"}
    table = _table(f"{audit['rows']:,} pairs, {len(audit['sources'])} sources", "source", "pairs", *(short.get(d, d) for d in audit["looked_for"]), "told", "longer")
    for name, source in audit["sources"].items():
        hits = [f"{source['hits'][d]:,}" if source["hits"][d] else "-" for d in audit["looked_for"]]
        told = percent(source["shortcut"]["told"], 0) if source["shortcut"] else "-"
        table.add_row(name, f"{source['rows']:,}", *hits, told, percent(source["length"]["chosen_longer"], 0))
    stdout.print(table)
    for name, source in audit["sources"].items():
        say(f"{name}: {source['verdict']}" + "".join(f"\n  {problem}" for problem in source["problems"]))
    if audit["not_looked_for"]:
        say(f"not looked for: {', '.join(audit['not_looked_for'])} (see `assay audit --help`)")
    say(f"page: {page}")


def show_borderline(table: pl.DataFrame) -> None:
    """The rows nearest to each step's threshold."""
    for (step,), part in table.group_by("step", maintain_order=True):
        say(f"{step}")
        for row in part.iter_rows(named=True):
            say(f"  {'stays' if row['keep'] else 'goes '}  {row['id']}  {row['reason']}{', because of ' + row['because_of'] if row['because_of'] else ''}")
    if table.height == 0:
        say("no step of this curation has a threshold")


def _verdict_line(verdict: dict[str, Any]) -> str:
    if not verdict["judged"]:
        return f"{verdict['step']}: nothing to say"
    word = "goes" if not verdict["keep"] else "flipped" if verdict["flip"] else "trimmed" if verdict["trim"] else "stays"
    line = f"{verdict['step']}: {word}: {verdict['reason']}"
    if verdict["score"] is not None:
        line += f" (score {verdict['score']:.4g})"
    return line + (f", because of {verdict['because_of']}" if verdict["because_of"] else "")


def _show_texts(row: dict[str, Any]) -> None:
    for what in ("prompt", "chosen", "rejected"):
        for message in row[what]:
            text = textwrap.shorten(message["content"], 300, placeholder=" ...")
            say(f"    {what} ({message['role']}): {text}")


def show_diff(table: pl.DataFrame, a: Path, b: Path, rows: int) -> None:
    """How many rows differ, by where they ended, and some of them."""
    counted = table.group_by("in_a", "in_b").len().sort("len", descending=True)
    shown = _table(f"{table.height:,} rows differ", f"in {a}", f"in {b}", "rows")
    for in_a, in_b, count in counted.iter_rows():
        shown.add_row(in_a, in_b, f"{count:,}")
    stdout.print(shown)
    for row in table.head(rows).iter_rows(named=True):
        say(f"  {row['id']}  {row['source']}: {row['in_a']} | {row['in_b']}  {row['reason'] or ''}")


def show_training(manifest: dict[str, Any], checkpoint: Path) -> None:
    """What was trained on, and how it ended."""
    what = "rated answers" if manifest["config"]["attributes"] else "pairs"
    say(f"trained on {manifest['pairs']:,} {what} for {manifest['steps']:,} steps in {manifest['precision']}; {manifest['truncated_pairs']:,} were longer than the model reads")
    for name, value in manifest.get("ratings", {}).items():
        if name != "loss":
            low, high = manifest.get("ratings_intervals", {}).get(name.removeprefix("r2_"), (value, value))
            say(f"  {name.removeprefix('r2_')}: {percent(value)} of its variance explained on held-out answers ({percent(low)} to {percent(high)})")
    if manifest.get("accuracy") is not None:
        of = "the pairs of" if manifest.get("ratings") else ""
        say(f"accuracy on {of} {manifest['held_out']:,} held-out {what}: {percent(manifest['accuracy'])}".replace("  ", " "))
    say(f"checkpoint: {checkpoint}")


def show_soup(about: dict[str, Any], checkpoint: Path) -> None:
    """What is in a soup, and why."""
    if about["greedy"]:
        table = _table("greedy soup", "checkpoint", "alone", "loss", "soup with it", "loss", "")
        for d in about["greedy"]:
            table.add_row(d["checkpoint"], percent(d["accuracy"]), f"{d['loss']:.4f}", percent(d["accuracy_with"]), f"{d['loss_with']:.4f}", "taken" if d["taken"] else "left out")
        stdout.print(table)
    say(f"the mean of {len(about['soup'])}: {', '.join(about['soup'])}" + (f"; {about['scale']:g} times as far from {about['start']}" if about["start"] else ""))
    if "accuracy_on_choosing_pairs" in about:
        say(f"accuracy on the pairs that chose: {percent(about['accuracy_on_choosing_pairs'])} (optimistic)")
    say(f"checkpoint: {checkpoint}")


def show_plan(plan: dict[str, Any]) -> None:
    """What a training would take."""
    say(f"{plan['rows']:,} rows to train on, {plan['held_out']:,} held out, {plan['truncated']:,} longer than the model reads; {plan['steps']:,} steps of {plan['batch_size']}")
    say(f"layout {plan['layout']}: {plan['tokens']:,} tokens an epoch of {plan['tokens_apart']:,} if each answer had its own prompt; {percent(plan['padding'])} padding in what is computed")
    say(f"{plan['parameters']:,} weights, {plan['trained']:,} of them trained, in {plan['precision']} on {plan['device']}")
    say(f"memory: about {plan['gigabytes']:.1f} GB, of which {plan['gigabytes_kept']:.1f} GB are the program, weights, gradients and optimiser, whatever the batch; train.tokens_per_batch sets the rest")


def show_results(results: dict[str, Any], output: Path | None) -> None:
    """A table a suite: every figure with its interval, and the baselines; what a reader must know below it."""
    for name, suite in results["suites"].items():
        table = _table(f"{name}: {results['scorer']}", "", *FIGURE_HEADS)
        for label, figure in figures(suite):
            table.add_row(label, *figure_cells(figure, suite["share"]))
        stdout.print(table)
        for line in doubts(suite):
            say(f"  {line}")
        for warning in suite["warnings"]:
            say(f"  NOTE: {warning}")
        say()
    if precision := results.get("precision"):
        say(f"scores computed in {precision}")
    if usage := results.get("usage"):
        say(used(usage))
    if output:
        say(f"results: {output / 'results.html'}, {output / 'results.json'}; every item: {output / 'items.parquet'}")


def used(usage: dict[str, float]) -> str:
    """What judges have used, as text."""
    cost = f", cost {usage['cost']:.4f}" if "cost" in usage else ""
    return f"the judge answered {usage['requests']:,.0f} requests: {usage['prompt_tokens']:,.0f} tokens of prompt, {usage['completion_tokens']:,.0f} of completion{cost}"


def figures(suite: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The figures of a suite in the order they are shown: overall, sections, subsets."""
    rows = [("overall", suite["overall"]), *suite["sections"].items()]
    if len(suite["subsets"]) > 1:
        rows += [(f"  {name}", figure) for name, figure in suite["subsets"].items()]
    return rows


def best_first(value: float) -> float:
    """A key to sort by: the highest first, what is no number last."""
    return -value if value == value else math.inf


def p_value(p: float) -> str:
    """A p as text."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def correlation(value: float) -> str:
    """A correlation as text, with its sign; a dash for none."""
    return "-" if value != value else f"{value:+.2f}"


def apart(difference: float, share: bool) -> str:
    """A difference as text: in percentage points, or of correlations; a dash for none."""
    return f"{100 * difference:+.1f}" if share and difference == difference else correlation(difference)


FIGURE_HEADS = ("value", "95% interval", "longer answer", "surface probe", "lots", "items", "ties")


def figure_cells(figure: dict[str, Any], share: bool = True) -> list[str]:
    """One figure as table cells: FIGURE_HEADS. A share is shown in percent, a correlation as a number."""
    show = percent if share else correlation

    def between(low: float, high: float) -> str:
        return "-" if low != low or high != high else f"{show(low)} {'-' if share else 'to'} {show(high)}"

    return [
        show(figure["value"]),
        between(figure["low"], figure["high"]),
        show(figure["length"]),
        "-" if figure["probe"] is None else show(figure["probe"]),
        between(*figure["random"]),
        f"{figure['items']:,}",
        f"{figure['ties']:,}",
    ]


def doubts(suite: dict[str, Any]) -> list[str]:
    """In sentences: what the scores lean on, and how well their margin is a probability."""
    lines, lean, calibration = [], suite["lean"], suite["calibration"]
    if lean and lean["length_controlled"]:
        c = lean["length_controlled"]
        line = f"length-controlled {percent(c['value'])} ({percent(c['low'])} - {percent(c['high'])})"
        if lean["style_controlled"]:
            s = lean["style_controlled"]
            line += f", style-controlled {percent(s['value'])} ({percent(s['low'])} - {percent(s['high'])})"
        lines.append(line)
    found = [f"{name} {lean[name]['value']:+.2f}" for name in ("length", "markdown", "refusal") if lean and lean[name]]
    if found:
        lines.append(f"rank correlation of the score with {', '.join(found)}")
    if calibration:
        lines.append(f"sigmoid(margin / {calibration['temperature']:.3g}): calibration error {calibration['ece']:.3f}, Brier score {calibration['brier']:.3f}" + (" (temperature fitted here, on the other half)" if calibration["fitted_here"] else ""))
    if ranking := suite.get("model_ranking"):
        agreement = ", ".join(f"{name.capitalize()} {correlation(f['value'])} ({correlation(f['low'])} - {correlation(f['high'])})" for name in ("spearman", "kendall") for f in [ranking[name]])
        lines.append(f"ranking of {ranking['models']} models by its choices against that by {ranking['votes']:,} votes: {agreement}")
    lines.append(f"{suite['truncated']:,} items with a text longer than the scorer reads, {suite['rows_aside']:,} rows could not be used")
    return lines


def show_comparison(found: dict[str, Any], output: Path | None) -> None:
    """Of more than two scorers a table a suite, the best first; then one a suite and scorer: its figures beside the first scorer's, and the tests."""
    first = found["names"][0]
    for name, suite in found["suites"].items():
        if len(found["names"]) > 2:
            show = percent if suite["figures"][first]["share"] else correlation
            sections = list(suite["figures"][first]["sections"])
            table = _table(f"{name}: {len(found['names'])} scorers", "", "overall", "95% interval", *sections)
            for one, result in sorted(suite["figures"].items(), key=lambda one: best_first(one[1]["overall"]["value"])):
                overall = result["overall"]
                table.add_row(one, show(overall["value"]), f"{show(overall['low'])} to {show(overall['high'])}", *(show(result["sections"][s]["value"]) if s in result["sections"] else "-" for s in sections))
            stdout.print(table)
        for other, against in suite["against_first"].items():
            share = suite["figures"][first]["share"]
            table = _table(f"{name}: {against['items']:,} items", "", first, other, "difference", "95% interval", "gained", "lost", "p", "p, corrected")
            before, after = (dict(figures(suite["figures"][n])) for n in (first, other))
            for label, figure in before.items():
                test = against["tests"].get(label.strip())
                if test and label in after:
                    show = percent if share else correlation
                    table.add_row(label, show(figure["value"]), show(after[label]["value"]), apart(test["difference"], share), f"{apart(test['low'], share)} to {apart(test['high'], share)}", str(test["gained"]), str(test["lost"]), p_value(test["p"]), p_value(test["holm"]))
            stdout.print(table)
        for other, count in suite["not_in_all"].items():
            say(f"  {count:,} items of {other} are not in all results, so left out; all figures are of the items that are")
    if found["left_out"]:
        say(f"not in all results, so left out: {', '.join(found['left_out'])}")
    if output:
        say(f"comparison: {output / 'comparison.html'}, with the items that changed")


def show_best_of_n(found: dict[str, Any], output: Path | None) -> None:
    """The curves as a table, a row an n."""
    names = [name for name in found["curves"] if name != "proxy"]
    table = _table(f"{found['suite']}: {found['scorer']}, {found['prompts']:,} prompts", "n", "KL", *names)
    for k, n in enumerate(found["n"]):
        cells = [found["curves"][name][k] for name in names]
        table.add_row(str(n), f"{found['kl'][k]:.2f}", *(f"{c['value']:.3f} ({c['low']:.3f} - {c['high']:.3f})" for c in cells))
    stdout.print(table)
    say(f"  the gold value is highest at n = {found['peak']}; " + (f"from n = {found['over_optimised']} on it is lower beyond doubt: the scorer is over-optimised" if found["over_optimised"] else "it falls nowhere beyond doubt"))
    for key, words in (("left_out", "prompts with fewer answers are left out"), ("without_score", "answers have no score and are never chosen")):
        if found[key]:
            say(f"  {found[key]:,} {words}")
    if output:
        say(f"curves: {output / 'best_of_n.html'}")


def show_run(run: "Run", report: Path) -> None:
    """The end of a run in one short table."""
    curation = run.curation
    say(f"{run.reading['rows_read']:,} rows read = {run.reading['rows_used']:,} used + {run.reading['rows_aside']:,} set aside")
    say(f"{curation['read']:,} pairs = {curation['kept']:,} kept + {curation['dropped']:,} dropped")
    for suite in next(iter(run.results.values()), {"suites": {}})["suites"]:
        table = _table(suite, "trained on", *FIGURE_HEADS)
        for arm, results in run.results.items():
            table.add_row(arm, *figure_cells(results["suites"][suite]["overall"], results["suites"][suite]["share"]))
        stdout.print(table)
    say(f"checkpoint: {run.folder / 'train' / 'curated' / 'checkpoint'}")
    say(f"report: {report}")


def show_demo(run: "Run", found: Sequence["Found"], report: Path) -> None:
    """What the demo has to tell: what was planted and found, and what that did to the model."""
    table = _table("What was planted in the sample, and what the curation found", "defect", "planted", "found", "recall", "dropped", "rightly", "precision")
    for f in found:
        table.add_row(f.defect, str(f.planted), str(f.found), percent(f.recall, 0), str(f.dropped), str(f.true), percent(f.precision, 0))
    stdout.print(table)
    say()
    show_run(run, report)


def show_findings(findings: Sequence["Finding"]) -> None:
    """The doctor's findings, one line each."""
    for f in findings:
        say(f"{'ok   ' if f.ok else 'WRONG'}  {f.check}: {f.detail}{f'. Fix: {f.fix}' if f.fix else ''}")
    wrong = sum(not f.ok for f in findings)
    say(f"{wrong} of {len(findings)} checks failed" if wrong else f"all {len(findings)} checks passed: this checkpoint gives the score it was trained to give")


def show_models() -> None:
    """The shipped backbones."""
    from assay.files import MANIFEST
    from assay.model.backbones import BACKBONES, cache

    for b in BACKBONES.values():
        state = "in the cache" if (cache() / b.name / MANIFEST).is_file() else f"assay models pull {b.name} ({b.megabytes} MB)"
        say(f"{b.name}: {b.about}; {b.licence}; {state}")
