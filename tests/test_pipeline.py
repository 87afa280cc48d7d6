"""The whole loop: what each stage writes, that nothing is lost, and that kill -9 at any moment changes no byte of the result."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from assay.cli import run_app
from assay.curate.steps import agree, decontaminate, markers
from assay.files import MANIFEST, read_json, sha256_file
from assay.pipeline import rooted

Make = Callable[..., pl.DataFrame]


def write_rows(path: Path, pairs: pl.DataFrame) -> None:
    """Pairs as JSON lines of plain texts."""
    rows = [{"prompt": p[0]["content"], "chosen": c[0]["content"], "rejected": r[0]["content"], "category": k} for p, c, r, k in pairs.select("prompt", "chosen", "rejected", "category").iter_rows()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, make_pairs: Make) -> Path:
    """A recipe with every kind of stage on small files, among them rows that cannot be read."""
    write_rows(tmp_path / "one.jsonl", make_pairs(120))
    with (tmp_path / "one.jsonl").open("a") as stream:
        stream.write('{"prompt": "x", "chosen": "same", "rejected": "same"}\nnot json\n')
    write_rows(tmp_path / "two.jsonl", pl.concat([make_pairs(60, seed=1), make_pairs(20)]))
    write_rows(tmp_path / "bench.jsonl", pl.concat([make_pairs(40, seed=2), make_pairs(5)]))
    fit = {"model": str(tiny_encoder), "max_length": 96, "max_steps": 20, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0, "save_every": 5}
    data = {
        "name": "small",
        "sources": [{"path": "one.jsonl"}, {"path": "two.jsonl"}],
        "curate": [{"kind": "duplicates"}, {"kind": "decontaminate", "against": {"bench": "bench.jsonl"}, "ngram": 5, "coverage": 0.9}, {"kind": "agree", "fit": fit}, {"kind": "select", "by": "agree_mean", "others": 0.9, "pool_others": False}],
        "train": {**fit, "max_steps": 40, "validation": 0.2, "evaluate_every": 10},
        "baseline": True,
        "evaluate": {"suites": ["bench=bench.jsonl"]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def only_run(folder: Path) -> Path:
    """The one run folder under ``folder``."""
    (run,) = folder.iterdir()
    return run


def test_the_loop_accounts_for_every_row_and_reports(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", str(recipe), "-o", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    run = only_run(tmp_path / "runs")
    reading, curation = read_json(run / "read" / MANIFEST), read_json(run / "curate" / MANIFEST)
    assert (reading["rows_read"], reading["rows_used"], reading["rows_aside"]) == (202, 200, 2)
    assert curation["kept"] + curation["dropped"] == curation["read"] == 200
    assert curation["accounts"][0]["dropped"] == 20
    assert "202 rows read = 200 used + 2 set aside" in shown
    assert str(run / "report.html") in shown
    assert len((run / "read" / "aside.jsonl").read_text().splitlines()) == 2
    results = {arm: read_json(run / "evaluate" / arm / "results.json") for arm in ("curated", "everything")}
    assert results["curated"]["suites"]["bench"]["overall"]["value"] > 0.9
    page = (run / "report.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")

    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*.parquet"))
    assert run_app(["run", str(recipe), "-o", str(tmp_path / "runs")]) == 0
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*.parquet")) == before


def test_why_and_diff_speak_of_the_run(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["curate", str(recipe), "-o", str(tmp_path / "a")]) == 0
    assert run_app(["curate", str(recipe), "-o", str(tmp_path / "b"), "--set", "curate.select.others=0.5"]) == 0
    ledger = pl.read_parquet(tmp_path / "a" / "curate" / "ledger.parquet")
    capsys.readouterr()
    row = ledger.filter(pl.col("step") == "02-decontaminate").row(0, named=True)
    assert run_app(["why", str(tmp_path / "a"), row["id"][:12]]) == 0
    shown = capsys.readouterr().out
    assert "dropped by 02-decontaminate" in shown
    assert "prompt is in the benchmark" in shown
    assert "bench:" in shown
    assert run_app(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(r["in_a"], r["in_b"]) for r in rows} == {("kept", "04-select")}


def test_a_changed_source_is_read_again(recipe: Path, tmp_path: Path, make_pairs: Make) -> None:
    simple = ["--set", "curate=[]"]
    assert run_app(["curate", str(recipe), "-o", str(tmp_path / "a"), *simple]) == 0
    write_rows(tmp_path / "two.jsonl", make_pairs(10, seed=9))
    assert run_app(["curate", str(recipe), "-o", str(tmp_path / "a"), *simple]) == 0
    assert read_json(tmp_path / "a" / "curate" / MANIFEST)["read"] == 130


STAGES = ["", "read", "curate", "train/curated/checkpoint", "train/everything/checkpoint"]


@pytest.mark.slow
def test_kill_at_random_moments_of_each_stage(recipe: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ASSAY_DEBUG": "1"}
    command = [sys.executable, "-m", "assay.cli", "run", str(recipe), "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    whole, killed_in = only_run(tmp_path / "whole"), tmp_path / "killed"
    rng = random.Random(time.time_ns())
    kills = 0
    for stage in STAGES:
        process = subprocess.Popen([*command, str(killed_in)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begins = killed_in / whole.name / stage / MANIFEST if stage else killed_in / whole.name / "recipe.yaml"
        while process.poll() is None and not begins.is_file():
            time.sleep(0.005)
        time.sleep(rng.random() * (1.0 if stage else 0.05))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3
    subprocess.run([*command, str(killed_in)], check=True, env=environment, capture_output=True)
    for name in ("read/pairs.parquet", "curate/kept.parquet", "curate/dropped.parquet", "curate/ledger.parquet", "curate/manifest.json", "train/curated/checkpoint/model.safetensors", "train/everything/checkpoint/model.safetensors", "evaluate/curated/items.parquet"):
        assert sha256_file(killed_in / whole.name / name) == sha256_file(whole / name), name


def test_files_of_steps_are_named_as_seen_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "bench.jsonl").touch()
    judged = rooted(agree.Config(scorers=["judge", "rule:length", "mean(judge,rule:length)"]), tmp_path)
    assert judged.scorers == [str(tmp_path / "judge"), "rule:length", "mean(judge,rule:length)"]
    assert rooted(decontaminate.Config(against={"b": "bench.jsonl", "r": "rewardbench"}), tmp_path).against == {"b": str(tmp_path / "bench.jsonl"), "r": "rewardbench"}
    assert rooted(markers.Config(), tmp_path) == markers.Config()
