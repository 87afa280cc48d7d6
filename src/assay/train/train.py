"""The verb ``train``: pairs in, a checkpoint with its contract out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import TrainerCallback

from assay.errors import AssayError
from assay.files import MANIFEST, fingerprint, is_done, read_json, start_over
from assay.model import checkpoint
from assay.model.backbones import locate
from assay.model.reward_model import RewardModel, from_backbone, precision_of
from assay.pairs.schema import prompt_id
from assay.train.batches import TokenPair
from assay.train.config import TrainConfig
from assay.train.trainer import PairTrainer, callbacks, last_complete, read_metrics, score_sides

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps in all, latest metrics)."""


def train(pairs: pl.DataFrame, config: TrainConfig, folder: Path, *, progress: Progress | None = None, name: str = "validation") -> Path:
    """Train a Bradley-Terry reward model and write it to ``folder/checkpoint``; resume what an earlier call left in ``folder``.

    A part of the prompts is held out by their content (``config.validation``); accuracy on it goes into the manifest, and the mean and
    standard deviation of its rewards into the contract.

    Args:
        pairs: a pair table; the column ``weight`` is used where it is not null.
        config: see ``TrainConfig``.
        folder: for the checkpoint, ``metrics.jsonl`` and unfinished work.
        progress: called after every step.
        name: what the held-out part is called in the contract.

    Returns:
        The folder of the checkpoint.

    Raises:
        AssayError: there is nothing to train on, or the backbone cannot be loaded.
    """
    result = folder / "checkpoint"
    print_ = fingerprint(pairs.select("id").rows(), pairs["weight"].to_list(), config.model_dump(), name)
    if is_done(result, print_):
        return result
    seen, held_out = split(pairs, config.validation)
    if seen.height == 0:
        raise AssayError(f"nothing to train on: {pairs.height} pairs, {held_out.height} of them held out (train.validation is {config.validation})")
    work = folder / "work"
    start_over(work, print_)
    reward_model = from_backbone(locate(config.model), config.max_length, config.seed)
    tokens, truncated = tokenise(reward_model, seen)
    steps = config.max_steps or max(1, round(config.epochs * -(-seen.height // config.batch_size)))
    precision = precision_of(config.precision, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    more: list[TrainerCallback] = [_Report(progress)] if progress else []
    trainer = PairTrainer(reward_model, tokens, held_out, config, precision, work, callbacks(config, work, held_out.height > 0, more), steps)
    start = last_complete(work)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    manifest = {
        "fingerprint": print_,
        "config": config.model_dump(),
        "precision": precision,
        "pairs": seen.height,
        "held_out": held_out.height,
        "truncated_pairs": truncated,
        "steps": trainer.state.global_step,
        "metrics": read_metrics(work / "metrics.jsonl"),
    }
    measured = _measure(trainer, held_out, name, manifest)
    checkpoint.save(reward_model, result, measured=measured, manifest=manifest)
    shutil.rmtree(work)
    return result


def split(pairs: pl.DataFrame, share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(training part, held-out part): about ``share`` of the prompts are held out, no prompt is in both, order plays no part."""
    place = [int(prompt_id(p)[8:16], 16) / 2**32 for (p,) in pairs.select("prompt").iter_rows()]
    held_out = pl.Series(place, dtype=pl.Float64) < share
    return pairs.filter(~held_out), pairs.filter(held_out)


def tokenise(reward_model: RewardModel, pairs: pl.DataFrame) -> tuple[list[TokenPair], int]:
    """Token pairs, and how many of them were longer than the model reads."""
    rows = list(pairs.select("prompt", "chosen", "rejected", "weight").iter_rows())
    chosen, cut_chosen = reward_model.encode([p + c for p, c, _, _ in rows])
    rejected, cut_rejected = reward_model.encode([p + r for p, _, r, _ in rows])
    weights = [1.0 if w is None else float(w) for *_, w in rows]
    cut = sum(a or b for a, b in zip(cut_chosen, cut_rejected, strict=True))
    return [TokenPair(c, r, w) for c, r, w in zip(chosen, rejected, weights, strict=True)], cut


def _measure(trainer: PairTrainer, held_out: pl.DataFrame, name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Score the held-out part once more with the final weights, for the manifest and the contract."""
    if held_out.height == 0:
        return {}
    chosen, rejected = score_sides(trainer.reward_model, held_out, trainer.precision, trainer.config.tokens_per_batch)
    manifest["accuracy"] = float((chosen > rejected).mean())
    manifest["ties"] = int((chosen == rejected).sum())
    both = np.concatenate([chosen, rejected]).astype(np.float64)
    return {"mean": float(both.mean()), "std": float(both.std()), "measured_on": name}


class _Report(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.latest: dict[str, Any] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.latest = {**self.latest, **(logs or {})}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.latest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a training: its configuration, counts, metrics and held-out accuracy."""
    manifest: dict[str, Any] = read_json(folder / "checkpoint" / MANIFEST)
    return manifest
