"""Training speed against TRL's ``RewardTrainer``: the same backbone, the same token ids, the same batch size, runs alternated; pairs a second and peak memory.

    python benchmarks/training.py PAIRS --model smollm2 [--lora] [--pairs 64] [--rounds 2]         prints a Markdown table

Arms: ``assay``; ``trl`` with its defaults; ``trl tuned``, without gradient checkpointing; ``trl tuned, by length``, which also groups by length (it takes a data set that
is already tokenised and has a column of lengths). Every run is a process of its own and trains on the same pairs once, timed from
the beginning of the first step to the end of the last, and without the first, in which memory is touched and kernels are made; pairs with a side of more than ``--length`` tokens are left out for all. The ceiling is what the processor's matrix products alone would take:
6 operations a weight and token (4 where only an adapter is trained), embeddings left out, at the rate measured here in bf16.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from assay.model.backbones import locate
from assay.model.layout import size
from assay.model.network import is_decoder
from assay.model.reward_model import RewardModel, from_backbone
from assay.pairs.read import read
from assay.train.config import TrainConfig
from assay.train.train import train
from assay.train.trainer import RewardTrainer

BATCH = 8
ARMS = ("assay", "trl", "trl tuned", "trl tuned, by length")


def sample(source: str, model: str, number: int, length: int) -> tuple[Any, RewardModel, list[list[int]], list[list[int]]]:
    """``number`` pairs that fit, the same for every arm, and their token ids."""
    reward_model = from_backbone(locate(model), length, 0)
    pairs = read(source).pairs.sample(fraction=1.0, shuffle=True, seed=0)
    rows = pairs.select("prompt", "chosen", "rejected").rows()
    chosen, cut = reward_model.encode([p + c for p, c, _ in rows])
    rejected, also_cut = reward_model.encode([p + r for p, _, r in rows])
    fit = [i for i in range(len(rows)) if not cut[i] and not also_cut[i]][:number]
    return pairs[fit], reward_model, [chosen[i] for i in fit], [rejected[i] for i in fit]


def assay(arguments: argparse.Namespace, folder: Path) -> list[float]:
    """When each step began and ended, by Assay."""
    pairs, *_ = sample(arguments.data, arguments.model, arguments.pairs, arguments.length)
    config = TrainConfig.model_validate({"model": arguments.model, "max_length": arguments.length, "batch_size": BATCH, "validation": 0, "lora": {} if arguments.lora else None})
    times: list[float] = []
    step = RewardTrainer.training_step

    def timed(*given: Any, **more: Any) -> Any:
        times.append(time.perf_counter())
        return step(*given, **more)

    RewardTrainer.training_step = timed  # type: ignore[method-assign]
    train(pairs, config, folder, progress=lambda *_: times.append(time.perf_counter()))
    return times


def trl(arguments: argparse.Namespace, folder: Path, *, tuned: bool, by_length: bool) -> list[float]:
    """When each step began and ended, by TRL."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import RewardConfig, RewardTrainer

    _, reward_model, chosen, rejected = sample(arguments.data, arguments.model, arguments.pairs, arguments.length)
    tokenizer = reward_model.tokenizer
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token
    reward_model.model.set_attn_implementation("sdpa")
    columns: dict[str, Any] = {"chosen_ids": chosen, "rejected_ids": rejected}
    settings: dict[str, Any] = {"gradient_checkpointing": False} if tuned else {}
    if by_length:
        columns["length"] = [max(len(c), len(r)) for c, r in zip(chosen, rejected, strict=True)]
        settings |= {"train_sampling_strategy": "group_by_length", "length_column_name": "length", "remove_unused_columns": False}
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    trainer = RewardTrainer(
        model=reward_model.model,
        args=RewardConfig(output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=1, max_length=arguments.length, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, **settings),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", modules_to_save=["score"]) if arguments.lora else None,
        callbacks=[Clock()],
    )
    trainer.train()
    return times


def one(arguments: argparse.Namespace) -> None:
    """Run one arm and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        times = assay(arguments, Path(folder)) if arguments.one == "assay" else trl(arguments, Path(folder), tuned="tuned" in arguments.one, by_length="length" in arguments.one)
    print(json.dumps({"pairs_a_second": arguments.pairs / (times[-1] - times[0]), "after_the_first_step": (arguments.pairs - BATCH) / (times[-1] - times[2]), "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


def rate() -> float:
    """Operations a second of matrix products in bf16."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def ceiling(arguments: argparse.Namespace) -> tuple[float, str]:
    """Pairs a second that the matrix products alone would allow, and how many tokens a pair has, in words."""
    _, reward_model, chosen, rejected = sample(arguments.data, arguments.model, arguments.pairs, arguments.length)
    model = reward_model.model
    weights = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.get_input_embeddings().parameters())
    alone = sum(map(len, chosen + rejected)) / len(chosen)
    tokens = sum(size(group, "shared" if is_decoder(model) else "packed") for group in zip(chosen, rejected, strict=True)) / len(chosen)
    return rate() / ((4 if arguments.lora else 6) * weights * tokens), f"{alone:.0f} tokens a pair, {tokens:.0f} with the prompt once" if is_decoder(model) else f"{alone:.0f} tokens a pair"


def main() -> None:
    """Alternate the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(arguments)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arguments.arms}
    for _ in range(arguments.rounds):
        for arm in arguments.arms:
            command = [sys.executable, __file__, arguments.data, "--model", arguments.model, "--pairs", str(arguments.pairs), "--length", str(arguments.length), "--one", arm, *(["--lora"] if arguments.lora else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{arm}: {done.stderr[-2000:]}")
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
            print(arm, found[arm][-1], file=sys.stderr)
    most, tokens = ceiling(arguments)
    rates = {arm: [statistics.mean(run[kind] for run in runs) for kind in ("pairs_a_second", "after_the_first_step")] for arm, runs in found.items()}
    ours, later = rates["assay"]
    print(f"{arguments.model}{', LoRA' if arguments.lora else ''}: {tokens}; batch {BATCH}, {arguments.pairs} pairs, {torch.get_num_threads()} threads; ceiling {most:.2f} pairs a second, of which Assay {ours / most:.0%}\n")
    print("| arm | pairs a second (each run) | Assay is faster | without the first step | Assay is faster | peak GB |\n|---|---:|---:|---:|---:|---:|")
    for arm, runs in found.items():
        mean, without = rates[arm]
        each = ", ".join(format(run["pairs_a_second"], ".2f") for run in runs)
        print(f"| {arm} | {mean:.2f} ({each}) | {ours / mean:.1f} | {without:.2f} | {later / without:.1f} | {max(run['gigabytes'] for run in runs):.1f} |")
    return None


if __name__ == "__main__":
    main()
