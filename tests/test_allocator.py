"""What a process does with freed memory."""

import subprocess
import sys

import pytest

HOLES = """
import torch
from assay import allocator
def resident():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))
allocator.keep_freed()
before = resident()
blocks = [torch.ones(250_000) for _ in range(200)]  # 200 MB, every other block freed
last = blocks[1::2]
blocks = None
kept = resident() - before
allocator.give_back()
at_once = resident() - before
allocator._given_back -= 2 * allocator.SECONDS
allocator.give_back()
print(kept, at_once, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not glibc")
def test_freed_memory_stays_with_the_process_for_a_while_and_holes_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    kept, at_once, given_back = map(float, done.stdout.split())
    assert kept > 180
    assert at_once == pytest.approx(kept, abs=5)
    assert 90 < given_back < 120
