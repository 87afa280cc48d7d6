"""Attention for training on short sequences in bf16 on a CPU.

There, PyTorch's fused attention kernel is slow in its backward pass; with two plain matrix products the whole step is up to one and a half times faster
(``benchmarks/attention.py``). In fp32, for scoring, for sequences beyond ``FEW_TOKENS`` and on a GPU the fused kernel is as fast or
faster and is used. Both compute the same function.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "assay_short"
FEW_TOKENS = 256


def short_attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, dropout: float = 0.0, **kwargs: Any) -> tuple[Tensor, None]:
    """Attention of queries [n, heads, length, size]; returns [n, length, heads, size]. A mask is boolean, true where a token is seen."""
    length = query.shape[2]
    causal = attention_mask is None and getattr(module, "is_causal", False) and length > 1
    training = query.dtype == torch.bfloat16 and query.device.type == "cpu" and torch.is_grad_enabled()
    if not training or length > FEW_TOKENS or causal or dropout or kwargs.get("position_bias") is not None:
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        return out
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    with torch.autocast("cpu", enabled=False):
        scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(2, 3))
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        return torch.matmul(scores.softmax(dim=-1), value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, short_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
