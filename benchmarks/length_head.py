"""Does the second head take length out of the reward? With and without it, on data whose labels are mostly length.

    python benchmarks/length_head.py PAIRS -o FOLDER [--seeds 3] [--steps 150]         prints a Markdown table

Accuracy where the chosen answer is the longer and where it is the shorter one, their mean (length-controlled accuracy), and the correlation of reward and length over all answers, on
prompts that were not trained on. Mean of the seeds, and each.
"""

import argparse
from pathlib import Path

import numpy as np

from assay.model.checkpoint import load
from assay.pairs.read import read
from assay.pairs.schema import answer_text
from assay.train.config import TrainConfig
from assay.train.examples import split
from assay.train.measure import score_sides
from assay.train.train import train


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seen, test = split(read(arguments.data).pairs, 0.1)
    sizes = [np.array([len(answer_text(a)) for a in test[side]]) for side in ("chosen", "rejected")]
    longer = sizes[0] > sizes[1]
    print(f"{seen.height:,} pairs to train on, {test.height:,} to test, of which the longer answer is right in {longer.mean():.1%}\n")
    print("| weight of the second head | accuracy | chosen longer | chosen shorter | their mean | correlation with length |\n|---|---:|---:|---:|---:|---:|")
    for weight in (0.0, 1.0, 3.0):
        figures = []
        for seed in range(arguments.seeds):
            config = TrainConfig.model_validate({"model": arguments.model, "loss": {"length_head": weight}, "max_length": 384, "max_steps": arguments.steps, "batch_size": 16, "learning_rate": 1e-4, "warmup": 0.1, "validation": 0, "seed": seed})
            reward_model, _ = load(train(seen, config, arguments.output / f"{weight}-{seed}"))
            chosen, rejected = score_sides(reward_model, test, "fp32", 8_192)
            right = chosen > rejected
            figures.append([right.mean(), right[longer].mean(), right[~longer].mean(), (right[longer].mean() + right[~longer].mean()) / 2, np.corrcoef(np.concatenate([chosen, rejected]), np.concatenate(sizes))[0, 1]])
        table = np.array(figures)
        cells = [f"{100 * column.mean():.1f} ({', '.join(f'{100 * v:.1f}' for v in column)})" for column in table[:, :4].T] + [f"{table[:, 4].mean():.2f} ({', '.join(f'{v:.2f}' for v in table[:, 4])})"]
        print(f"| {weight:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
