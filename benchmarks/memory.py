"""Does memory stay flat over a long run? 10,000 pairs of two times 512 tokens through a small model; the process's memory along the way.

    python benchmarks/memory.py [--pairs 10000] [--tokens 8192]         prints a Markdown table

The model has MiniLM's tokenizer, one layer and random weights, so that the run takes minutes: what could grow is what is kept from step to step, not the weights.
"""

import argparse
import random
import tempfile
from pathlib import Path

from transformers import AutoTokenizer, BertConfig, BertModel

from assay.model.backbones import locate
from assay.pairs.schema import from_rows
from assay.train.config import TrainConfig
from assay.train.train import train

WORDS = ["river", "hill", "town", "snow", "light", "bread", "stone", "winter", "garden", "music", "paper", "window", "silver", "engine", "planet", "forest"]


def megabytes() -> float:
    """Memory of this process now."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1e3


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=8_192)
    arguments = parser.parse_args()
    rng = random.Random(0)

    def turn(role: str, number: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(rng.choices(WORDS, k=number))}]

    pairs = from_rows([{"prompt": turn("user", 80), "chosen": turn("assistant", 600), "rejected": turn("assistant", 600)} for _ in range(arguments.pairs)])
    with tempfile.TemporaryDirectory() as folder:
        backbone = Path(folder) / "backbone"
        tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
        tokenizer.save_pretrained(backbone)
        BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128, pad_token_id=tokenizer.pad_token_id)).save_pretrained(backbone)
        seen: list[tuple[int, float]] = []
        config = TrainConfig.model_validate({"model": str(backbone), "max_length": 512, "batch_size": 32, "tokens_per_batch": arguments.tokens, "validation": 0, "save_every": 100})
        train(pairs, config, Path(folder) / "run", progress=lambda step, *_: seen.append((step, megabytes())))
    warm = seen[len(seen) // 20 :]
    print(f"{arguments.pairs:,} pairs, {len(seen)} steps, {arguments.tokens:,} tokens at once\n\n| step | MB |\n|---:|---:|")
    for share in (0, 0.05, 0.25, 0.5, 0.75, 1):
        step, used = seen[min(len(seen) - 1, round(share * len(seen)))]
        print(f"| {step} | {used:,.0f} |")
    print(f"\nfrom the {len(seen) // 20}th step on between {min(m for _, m in warm):,.0f} and {max(m for _, m in warm):,.0f} MB")


if __name__ == "__main__":
    main()
