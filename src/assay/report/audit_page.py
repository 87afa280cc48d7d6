"""The page of an audit: what a team looks at before it trains on a data set it found."""

from pathlib import Path
from typing import Any

from assay import __version__
from assay.files import write_text
from assay.report.report import templates


def write_audit(result: dict[str, Any], name: str, path: Path) -> Path:
    """Write the page of ``assay.curate.audit.audit``'s result to ``path``: one file, no other needed to look at it."""
    page = templates().get_template("audit.html.j2").render(audit=result, name=name, version=__version__, headline=_headline(result))
    write_text(path, page)
    return path


def _headline(result: dict[str, Any]) -> list[tuple[str, str]]:
    by_weight = [s["weight"] for s in result["sources"].values()]
    cards = [("pairs", f"{result['rows']:,}"), ("sources", f"{len(by_weight)}"), ("fit for training", f"{sum(w <= 1 for w in by_weight)}"), ("to be cleaned first", f"{sum(w == 2 for w in by_weight)}"), ("not to be trained on as they are", f"{sum(w == 3 for w in by_weight)}")]
    if "contamination" in result["found"]:
        cards.append(("rows with a benchmark's prompt", f"{result['found']['contamination']:,}"))
    return cards
