"""Soups: one model whose weights are the mean of several trained from the same start.

A uniform soup averages all; a greedy one takes the best first and then each that does not make the mean worse on pairs set apart for the choice (Wortsman et al. 2022,
arXiv 2203.05482; over data sets POINTS, arXiv 2409.04828; reward models WARM, arXiv 2401.12187). Weights are summed in fp32, a file at a time. It works where the
runs lie in one basin: the same backbone and the same first head, learning rates within a factor of ten.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open
from torch import Tensor

from assay.errors import AssayError
from assay.evaluate.contamination import write_hashes
from assay.files import MANIFEST, check_replaceable, read_json
from assay.model import checkpoint
from assay.model import contract as contracts
from assay.model.reward_model import RewardModel, from_checkpoint, precision_of
from assay.train.measure import score_sides

Judge = Callable[[RewardModel], tuple[float, float]]
"""(accuracy, loss) of a model on the pairs that choose."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one checkpoint in a greedy soup."""

    checkpoint: str
    accuracy: float
    loss: float
    accuracy_with: float
    loss_with: float
    taken: bool


def mean_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the checkpoints' weights, in fp32; counters and other whole numbers are those of the first.

    Raises:
        AssayError: two have not the same weights by name and shape.
    """
    total: dict[str, Tensor] = {}
    for number, folder in enumerate(folders):
        seen = 0
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                for name in list(tensors.keys()):
                    value = tensors.get_tensor(name)
                    seen += 1
                    if number == 0:
                        total[name] = value.float() if value.is_floating_point() else value
                    elif name not in total or total[name].shape != value.shape:
                        raise AssayError(f"{folder}: its weight {name} {list(value.shape)} is not in {folders[0]}; only models of the same backbone make a soup")
                    elif value.is_floating_point():
                        total[name] += (value.float() - total[name]) / (number + 1)
        if seen != len(total):
            raise AssayError(f"{folder}: has {seen} weights, {folders[0]} has {len(total)}; only models of the same backbone make a soup")
    return total


def cook(folders: Sequence[Path], *, start: Path | None = None, scale: float = 1.0) -> RewardModel:
    """The model of mean weights; with ``start``, start + ``scale`` x (mean - start): task arithmetic, and beyond 1 the extrapolation of ExPO (arXiv 2404.16792).

    Raises:
        AssayError: a checkpoint has another architecture, tokenizer, template or other attributes than the first.
    """
    every = [contracts.read(folder) for folder in folders]
    for folder, other in zip([*folders, *([start] if start else [])], [*every, *([contracts.read(start)] if start else [])], strict=True):
        if not list(folder.glob("*.safetensors")):
            raise AssayError(f"{folder}: has no safetensors files to average; an ONNX export is no ingredient")
        alike = ("template_sha256", "tokenizer_sha256", "max_length", "add_special_tokens")
        for what in alike if folder == start else ("attributes", *alike):  # a start may have called its outputs otherwise
            if getattr(other, what) != getattr(every[0], what):
                raise AssayError(f"{folder}: its {what} is not that of {folders[0]}; only models that read the same text the same way make a soup")
    weights = mean_weights(folders)
    if start is not None:
        first = mean_weights([start])
        if {name: one.shape for name, one in first.items()} != {name: one.shape for name, one in weights.items()}:
            raise AssayError(f"{start}: its weights are not those of {folders[0]} by name and shape; it is not what they were trained from")
        for name, base in first.items():
            if base.is_floating_point():
                weights[name] = base + scale * (weights[name] - base)
    merge = {name: float(np.mean([other.weights[name] for other in every])) for name in every[0].attributes}
    reward_model = from_checkpoint(folders[0], every[0].max_length, every[0].add_special_tokens, merge)
    reward_model.model.load_state_dict(weights)
    return reward_model


def greedy(folders: Sequence[Path], judge: Judge, *, ties: bool = True) -> tuple[list[Path], list[Decision]]:
    """The checkpoints that a greedy soup takes, best first, and every decision.

    Accuracy decides, the loss where accuracies are equal. A checkpoint that leaves both as they are is taken if ``ties`` (POINTS) or not (model soups).
    """
    alone = {folder: judge(cook([folder])) for folder in folders}
    order = sorted(folders, key=lambda f: (-alone[f][0], alone[f][1], str(f)))
    pool, best = [order[0]], alone[order[0]]
    decisions = [Decision(str(order[0]), *best, *best, True)]
    for folder in order[1:]:
        found = judge(cook([*pool, folder]))
        taken = found == best if (found[0] == best[0] and found[1] == best[1]) and ties else (found[0], -found[1]) > (best[0], -best[1])
        decisions.append(Decision(str(folder), *alone[folder], *found, taken))
        if taken:
            pool, best = [*pool, folder], found
    return pool, decisions


def judge_on(pairs: pl.DataFrame, precision: str = "auto", tokens: int = 4_096) -> Judge:
    """A judge by the accuracy and the Bradley-Terry loss on ``pairs``."""
    def judge(reward_model: RewardModel) -> tuple[float, float]:
        margins = np.subtract(*score_sides(reward_model, pairs, precision_of(precision, reward_model.device), tokens)).astype(np.float64)
        return float((margins > 0).mean()), float(np.logaddexp(0, -margins).mean())

    return judge


def soup(folders: Sequence[Path], output: Path, *, by: pl.DataFrame | None = None, start: Path | None = None, scale: float = 1.0) -> dict[str, Any]:
    """Write a soup of checkpoints to ``output``: greedy on the pairs ``by``, or uniform without; what is in it.

    Raises:
        AssayError: fewer than two checkpoints (one, with ``start``), they don't fit together, or ``output`` cannot be replaced.
    """
    if len(folders) < (1 if start else 2):
        raise AssayError(f"a soup needs at least two checkpoints, found {len(folders)}")
    check_replaceable(output, *folders, *([start] if start else []))
    chosen, decisions = greedy(folders, judge_on(by)) if by is not None and len(folders) > 1 else (list(folders), [])
    reward_model = cook(chosen, start=start, scale=scale)
    about: dict[str, Any] = {
        "soup": [str(f) for f in chosen],
        "greedy": [asdict(d) for d in decisions],
        "start": str(start) if start else None,
        "scale": scale,
        "fingerprint": None,
        "trained_with": [read_json(f / MANIFEST).get("config") for f in chosen],
    }
    if by is not None:
        about["accuracy_on_choosing_pairs"], _ = judge_on(by)(reward_model)
    checkpoint.save(reward_model, output, manifest=about)
    write_hashes(output, [], [*chosen, *([start] if start else [])])
    return about
