"""What a training would take, before it starts: tokens, padding, steps, memory."""

from typing import Any

import polars as pl
import torch

from assay.model.backbones import locate
from assay.model.layout import Name, size
from assay.model.network import Network
from assay.model.reward_model import best_device, from_backbone, precision_of
from assay.train.batches import ExampleSet, parts
from assay.train.config import TrainConfig
from assay.train.examples import examples_of, split
from assay.train.train import networked, outputs_of, steps_for
from assay.train.trainer import steps_of

SAMPLED = 50
"""Steps laid out to find the share of padding."""
KEPT = 90.0
"""Bytes that a layer keeps for its backward pass for each value of a token's hidden vector, in bf16; found on SmolLM2 and MiniLM on a CPU
(Korthikanti et al. 2022, arXiv 2205.05198, count 34 where nothing is kept in fp32)."""
PROGRAM = 0.6
"""GB of the process before a model is loaded."""


def plan(rows: pl.DataFrame, config: TrainConfig) -> dict[str, Any]:
    """Counts of a training of ``rows`` by ``config``; the memory in GB is an estimate.

    Raises:
        AssayError: as ``train``.
    """
    seen, held_out = split(rows, config.validation)
    precision = precision_of(config.precision, best_device())
    reward_model = from_backbone(locate(config.model), config.max_length, config.seed, outputs_of(config), four_bits=precision if config.lora and config.lora.bits else None)
    examples, truncated = examples_of(reward_model, seen, config)
    network, _ = networked(reward_model, config)
    steps = list(steps_of(ExampleSet(examples), config, network))[:SAMPLED]
    real: Name = "shared" if network.layout == "shared" else "packed"
    computed = used = 0
    for part in (part for step in steps for part in parts(step, config.tokens_per_batch, network.layout)):
        used += sum(size(group, real) for group in part.groups)
        computed += _computed(part.groups, network)
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    kept = PROGRAM + (weights + 12 * trained) / 1e9  # gradients and two moments of what is trained
    return {
        "rows": seen.height,
        "held_out": held_out.height,
        "truncated": truncated,
        "steps": steps_for(seen.height, config),
        "batch_size": config.batch_size,
        "layout": network.layout,
        "tokens": sum(size(e.answers, real) for e in examples),
        "tokens_apart": sum(len(answer) for e in examples for answer in e.answers),
        "padding": 1 - used / computed if computed else 0.0,
        "parameters": parameters,
        "trained": trained,
        "precision": precision,
        "device": str(best_device()),
        "gigabytes": kept + _activations(network, config, precision),
        "gigabytes_kept": kept,
    }


def _computed(groups: Any, network: Network) -> int:
    if network.layout == "padded":
        return size([one for group in groups for one in group], "padded")
    return sum(size(group, network.layout) for group in groups)


def _activations(network: Network, config: TrainConfig, precision: str) -> float:
    shape = network.model.config.get_text_config()
    layers, wide = shape.num_hidden_layers, shape.hidden_size
    scores = 2 * shape.num_attention_heads * min(config.max_length, config.tokens_per_batch)
    of_a_layer = config.tokens_per_batch * (KEPT * wide + (scores if not torch.cuda.is_available() else 0))
    ends = config.tokens_per_batch * 2 * wide
    held = of_a_layer + layers * ends if config.gradient_checkpointing else layers * of_a_layer
    return float(held * (1.0 if precision == "bf16" else 1.5) / 1e9)
