"""Soups of reward models: against the runs they are made of, the ensemble of their rewards and one run of as many steps, with the labels as they are and with a quarter flipped.

    python benchmarks/soups.py PAIRS OTHER -o FOLDER [--runs 4] [--steps 60] [--most 600]         prints Markdown tables

All runs start from one model that was trained for a moment, so that they share a head; they differ in the order of the pairs and in the learning rate. PAIRS is split by
prompt into training, choosing (what greedy and the best single run go by) and test; OTHER is data of another kind. Intervals: bootstrap over prompts, 95%.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay.evaluate.intervals import interval, resampled_means
from assay.model.checkpoint import load
from assay.pairs.read import read
from assay.pairs.schema import prompt_id
from assay.train.config import TrainConfig
from assay.train.examples import split
from assay.train.measure import score_sides
from assay.train.soup import soup
from assay.train.train import train

RATES = (1e-4, 2e-4, 5e-5, 1.5e-4, 8e-5, 1.2e-4)


def config(**more: Any) -> TrainConfig:
    """The settings that all runs share."""
    return TrainConfig.model_validate({"max_length": 256, "batch_size": 32, "warmup": 0.1, "validation": 0, **more})


def margins(checkpoint: Path, pairs: pl.DataFrame) -> Any:
    """chosen - rejected by a checkpoint, in units of the spread of its rewards."""
    chosen, rejected = score_sides(load(checkpoint)[0], pairs, "fp32", 8_192)
    return (chosen - rejected) / np.concatenate([chosen, rejected]).std()


def flipped(pairs: pl.DataFrame, share: float) -> pl.DataFrame:
    """``pairs`` with the labels of a share turned over."""
    turned = pl.Series(np.random.default_rng(0).random(pairs.height) < share)
    return pairs.with_columns(chosen=pl.when(turned).then("rejected").otherwise("chosen"), rejected=pl.when(turned).then("chosen").otherwise("rejected"))


def main() -> None:
    """Train, cook and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("other")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--most", type=int, default=600, help="pairs of another kind")
    arguments = parser.parse_args()
    seen, rest = split(read(arguments.data).pairs, 0.35)
    to_choose = pl.Series([int(prompt_id(p)[16:24], 16) % 3 == 0 for (p,) in rest.select("prompt").iter_rows()])
    choosing, test, other = rest.filter(to_choose), rest.filter(~to_choose), read(arguments.other).pairs.head(arguments.most)
    print(f"{seen.height:,} pairs to train on, {choosing.height:,} to choose by, {test.height:,} to test, {other.height:,} of another kind")
    for share in (0.0, 0.25):
        rows, folder = flipped(seen, share), arguments.output / f"flipped-{share}"
        start = train(rows, config(model=arguments.model, max_steps=20, learning_rate=1e-4), folder / "start")
        runs = [train(rows, config(model=str(start), max_steps=arguments.steps, learning_rate=RATES[i], seed=i + 1), folder / f"run-{i}") for i in range(arguments.runs)]
        long = train(rows, config(model=str(start), max_steps=arguments.steps * arguments.runs, learning_rate=1e-4, seed=1), folder / "long")
        soup(runs, folder / "uniform")
        taken = soup(runs, folder / "greedy", by=choosing)["soup"]
        best = max(runs, key=lambda run: float((margins(run, choosing) > 0).mean()))
        found = {c: [margins(c, pairs) for pairs in (test, other)] for c in (*runs, long, folder / "uniform", folder / "greedy")}
        print(f"\n### {share:.0%} of the training labels flipped (greedy took {len(taken)} of {len(runs)})\n\n| | test | another kind |\n|---|---:|---:|")
        for name, checkpoints in (("single run, mean of all", None), ("best single run on the choosing pairs", [best]), ("one run of as many steps", [long]), ("uniform soup", [folder / "uniform"]), ("greedy soup", [folder / "greedy"]), ("ensemble of all rewards", runs)):
            cells = []
            for place, pairs in enumerate((test, other)):
                each = [found[c][place] for c in (checkpoints or runs)]
                right = np.mean([m > 0 for m in each], axis=0) if checkpoints is None else (np.mean(each, axis=0) > 0).astype(float)
                prompts = [prompt_id(p) for (p,) in pairs.select("prompt").iter_rows()]
                draws = resampled_means({name: (np.arange(len(right)), right)}, prompts, ["all"] * len(prompts), name)[name]
                low, high = interval(float(right.mean()), draws, len(set(prompts)))
                cells.append(f"{100 * right.mean():.1f} ({100 * low:.1f}-{100 * high:.1f})")
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
