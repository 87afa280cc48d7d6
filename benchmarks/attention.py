"""Training and scoring on a CPU: plain matrix products against PyTorch's fused attention kernel, same model, same batches, rounds alternated.

    python benchmarks/attention.py [MODEL]        prints a Markdown table; MODEL is minilm by default

The peer is transformers' ``sdpa`` attention, which is what every other trainer runs on a CPU.
"""

import statistics
import sys
import time

import torch

from assay.model import attention
from assay.model.backbones import locate
from assay.model.reward_model import RewardModel, from_backbone, in_precision
from assay.train.losses import bradley_terry

TOKENS, ROUNDS = 4_096, 5
LENGTHS = (32, 64, 128, 256, 512, 1_024)


def seconds_of(what: str, reward_model: RewardModel, length: int, implementation: str, precision: str) -> float:
    """Seconds of a pass of ``TOKENS`` tokens in sequences of ``length``, forward and in training backward too."""
    pairs = TOKENS // (2 * length)
    reward_model.model.set_attn_implementation(implementation)
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1_000, 20_000, (2 * pairs, length), generator=generator).tolist()
    ids = [one[: length - i % 4] for i, one in enumerate(ids)]
    start = time.perf_counter()
    with in_precision(precision, reward_model.device), torch.set_grad_enabled(what == "training"):
        rewards = reward_model.rewards(ids)
    if what == "training":
        bradley_terry(rewards[:pairs], rewards[pairs:]).mean().backward()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    reward_model = from_backbone(locate(sys.argv[1] if len(sys.argv) > 1 else "minilm"), 512, 0)
    limit = reward_model.model.config.max_position_embeddings
    reward_model.model.train()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {TOKENS:,} tokens at once, median of {ROUNDS}\n")
    print("| | precision | tokens a side | sdpa, ms | plain products, ms | times faster |\n|---|---|---:|---:|---:|---:|")
    for what, precision in (("training", "bf16"), ("scoring", "bf16"), ("training", "fp32")):
        for length in (n for n in LENGTHS if n <= limit):
            times: dict[str, list[float]] = {"sdpa": [], attention.NAME: []}
            for _ in range(ROUNDS + 1):
                for implementation, seconds in times.items():
                    seconds.append(seconds_of(what, reward_model, length, implementation, precision))
            fused, ours = (statistics.median(seconds[1:]) for seconds in times.values())
            print(f"| {what} | {precision} | {length} | {1000 * fused:.0f} | {1000 * ours:.0f} | {fused / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
