"""Faster, not different: accuracy after the same number of steps by Assay and by TRL, on the same pairs with the same settings.

    python benchmarks/equal_steps.py PAIRS -o FOLDER [--model minilm] [--seeds 3] [--steps 60]         prints a Markdown table

Each orders the pairs by its own random numbers; everything else is the same (precision, AdamW, cosine, learning rate, first head by seed). A fifth of the prompts is the test.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from assay.model.backbones import locate
from assay.model.checkpoint import load
from assay.model.reward_model import RewardModel, from_backbone, precision_of
from assay.pairs.read import read
from assay.train.config import TrainConfig
from assay.train.examples import split
from assay.train.measure import score_sides
from assay.train.train import train
from losses import half_width

LENGTH, BATCH, RATE, WARMUP, DECAY = 128, 32, 1e-4, 0.1, 1e-3


def by_trl(seen: list[tuple[list[int], list[int]]], reward_model: RewardModel, steps: int, seed: int) -> None:
    """Train ``reward_model`` in place by TRL."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    tokenizer = reward_model.tokenizer
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    with tempfile.TemporaryDirectory() as folder:
        settings = RewardConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=RATE, lr_scheduler_type="cosine", warmup_steps=round(WARMUP * steps), weight_decay=DECAY,
            max_length=LENGTH, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, gradient_checkpointing=False, seed=seed,
            bf16=precision_of("auto", torch.device("cpu")) == "bf16",
        )
        RewardTrainer(model=reward_model.model, args=settings, train_dataset=Dataset.from_dict({"chosen_ids": [c for c, _ in seen], "rejected_ids": [r for _, r in seen]}), processing_class=tokenizer).train()


def main() -> None:
    """Train both ways and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    seen, test = split(read(arguments.data).pairs, 0.2)
    found: dict[str, list[float]] = {"Assay": [], "TRL": []}
    for seed in range(arguments.seeds):
        config = TrainConfig.model_validate({"model": arguments.model, "max_length": LENGTH, "max_steps": arguments.steps, "batch_size": BATCH, "learning_rate": RATE, "warmup": WARMUP, "weight_decay": DECAY, "validation": 0, "seed": seed})
        ours, _ = load(train(seen, config, arguments.output / f"assay-{seed}"))
        theirs = from_backbone(locate(arguments.model), LENGTH, seed)
        rows = seen.select("prompt", "chosen", "rejected").rows()
        chosen, _ = theirs.encode([p + c for p, c, _ in rows])
        rejected, _ = theirs.encode([p + r for p, _, r in rows])
        by_trl(list(zip(chosen, rejected, strict=True)), theirs, arguments.steps, seed)
        for name, model in (("Assay", ours), ("TRL", theirs)):
            better, worse = score_sides(model, test, "fp32", 8_192)
            found[name].append(float((better > worse).mean()))
    print(f"{arguments.model}, {seen.height:,} pairs, {test.height:,} to test, {arguments.steps} steps of {BATCH}\n\n| | accuracy | each seed |\n|---|---:|---|")
    for name, values in found.items():
        print(f"| {name} | {100 * np.mean(values):.1f} | {', '.join(f'{100 * v:.1f}' for v in values)} |")
    apart = [a - b for a, b in zip(found["Assay"], found["TRL"], strict=True)]
    print(f"\nAssay - TRL, seed by seed: {100 * np.mean(apart):+.1f} ± {100 * half_width(apart):.1f} (95%, Student's t)")


if __name__ == "__main__":
    main()
