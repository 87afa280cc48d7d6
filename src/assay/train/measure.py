"""What a model is worth on held-out rows: during training, for the manifest, and for the contract."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from assay.evaluate.intervals import DRAWS
from assay.model.reward_model import RewardModel
from assay.score.checkpoint import score_with
from assay.train.config import TrainConfig
from assay.train.losses import pair_losses

Floats = NDArray[np.float64]


def measure(reward_model: RewardModel, rows: pl.DataFrame, config: TrainConfig, precision: str, network: nn.Module | None = None) -> dict[str, float]:
    """Of pairs the accuracy, mean margin and loss; of rated answers the mean squared error (``loss``) and the R² of each attribute."""
    if config.attributes:
        found = ratings_by(reward_model, rows, precision, config.tokens_per_batch, network)
        return measure_ratings(found, ratings_of(rows, config.attributes), config.attributes)
    chosen, rejected = (torch.from_numpy(side) for side in score_sides(reward_model, rows, precision, config.tokens_per_batch, network))
    margins = torch.tensor(margins_of(rows, config))
    return {
        "accuracy": float((chosen > rejected).float().mean()),
        "margin": float((chosen - rejected).mean()),
        "loss": float(pair_losses(chosen, rejected, margins, config.loss).mean()),
    }


def score_sides(reward_model: RewardModel, pairs: pl.DataFrame, precision: str, tokens: int, network: nn.Module | None = None) -> tuple[Any, Any]:
    """Rewards of the chosen and of the rejected answers of a pair table, two fp32 arrays of shape [n]."""
    rows = list(pairs.select("prompt", "chosen", "rejected").iter_rows())
    conversations = [p + c for p, c, _ in rows] + [p + r for p, _, r in rows]
    values = score_with(reward_model, conversations, precision, tokens, network=network).values[:, 0]
    return values[: len(rows)], values[len(rows) :]


def margins_of(pairs: pl.DataFrame, config: TrainConfig) -> list[float]:
    """The margin that the loss reads of each pair; 0 where there is none, and 1 for ``scaled_bt``, whose margins multiply."""
    missing = 1.0 if config.loss.kind == "scaled_bt" else 0.0
    return [missing if m is None else abs(m) for m in pairs["margin"].to_list()]


def ratings_of(answers: pl.DataFrame, attributes: Sequence[str]) -> Floats:
    """The ratings of a table of rated answers, [n, k], NaN where there is none."""
    return answers.select(pl.col(f"attr_{name}").cast(pl.Float64).fill_null(float("nan")) for name in attributes).to_numpy()


def ratings_by(reward_model: RewardModel, answers: pl.DataFrame, precision: str, tokens: int, network: nn.Module | None = None) -> Floats:
    """The model's outputs for rated answers, [n, k]."""
    conversations = [p + r for p, r in answers.select("prompt", "response").iter_rows()]
    return score_with(reward_model, conversations, precision, tokens, network=network).outputs.astype(np.float64)


def measure_ratings(found: Floats, rated: Floats, attributes: Sequence[str]) -> dict[str, float]:
    """``loss``: the mean squared error over all ratings that are there; ``r2_NAME``: the share of an attribute's variance that is explained, at most 1, 0 for its mean."""
    error = (found - rated) ** 2
    metrics = {"loss": float(np.nanmean(error))}
    for i, name in enumerate(attributes):
        there = ~np.isnan(rated[:, i])
        spread = rated[there, i].var() if there.any() else 0.0
        metrics[f"r2_{name}"] = float(1 - error[there, i].mean() / spread) if spread else float("nan")
    return metrics


def r2_intervals(found: Floats, rated: Floats, attributes: Sequence[str], prompts: Sequence[str]) -> dict[str, list[float]]:
    """The 95% interval of each attribute's R², by a bootstrap over prompts (percentiles of ``DRAWS`` draws); without those that have no ratings, or all the same."""
    _, cluster = np.unique(np.asarray(prompts, dtype=object).astype(str), return_inverse=True)
    count = int(cluster.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
    intervals = {}
    for i, name in enumerate(attributes):
        there = ~np.isnan(rated[:, i])
        if not there.any() or not rated[there, i].var():
            continue
        y, error = rated[there, i], (found[there, i] - rated[there, i]) ** 2
        n, e, s, q = (drawn @ np.bincount(cluster[there], weights=one, minlength=count) for one in (np.ones(len(y)), error, y, y * y))
        with np.errstate(invalid="ignore", divide="ignore"):
            each = 1 - e / (q - s * s / n)
        intervals[name] = np.quantile(each[np.isfinite(each)], [0.025, 0.975]).tolist()
    return intervals
