"""The page of an audit in a real browser: it fits a phone, and texts stay texts. The browser part skips, loudly, without Chromium."""

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from assay.report.audit_page import write_audit

LONG = "pneumonoultramicroscopicsilicovolcanoconiosis" * 4
EVIL = "<script>window.alerted='alerted'</script> <img src=x onerror=\"window.alerted='alerted'\"> & \"quotes\""
DETECTORS = ["exact duplicates", "near duplicates", "contradictions", "markers", "shortcuts", "prompts that say the same", "contamination", "noise"]


def source(weight: int, **more: Any) -> dict[str, Any]:
    tell = {"name": f"ends: {EVIL[:30]}{LONG}", "side": "rejected", "rows": 60, "purity": 1.0, "examples": ["0" * 32]}
    row = {"id": "0" * 32, "detector": "markers", "reason": f"marker {EVIL}{LONG}", "because_of": f"bench:{LONG}", "prompt": f"{EVIL} {LONG}", "chosen": LONG * 3, "rejected": EVIL}
    return {
        "rows": 12_345, "prompts": 9_876, "categories": {f"category {LONG[:60]}": 10_000, EVIL: 2_345}, "languages": {"English": 0.9, "Unknown": 0.1}, "multi_turn": 0.125,
        "prompt_chars": {"5%": 10, "50%": 2_000, "95%": 300_000}, "answer_chars": {"5%": 10, "50%": 2_000, "95%": 300_000}, "length": {"rows": 12_345, "chosen_longer": 0.625},
        "hits": {d: (1_234 if d != "markers" else 0) for d in DETECTORS}, "noise": {"rows": 100, "ranked_wrong": 0.3, "noise": 0.25, "interval": [0.2, 0.3]},
        "shortcut": {"rows": 4_000, "told": 0.91, "interval": [0.9, 0.92], "length": 0.6, "tells": [tell] * 9},
        "verdict": ["fit for training", "fit for training, with a note", "clean it first", "do not train on it as it is"][weight], "weight": weight, "problems": [f"{EVIL} {LONG}", "another"][: 2 * bool(weight)], "examples": [row] * 5,
        **more,
    }  # fmt: skip


def result() -> dict[str, Any]:
    sources = {f"{LONG}{EVIL}": source(3), "plain": source(0, shortcut=None, noise=None, examples=[], languages={}, categories={"(none)": 5}), "noted": source(1), "dirty": source(2)}
    return {
        "rows": 49_380, "content": "0123456789abcdef", "looked_for": DETECTORS, "not_looked_for": ["nothing at all"], "found": dict.fromkeys(DETECTORS, 4_936),
        "notes": {"contamination": {"references": {"prompts": {"bench": 20, EVIL: 30}}}}, "contamination": {"bench": 12, EVIL: 0}, "sources": sources,
    }  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_audit(result(), f"{EVIL}.jsonl", tmp_path / "audit.html")


def test_the_page_needs_no_other_file_and_texts_are_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"<[^>]+\ssrc=", text)
    assert not re.search(r"url\((?!#)", text)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "@import" not in text
    assert "{{" not in text
    assert "None" not in text


def test_every_source_and_figure_is_there(page: Path) -> None:
    text = page.read_text()
    for said in ("49,380", "12,345", "do not train on it as it is", "clean it first", "fit for training, with a note", "Not looked for: nothing at all", "25.0% (20.0% to 30.0%)", "91.0%", "10, 2,000, 300,000", "English 90%, Unknown 10%"):
        assert said in text, said
    assert text.count('<details id="s') == 4
    assert text.count('class="sample"') == 15
    cards = dict(re.findall(r"<b>([^<]*)</b><span>([^<]*)</span>", html.unescape(text)))
    assert {v: k for k, v in cards.items()}["rows with a benchmark's prompt"] == "4,936"


def test_links_lead_to_the_sources(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r'href="#(\w+)"', text)) == set(re.findall(r'<details id="(\w+)"', text)) == {"s1", "s2", "s3", "s4"}


def test_an_audit_without_a_benchmark_has_no_such_section(tmp_path: Path) -> None:
    given = result()
    given |= {"contamination": {}, "looked_for": DETECTORS[:3], "found": dict.fromkeys(DETECTORS[:3], 0), "not_looked_for": []}
    text = write_audit(given, "set", tmp_path / "audit.html").read_text()
    assert "Benchmarks" not in text
    assert "Not looked for" not in text


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("SKIPPED LOUDLY: the page is not looked at, no Chromium is installed (apt-get install chromium)")
    return found


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits(width: int, page: Path, tmp_path: Path) -> None:
    frame = tmp_path / f"frame-{width}.html"
    measure = "const d=f.contentDocument;document.title=[d.documentElement.scrollWidth>d.documentElement.clientWidth?'OVERFLOW':'fits',d.querySelectorAll('details').length,f.contentWindow.alerted||'no-alert'].join(' ')"
    frame.write_text(f'<iframe id="f" width="{width}" height="3000" srcdoc="{html.escape(page.read_text())}"></iframe><script>const f=document.getElementById("f");f.onload=()=>{{f.contentDocument.querySelectorAll("details").forEach(x=>x.open=true);{measure}}}</script>')
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run([chromium(), *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("<title>")[1].split("</title>")[0].split() == ["fits", "4", "no-alert"]
