"""``assay demo`` as a newcomer runs it: the whole loop on the embedded sample, with a backbone of two layers and 32 dimensions in the place of the real one, of which nothing is asked but to run.

With the real one, which takes up to a quarter of an hour, it is ``make demo``.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay.demo.demo import what_was_found
from assay.files import read_json


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
    said = run(tmp_path, "demo", ASSAY_CACHE=str(small_cache))
    (folder,) = tmp_path.iterdir()
    found = {one.defect: one for one in what_was_found(folder / "curate")}
    assert {name for name, one in found.items() if one.recall == 1.0} >= {"copy", "marker", "benchmark prompt"}
    assert all(defect in said for defect in found)
    assert str(folder / "report.html") in said
    assert (folder / "report.html").is_file()
    curated, everything = accuracy(folder, "curated"), accuracy(folder, "everything")
    assert curated["items"] == everything["items"]
