"""``assay demo`` as a newcomer runs it: the whole loop on the embedded sample with the real backbone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay.files import read_json


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo(tmp_path: Path) -> None:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "assay.cli", "demo", "-o", str(tmp_path)], capture_output=True, text=True, check=False)
    print(f"the demo took {time.monotonic() - start:.0f} s\n{done.stdout}")
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.iterdir()
    results = {arm: read_json(run / "evaluate" / arm / "results.json")["suites"]["benchmark"]["overall"] for arm in ("curated", "everything")}
    assert results["curated"]["low"] > max(results["curated"]["random"][1], results["curated"]["length"])
    for defect in ("copy", "marker", "benchmark prompt", "flipped"):
        assert defect in done.stdout
    assert str(run / "report.html") in done.stdout
