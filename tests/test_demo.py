"""``assay demo`` as a newcomer runs it: the whole loop on the embedded sample with the real backbone.

A processor without fast bf16 takes a quarter of an hour for it; there a backbone of two layers and 32 dimensions takes its place, and nothing is asked of the accuracy.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from assay.demo.demo import what_was_found
from assay.files import read_json
from assay.model.reward_model import precision_of

SHORTENED = ["curate.agree.fit.max_steps=20", "train.max_steps=20", "train.evaluate_every=10"]


def run(folder: Path, *command: str, **environment: str) -> str:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "assay.cli", *command, "-o", str(folder)], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    print(f"{' '.join(command)} took {time.monotonic() - start:.0f} s\n{done.stdout}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(run_folder: Path, arm: str) -> dict[str, float]:
    found: dict[str, float] = read_json(run_folder / "evaluate" / arm / "results.json")["suites"]["benchmark"]["overall"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo(small_cache: Path, tmp_path: Path) -> None:
    whole = precision_of("auto", torch.device("cpu")) == "bf16"
    said = run(tmp_path, "demo") if whole else run(tmp_path, "run", "demo", *(part for setting in SHORTENED for part in ("--set", setting)), ASSAY_CACHE=str(small_cache))
    (folder,) = tmp_path.iterdir()
    found = {one.defect: one for one in what_was_found(folder / "curate")}
    assert {name for name, one in found.items() if one.recall == 1.0} >= {"copy", "marker", "benchmark prompt"}
    assert (folder / "report.html").is_file()
    curated, everything = accuracy(folder, "curated"), accuracy(folder, "everything")
    assert curated["items"] == everything["items"]
    if whole:
        assert curated["low"] > max(curated["random"][1], curated["length"])
        assert all(defect in said for defect in found)
        assert str(folder / "report.html") in said
