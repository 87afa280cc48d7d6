"""Losses against closed forms in float64, at values where the naive form overflows."""

import math

import pytest
import torch

from assay.train.losses import bradley_terry

DIFFERENCES = [-100.0, -30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0, 100.0]


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bradley_terry_value_and_gradient(difference: float, dtype: torch.dtype) -> None:
    chosen = torch.tensor([difference], dtype=dtype, requires_grad=True)
    rejected = torch.zeros(1, dtype=dtype, requires_grad=True)
    loss = bradley_terry(chosen, rejected)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-abs(difference))) + max(0.0, -difference), rel=1e-6, abs=1e-30)
    loss.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    slope = -1 / (1 + math.exp(difference))
    assert chosen.grad.item() == pytest.approx(slope, rel=1e-2 if dtype == torch.bfloat16 else 1e-5, abs=1e-30)
    assert rejected.grad.item() == -chosen.grad.item()
