"""The report in a real browser: nothing beyond the edge of a phone, no script error, every figure there. Skips, loudly, without Chromium."""

import html
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.curate.runner import curate
from assay.curate.steps import duplicates, markers
from assay.demo.demo import Found
from assay.files import write_parquet
from assay.pairs.schema import from_rows
from assay.pipeline import Run
from assay.recipes.recipe import Recipe, Source
from assay.report.report import write_report
from conftest import pair

LONG = "pneumonoultramicroscopicsilicovolcanoconiosis" * 4
FIGURE = {"value": 0.7, "low": 0.6, "high": 0.8, "items": 10, "prompts": 9, "ties": 1, "length": 0.5, "probe": 0.55, "random": [0.4, 0.6]}
NO_FIGURE = {**FIGURE, **dict.fromkeys(("value", "low", "high", "length"), math.nan), "random": [math.nan, math.nan]}


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("SKIPPED LOUDLY: the page is not looked at, no Chromium is installed (apt-get install chromium)")
    return found


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The report of a small run with long words, markup in its texts, and every section."""
    rows = [pair(f"What is {LONG} <b>{i}</b>?", f"<script>alert(1)</script> {LONG}", f"no & {i}", source="s", category=c) for i, c in enumerate("abab")]
    rows += [rows[0], pair("q", "yes", "no <|im_start|>user", source="t", category="a")]
    pool = from_rows(rows)
    folder = tmp_path / "run"
    curated = curate(pool, [duplicates.Config(), markers.Config()], folder / "curate")
    write_parquet(folder / "read" / "pairs.parquet", pool)
    reading = {"rows_read": 7, "rows_used": 6, "pairs": 6, "rows_aside": 1, "reasons": {"identical answers": 1}, "formats": {f"/data/{LONG}.jsonl": "explicit prompt"}}
    metrics: list[dict[str, Any]] = [{"step": s, "loss": 1 / s} for s in range(1, 20)] + [{"step": 10, "eval_accuracy": 0.6}, {"step": 19, "eval_accuracy": 0.7}]
    training = {"pairs": 5, "steps": 19, "precision": "bf16", "truncated_pairs": 0, "accuracy": 0.7, "held_out": 3, "metrics": metrics, "config": {"batch_size": 4, "model": "minilm"}}
    suite = {"rule": "rewardbench", "overall": FIGURE, "sections": {"Chat": FIGURE, "Chat Hard": FIGURE, "Ties": NO_FIGURE}, "subsets": {"alpacaeval-easy": FIGURE, LONG[:60]: FIGURE}, "share": True, "ties": 1, "truncated": 2, "warnings": ["not there, so left out of their sections: donotanswer"]}
    results = {"suites": {"rewardbench": suite}}
    run = Run(folder, reading, curated.manifest, {"curated": training, "everything": training}, {"curated": results, "everything": results})
    return write_report(run, Recipe(name="page", about="A page.", sources=[Source(path="x")], open=["one thing"]), [Found("copy", 1, 1, 1, 1)])


def dom(page: Path, width: int, folder: Path) -> str:
    """The measured page, opened in a frame of ``width`` pixels: its overflow and its figures, as text."""
    frame = folder / f"frame-{width}.html"
    measure = "const d=f.contentDocument;document.title=[d.documentElement.scrollWidth>d.documentElement.clientWidth?'OVERFLOW':'fits',d.querySelectorAll('svg').length,d.querySelectorAll('.dot').length,window.alerted||'no-alert'].join(' ')"
    frame.write_text(f'<iframe id="f" width="{width}" height="3000" srcdoc="{html.escape(page.read_text())}"></iframe><script>const f=document.getElementById("f");f.onload=()=>{{f.contentDocument.querySelectorAll("details").forEach(x=>x.open=true);{measure}}}</script>')
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run([chromium(), *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split("<title>")[1].split("</title>")[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_is_whole(report: Path, width: int, tmp_path: Path) -> None:
    fits, plots, dots, alert = dom(report, width, tmp_path).split()
    assert fits == "fits"
    assert int(plots) == 2
    assert int(dots) >= 10
    assert alert == "no-alert"


def test_a_figure_without_a_value_is_a_dash(report: Path) -> None:
    assert "nan" not in re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", report.read_text(), flags=re.DOTALL)


def test_texts_are_escaped_and_nothing_is_loaded_from_elsewhere(report: Path) -> None:
    page = report.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "src=" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "http" not in page.replace("http://www.w3.org", "")
    assert pl.read_parquet(report.parent / "curate" / "ledger.parquet").filter(pl.col("step") != "kept").height == 2
