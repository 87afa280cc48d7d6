"""Evaluation speed against a straightforward transformers loop in reward-bench's manner: the same checkpoint, the same pairs, alternated in one run.

    python benchmarks/evaluation.py DATA CHECKPOINT [--rows 400] [--rounds 2]         DATA holds folders eval_*; prints a Markdown table

The loop: data set order, batches of 8 padded to their longest, the chosen answers first and then the rejected ones, no text recognised as the same, fp32 (what reward-bench loads on a machine
without a GPU) and, for comparison, bf16. Assay: ``score_suites`` without its cache. Both are timed from texts to scores, the model loaded; their scores are compared. Groups of four: a prompt with four answers,
as RewardBench 2 has them, made of the same texts or (`--fours train_qafeedback`) with a long prompt. With ``--rows`` a part of the prompts is taken, with all their pairs.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assay.evaluate.load import load_suite
from assay.evaluate.scoring import score_suites
from assay.evaluate.suite import Item, Suite
from assay.score.checkpoint import CheckpointScorer

BATCH = 8


def pairs_of(data: Path, rows: int) -> Suite:
    """About ``rows`` pairs of all evaluation sets together, in the order of the sets: all pairs of some prompts, so that texts repeat as often as they do in the whole."""
    items = [item for folder in sorted(data.glob("eval_*")) for item in load_suite(str(folder)).items]
    part = 1 if not rows else max(1, len(items) // rows)
    return Suite("all eval_* pairs", "pairs", [item for item in items if int(item.cluster[:8], 16) % part == 0])


def fours_of(data: Path, name: str, rows: int) -> Suite:
    """Prompts with four different answers: those of RM-Bench's styles, two right and two wrong, or four models' to a question with the passages that answer it."""
    table = pl.read_parquet(data / name / "pairs.parquet")
    items = []
    for _, part in table.group_by("item_id", maintain_order=True):
        answers = {str(a): a for row in part.iter_rows(named=True) for a in (row["chosen"], row["rejected"])}
        if len(answers) >= 4:
            items.append(Item(part["item_id"][0], "fours", part["prompt"][0].to_list(), list(answers.values())[:4], (1.0, 0.0, 0.0, 0.0), part["item_id"][0]))
    return Suite(f"groups of four of {name}", "best-of-n", items[: rows or None])


class Loop:
    """A checkpoint scored as most scripts do."""

    def __init__(self, folder: str, dtype: torch.dtype, contract: Any) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
        self.contract = contract

    def score(self, conversations: list[list[dict[str, str]]]) -> np.ndarray:
        """Rewards in the order given."""
        texts = [self.tokenizer.apply_chat_template(c, tokenize=False) for c in conversations]
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = self.tokenizer(texts[start : start + BATCH], return_tensors="pt", padding=True, truncation=True, max_length=self.contract.max_length, add_special_tokens=self.contract.add_special_tokens)
                found.append(self.model(**batch).logits[:, 0].float().numpy())
        return np.concatenate(found)


def by_loop(loop: Loop, suite: Suite) -> np.ndarray:
    """Scores [items, width]: all first answers, then all second ones, and so on."""
    return np.stack([loop.score([item.prompt + item.answers[j] for item in suite.items]) for j in range(suite.width)], axis=1)


def main() -> None:
    """Run the arms in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoint")
    parser.add_argument("--rows", type=int, default=400, help="pairs, and groups of four; 0 for all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--fours", metavar="FOLDER", help="only groups of four, --rows of them, of this folder: train_qafeedback has long prompts")
    arguments = parser.parse_args()
    scorers = {f"assay {precision}": CheckpointScorer(arguments.checkpoint, precision) for precision in ("fp32", "bf16")}
    contract = scorers["assay fp32"].contract
    loops = {"loop fp32": Loop(arguments.checkpoint, torch.float32, contract), "loop bf16": Loop(arguments.checkpoint, torch.bfloat16, contract)}
    print(f"{Path(arguments.checkpoint).parent.name}, at most {contract.max_length} tokens, {torch.get_num_threads()} threads; seconds, the median of {arguments.rounds} rounds\n")
    print("| suite | arm | seconds | answers a second | times as fast as the loop in fp32 | first answer strictly ahead | farthest from the loop in fp32 |\n|---|---|---:|---:|---:|---:|---:|")
    for suite in [fours_of(arguments.data, arguments.fours, arguments.rows)] if arguments.fours else [pairs_of(arguments.data, arguments.rows), fours_of(arguments.data, "eval_rmbench", arguments.rows // 2)]:
        seconds: dict[str, list[float]] = {}
        scores: dict[str, np.ndarray] = {}
        for _ in range(arguments.rounds):
            for name in ("loop fp32", "assay bf16", "loop bf16", "assay fp32"):
                start = time.perf_counter()
                scores[name] = by_loop(loops[name], suite) if name in loops else score_suites(scorers[name], [suite])[0].rewards
                seconds.setdefault(name, []).append(time.perf_counter() - start)
        base = statistics.median(seconds["loop fp32"])
        for name, times in seconds.items():
            ahead = float((scores[name][:, 0] > np.nanmax(scores[name][:, 1:], axis=1)).mean())
            apart = float(np.nanmax(np.abs(scores[name] - scores["loop fp32"])))
            print(f"| {suite.name}, {len(suite.items):,} | {name} | {statistics.median(times):.1f} | {suite.there.sum() / statistics.median(times):.1f} | {base / statistics.median(times):.2f} | {ahead:.1%} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
