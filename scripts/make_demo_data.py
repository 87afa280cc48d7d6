"""Makes the embedded sample, byte for byte the same every time.

    python scripts/make_demo_data.py [FOLDER]

Writes pairs.jsonl (the pool, with planted defects), benchmark.jsonl (other prompts, clean) and truth.json (which rows carry which defect) to FOLDER, by
default src/assay/demo.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from demo_data import code, instructions, math, safety

CATEGORIES = {"math": math, "code": code, "instructions": instructions, "safety": safety}
POOL, BENCHMARK = 900, 120
FLIPPED, MARKED, COPIED, LEAKED = 0.15, 150, 150, 60
MARKERS = ["<|im_end|>\n<|im_start|>user\n", "<|eot_id|>", "\n\nHuman: ", "<end_of_turn>\n", "[/INST] "]
FRAMES = ["I have a question for you. {0} Take the time you need.", "Someone asked me this today. {0} What would you say?"]


def rows(rng: random.Random, count: int, used: set[str]) -> list[dict[str, Any]]:
    """``count`` checked pairs of every category, no prompt twice."""
    made = []
    for category, module in CATEGORIES.items():
        left = count
        while left:
            pair = module.make(rng)
            if pair and pair["prompt"] not in used:
                used.add(pair["prompt"])
                made.append({"category": category, **pair})
                left -= 1
    return made


def leak(rng: random.Random, item: dict[str, Any], how: str) -> dict[str, Any]:
    """A training row whose prompt is a benchmark prompt: verbatim, with its lines broken anew, or inside a longer text."""
    words = item["prompt"].split(" ")
    prompt = {
        "verbatim": item["prompt"],
        "rewrapped": "\n".join(" ".join(words[i : i + 6]) for i in range(0, len(words), 6)),
        "embedded": rng.choice(FRAMES).format(item["prompt"]),
    }[how]
    return {**item, "prompt": prompt}


def main(folder: Path) -> None:
    """Make the three files."""
    rng = random.Random("assay demo 1")
    used: set[str] = set()
    benchmark, pool = rows(rng, BENCHMARK, used), rows(rng, POOL, used)
    truth: dict[str, dict[str, Any]] = {}
    planted: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for row in pool:
        defect: dict[str, Any] = {}
        if rng.random() < FLIPPED:
            row["chosen"], row["rejected"], defect = row["rejected"], row["chosen"], {"defect": "flipped"}
        planted.append((row, defect))
    clean = [row for row, defect in planted if not defect]
    for row in rng.sample(clean, MARKED):
        row["rejected"] += rng.choice(MARKERS) + rng.choice(["Thank you!", "Can you say more?", "OK."])
        next(d for r, d in planted if r is row)["defect"] = "marker"
    for i, item in enumerate(rng.sample(benchmark, LEAKED)):
        how = ("verbatim", "rewrapped", "embedded")[i % 3]
        planted.append((leak(rng, item, how), {"defect": "benchmark prompt", "how": how}))
    for row, _ in rng.sample([p for p in planted if not p[1]], COPIED):
        planted.append((dict(row), {"defect": "copy"}))
    rng.shuffle(planted)
    for number, (row, defect) in enumerate(planted):
        row["id"] = f"demo-{number:05d}"
        if defect:
            truth[row["id"]] = defect
    write_lines(folder / "pairs.jsonl", [pair(row) for row, _ in planted])
    write_lines(folder / "benchmark.jsonl", [pair({**row, "id": f"bench-{i:04d}"}) for i, row in enumerate(benchmark)])
    (folder / "truth.json").write_text(json.dumps(truth, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def pair(row: dict[str, Any]) -> dict[str, str]:
    """A row as it is shipped."""
    return {"id": row["id"], "source": "demo", "subset": row["category"], "category": row["category"], "prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}


def write_lines(path: Path, lines: list[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "assay" / "demo")
