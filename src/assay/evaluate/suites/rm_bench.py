"""RM-Bench (Liu et al., arXiv 2410.16184): does a small error outweigh style?

Every item has three right and three wrong answers: concise, detailed, detailed with markdown. Cell (i, j) is right if right answer i scores strictly higher than wrong
answer j. *hard* is the mean of the cells in which the wrong answer has the richer style (above the diagonal), *normal* of those with the same style,
*easy* of the rest. A domain (chat, math, code, safety, by the beginning of its name) is the mean of the three; the figure for all is the mean of the
domains, whatever their sizes. The official code stops where a domain has no item; here the mean is over those that are there, and a warning names the missing ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Part, Suite, Tree, equally
from assay.evaluate.suites.pairs import right
from assay.evaluate.suites.raw import Later, answer, answers, get, text
from assay.pairs.messages import Aside, prompt_of
from assay.pairs.schema import prompt_id

DOMAINS = ("chat", "math", "code", "safety")
STYLES = ("concise", "detailed_plain", "detailed_markdown")
DIFFICULTIES: dict[str, tuple[tuple[int, int], ...]] = {
    "easy": ((1, 0), (2, 0), (2, 1)),
    "normal": ((0, 0), (1, 1), (2, 2)),
    "hard": ((0, 1), (0, 2), (1, 2)),
}
"""The cells (right answer, wrong answer) of each difficulty."""


def items(rows: Iterable[dict[str, Any]]) -> Iterable[Item | Aside]:
    """The published rows (``id``, ``prompt``, ``domain``, ``chosen`` and ``rejected`` with three answers each), or one row a cell with ``item_id``, ``style_chosen`` and ``style_rejected``."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        try:
            if row.get("style_chosen") is not None:
                _collect(cells, row)
                continue
            chosen, rejected = answers(row, "chosen"), answers(row, "rejected")
            if len(chosen) != 3 or len(rejected) != 3:
                raise Aside(f"has {len(chosen)} chosen and {len(rejected)} rejected answers, expected three of each: concise, detailed, detailed with markdown")
            yield _item(str(row.get("id", "")), text(row, "domain"), get(row, "prompt"), chosen + rejected)
        except Aside as reason:
            yield reason
    for name, cell in cells.items():
        missing = [f"{side} {style}" for side in ("chosen", "rejected") for style in STYLES if style not in cell[side]]
        try:
            if missing:
                raise Aside(f"item {name} has no {', '.join(missing)} answer")
            yield _item(name, cell["domain"], cell["prompt"], [cell[side][style] for side in ("chosen", "rejected") for style in STYLES])
        except Aside as reason:
            yield Later(str(reason), cell["row"])


def _collect(cells: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    cell = cells.setdefault(text(row, "item_id"), {"domain": row.get("domain") or text(row, "subset"), "prompt": get(row, "prompt"), "row": row, "chosen": {}, "rejected": {}})
    for side in ("chosen", "rejected"):
        style = text(row, f"style_{side}")
        if style not in STYLES:
            raise Aside(f"style_{side} is {style!r}, expected one of {', '.join(STYLES)}")
        cell[side][style] = answer(get(row, side), side)


def _item(name: str, domain: str, prompt: Any, six: list[Any]) -> Item:
    asked = prompt_of(prompt)
    found = domain_of(domain)
    if found is None:
        raise Aside(f"the domain is {domain!r}, expected one that begins with {', '.join(DOMAINS)}")
    return Item(name, found, asked, six, (1.0,) * 3 + (0.0,) * 3, prompt_id(asked), {"domain": domain})


def domain_of(name: str) -> str | None:
    """Which of the four domains a name belongs to: by its beginning, so that safety-refuse and safety-response are pooled."""
    return next((domain for domain in DOMAINS if name.startswith(domain)), None)


def cells(chosen: Floats, rejected: Floats) -> Floats:
    """[n, 3, 3]: whether right answer i beats wrong answer j."""
    return right(chosen[:, :, None], rejected[:, None, :])


def difficulty(beaten: Floats, name: str) -> Floats:
    """[n]: the share of the cells of a difficulty that are right."""
    return np.asarray(np.mean([beaten[:, i, j] for i, j in DIFFICULTIES[name]], axis=0))


def measure(suite: Suite, scores: Floats) -> Tree:
    """Each difficulty in each domain; domains and difficulties as plain means of those; and the mean of the domains."""
    beaten = cells(scores[:, :3], scores[:, 3:])
    present = [domain for domain in DOMAINS if domain in suite.subsets]
    parts: dict[str, Part] = {}
    for domain in present:
        rows = suite.rows(domain)
        parts |= {f"{domain}, {name}": Part(rows, difficulty(beaten[rows], name)) for name in DIFFICULTIES}
    sections = {domain: equally([f"{domain}, {name}" for name in DIFFICULTIES]) for domain in present}
    sections |= {name: equally([f"{domain}, {name}" for domain in present]) for name in DIFFICULTIES}
    return Tree(parts, sections, equally(list(parts)))


def warnings(suite: Suite) -> list[str]:
    """That domains are missing, if they are."""
    missing = [domain for domain in DOMAINS if domain not in suite.subsets]
    return [f"RM-Bench has no item of {', '.join(missing)}; its figures are means of the other domains and not comparable with published ones"] if missing else []


def official(items: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The official figures from items with ``score_chosen`` and ``score_rejected`` (three numbers each) and ``domain``.

    Without ``domain`` in the first item: ``hard_acc``, ``normal_acc`` and ``easy_acc`` over all items. Otherwise also each domain and ``total_avg_acc``; domains
    that begin with none of the four names do not count.

    Raises:
        AssayError: a domain has no item.
    """
    beaten = cells(_three(items, "score_chosen"), _three(items, "score_rejected"))
    if not items or "domain" not in items[0]:
        return {f"{name}_acc": float(np.mean(difficulty(beaten, name))) for name in ("hard", "normal", "easy")}
    table = {}
    for domain in DOMAINS:
        rows = [i for i, item in enumerate(items) if domain_of(item["domain"]) == domain]
        if not rows:
            raise AssayError(f"RM-Bench: no item of the domain {domain}, so there is no mean over the four domains")
        table[domain] = {name: float(np.mean(difficulty(beaten[rows], name))) for name in DIFFICULTIES}
    found = {domain: float(np.mean(list(values.values()))) for domain, values in table.items()}
    found |= {f"{name}_acc": float(np.mean([table[domain][name] for domain in DOMAINS])) for name in ("hard", "normal", "easy")}
    return {**found, "total_avg_acc": float(np.mean([found[domain] for domain in DOMAINS]))}


def _three(items: Sequence[Mapping[str, Any]], key: str) -> Floats:
    """[n, 3] scores; a style that is missing is NaN, so it is wrong."""
    return np.array([[float(value) for value in [*item[key], *(float("nan"),) * 3][:3]] for item in items]).reshape(-1, 3)
