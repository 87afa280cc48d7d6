"""How long a whole curation takes and how much memory, as the pool grows: both Skywork recipes without their model scoring.

    python benchmarks/skywork_pool.py /tmp/pool --scale 1 --defects
    python benchmarks/throughput.py /tmp/pool -o /tmp/throughput [--recipe skywork-audited] [--workers 2] [--engine local]

The figures are of `assay curate` as anyone would call it, in a process of its own: reading, all steps, writing. Memory is the proportional set size (PSS) of all its
processes together, read four times a second: what the machine really gives. Where the recipe trains a judge, scores that a judge has given stand in (columns of the pool).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

MODEL_FREE = {
    "skywork": ["curate.agree.columns=[judge_chosen,judge_rejected]"],
    "skywork-audited": [
        "curate.agree={kind: agree, only: [wildguard], columns: [judge_chosen, judge_rejected]}",
        "curate.decontaminate={kind: decontaminate, against: {rewardbench: allenai/reward-bench}, split: filtered, ngram: 13}",
    ],
}


def tree(root: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def pss(pid: int) -> int:
    """Bytes of memory of a process, shared pages by halves."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def measure(command: list[str]) -> tuple[float, float, str]:
    """(seconds, peak gigabytes, standard output) of a command."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, sum(pss(p) for p in tree(process.pid)))
            time.sleep(0.25)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, peak / 1e9, out


def main() -> None:
    """Measure one recipe on one pool and print a row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--recipe", choices=sorted(MODEL_FREE), default="skywork-audited")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", default="local")
    args = parser.parse_args()
    sets = [part for override in MODEL_FREE[args.recipe] for part in ("--set", override)]
    command = [sys.executable, "-m", "assay.cli", "curate", args.recipe, "-o", str(args.output), "--data-root", str(args.pool), "--workers", str(args.workers), "--engine", args.engine, *sets, "--json"]
    seconds, gigabytes, out = measure(command)
    manifest = json.loads(out)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print("| recipe | pairs | kept | engine | workers | seconds | CPU seconds | peak GB | pairs a second |")
    print("|---|---:|---:|---|---:|---:|---:|---:|---:|")
    print(f"| {args.recipe} | {manifest['read']:,} | {manifest['kept']:,} | {args.engine} | {args.workers} | {seconds:.0f} | {used.ru_utime + used.ru_stime:.0f} | {gigabytes:.2f} | {manifest['read'] / seconds:,.0f} |")
    print(f"kept.parquet: sha256 {manifest['sha256']['kept.parquet']}")


if __name__ == "__main__":
    main()
