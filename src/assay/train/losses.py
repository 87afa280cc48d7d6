"""Losses on the rewards of pairs, and on ratings.

Every pair loss takes the rewards of the chosen and the rejected answers and the pairs' margins, fp32 tensors of shape [n], and gives a loss for each pair,
[n]. All are safe for any difference of rewards: no logarithm of a sigmoid that has become 0. With d = chosen - rejected and
p = sigmoid(d), ``LOSSES`` has, under the names of arXiv 2410.18451 (Skywork-Reward), section 4, the losses of its ablation, and others with
their sources. The values of the free parameters are not published there; the defaults are ours unless a source is named.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.train.config import LossConfig

Loss = Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log p: the likelihood of the preference (Bradley and Terry 1952), the loss of the released Skywork-Reward models."""
    return -F.logsigmoid(chosen.float() - rejected.float())


def _bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-log p with p = sigmoid(d), d = chosen - rejected (Ouyang et al. 2022, arXiv 2203.02155, eq. 1)."""
    return -F.logsigmoid(chosen - rejected)


def _temperature_bt(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-log sigmoid(d / T): Bradley-Terry with `temperature` T."""
    return -F.logsigmoid((chosen - rejected) / config.temperature)


def _focal(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-(1 - p)^`gamma` log p: pairs that are already right count less (Lin et al. 2017, arXiv 1708.02002)."""
    d = chosen - rejected
    return -torch.exp(config.gamma * F.logsigmoid(-d)) * F.logsigmoid(d)


def _focal_penalty(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-(1 - 2 max(0, p - 1/2))^`gamma` log p: as `focal` for right pairs, plain Bradley-Terry for wrong ones (InternLM2, arXiv 2403.17297; gamma 2)."""
    d = chosen - rejected
    right = d.clamp(min=0)  # 1 - 2 max(0, p - 1/2) = 2 sigmoid(-d) where d > 0, otherwise 1
    return -torch.exp(config.gamma * (math.log(2) + F.logsigmoid(-right))) * F.logsigmoid(d)


def _hinge(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """max(0, m - d) with m = `margin`."""
    return F.relu(config.margin - (chosen - rejected))


def _margin_mse(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """(d - m)² with m = `margin`."""
    return (chosen - rejected - config.margin) ** 2


def _cross_entropy(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-log sigmoid(chosen) - log(1 - sigmoid(rejected)): each answer judged alone."""
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def _tempered_log(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """(1 - p^(1 - t)) / (1 - t) with t = `tempering`: a logarithm that stays finite for wrong pairs; t = 1 is Bradley-Terry (Carpenter et al., tempered losses)."""
    log_p = F.logsigmoid(chosen - rejected)
    rest = 1 - config.tempering
    return -log_p if rest == 0 else -torch.expm1(rest * log_p) / rest


def _margin_bt(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-log sigmoid(d - margin of the pair): a stronger preference must be won by more (Llama 2, arXiv 2307.09288, eq. 2)."""
    return -F.logsigmoid(chosen - rejected - margin)


def _scaled_bt(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """-margin of the pair x log p: a stronger preference counts as several (HelpSteer2-Preference, arXiv 2410.01257)."""
    return -margin * F.logsigmoid(chosen - rejected)


LOSSES: dict[str, Loss] = {
    "bradley_terry": _bradley_terry,
    "temperature_bt": _temperature_bt,
    "focal": _focal,
    "focal_penalty": _focal_penalty,
    "hinge": _hinge,
    "margin_mse": _margin_mse,
    "cross_entropy": _cross_entropy,
    "tempered_log": _tempered_log,
    "margin_bt": _margin_bt,
    "scaled_bt": _scaled_bt,
}


def pair_losses(chosen: Tensor, rejected: Tensor, margin: Tensor, config: LossConfig) -> Tensor:
    """The loss of each pair, [n] fp32, with what is asked for beside it.

    `smoothing` s makes of any loss (1 - s) times itself and s times that of the opposite label: what is to be expected if a share s of the labels is flipped (Szegedy et al. 2016, arXiv 1512.00567).
    `centre` adds c (chosen + rejected)² to each pair, which holds the rewards around 0 (arXiv 2312.09244; c = 0.01 in use).
    """
    chosen, rejected, margin = chosen.float(), rejected.float(), margin.float()
    losses = LOSSES[config.kind](chosen, rejected, margin, config)
    if config.smoothing:
        losses = (1 - config.smoothing) * losses + config.smoothing * LOSSES[config.kind](rejected, chosen, margin, config)
    return losses + config.centre * (chosen + rejected) ** 2 if config.centre else losses


def step_terms(outputs: Tensor, lengths: Tensor, config: LossConfig) -> Tensor:
    """The terms that all rewards of a step have together, a scalar. ``outputs`` [n, k] and the ``lengths`` [n] of the answers.

    `sum_to_zero` weighs (sum of the rewards)² / n, which holds them around 0 together (arXiv 2505.07271). `length_head` weighs
    |correlation of the first output with length| - correlation of the second with it: the pair loss sees the sum of both, so that the second takes up
    what length explains and the first, which alone is the reward afterwards, does not (ODIN, arXiv 2402.07319; without its
    orthogonality of the two heads).
    """
    total = torch.zeros((), device=outputs.device)
    if config.sum_to_zero:
        total = total + config.sum_to_zero * outputs[:, 0].sum() ** 2 / len(outputs)
    if config.length_head:
        total = total + config.length_head * (_correlation(outputs[:, 0], lengths).abs() - _correlation(outputs[:, 1], lengths))
    return total


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(), b - b.mean()
    both: Tensor = (a * b).sum() / (a.norm().clamp(min=1e-3) * b.norm().clamp(min=1e-3))
    return both


def rating_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each answer, [n]: the mean over its attributes that are rated. ``outputs`` and ``targets`` are [n, k], NaN where there is no rating.

    The masked regression of HelpSteer2 (arXiv 2406.08673, section 3), on the scale of the ratings; but every answer weighs the same here, where NeMo's code weighs every rating the same, which
    differs where answers have different numbers of ratings.
    """
    rated = ~targets.isnan()
    error = torch.where(rated, outputs.float() - targets.nan_to_num(), 0.0) ** 2
    return error.sum(dim=1) / rated.sum(dim=1).clamp(min=1)
