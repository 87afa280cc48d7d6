"""Losses on the rewards of a pair, computed in fp32."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigmoid(chosen - rejected) for each pair; shapes [n] -> [n]. Safe for any difference.

    The Bradley-Terry likelihood of a preference, the loss of the released Skywork-Reward models (arXiv 2410.18451, section 4).
    """
    return -F.logsigmoid(chosen.float() - rejected.float())
