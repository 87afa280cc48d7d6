"""The loss ablation of the Skywork report in small: every loss, the same pairs, steps and seeds; accuracy on other prompts.

    python benchmarks/losses.py PAIRS -o FOLDER [--model minilm] [--steps 60] [--seeds 3]         prints a Markdown table

Intervals are of the mean over seeds (Student's t, 95%); the difference to Bradley-Terry is taken seed by seed. A fifth of the prompts is the test.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

from assay.pairs.read import read
from assay.train.config import TrainConfig
from assay.train.examples import split
from assay.train.measure import score_sides
from assay.train.train import train

LOSSES = ("bradley_terry", "temperature_bt", "focal", "focal_penalty", "hinge", "margin_mse", "cross_entropy", "tempered_log")


def half_width(values: list[float]) -> float:
    """Half of the 95% interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    from assay.model.checkpoint import load

    seen, test = split(read(arguments.data).pairs, 0.2)
    longer = np.array([len(c[0]["content"]) - len(r[0]["content"]) for c, r in test.select("chosen", "rejected").iter_rows()])
    print(f"{seen.height:,} pairs to train on, {test.height:,} to test; {arguments.steps} steps of 32; the longer answer is right in {max((longer > 0).mean(), (longer < 0).mean()):.1%} (better direction)\n")
    found: dict[str, list[float]] = {}
    for loss in LOSSES:
        for seed in range(arguments.seeds):
            config = TrainConfig.model_validate({"model": arguments.model, "loss": loss, "max_length": 128, "max_steps": arguments.steps, "batch_size": 32, "learning_rate": 1e-4, "warmup": 0.1, "validation": 0, "seed": seed})
            reward_model, _ = load(train(seen, config, arguments.output / f"{loss}-{seed}"))
            chosen, rejected = score_sides(reward_model, test, "fp32", 8_192)
            found.setdefault(loss, []).append(float((chosen > rejected).mean()))
    print("| loss | accuracy | each seed | against Bradley-Terry |\n|---|---:|---|---:|")
    base = found["bradley_terry"]
    for loss, values in found.items():
        apart = [a - b for a, b in zip(values, base, strict=True)]
        beside = "" if loss == "bradley_terry" else f"{100 * np.mean(apart):+.1f} ± {100 * half_width(apart):.1f}"
        print(f"| {loss} | {100 * np.mean(values):.1f} ± {100 * half_width(values):.1f} | {', '.join(f'{100 * v:.1f}' for v in values)} | {beside} |")


if __name__ == "__main__":
    main()
