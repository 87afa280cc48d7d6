"""Attention over any boolean mask, in the way that is fastest where it runs.

In bf16 on a CPU PyTorch's fused kernel is slow, in its backward pass above all, and plain matrix products make a training step up to one and a
half times faster and scoring up to a fifth (``benchmarks/attention.py``). Elsewhere the fused kernel (SDPA) is as fast or faster and is used; it cannot cap the
scores as Gemma 2 does, so there too plain products are. All compute the same function.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from assay.model.layout import Block, apart, masks_of, slices

NAME = "assay"
FEW_TOKENS = 1_024
"""Beyond, the probabilities of a row of a dozen heads would be larger than the caches, and the fused kernel wins again."""


def attention(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, dropout: float = 0.0, blocks: Sequence[Block] = (), **kwargs: Any) -> tuple[Tensor, None]:
    """Attention of queries [n, heads, length, size] to keys and values of as many heads or fewer; returns [n, length, heads, size].

    A mask is boolean [n, 1, length, length], true where a token is seen. With ``blocks`` n is 1, groups are taken apart by them, and the mask is that of ``Row.sees``.
    """
    if torch.is_autocast_enabled(query.device.type):  # positions are turned in fp32, whatever the precision
        query, key, value = (t.to(torch.get_autocast_dtype(query.device.type)) for t in (query, key, value))
    causal = kwargs.get("is_causal")
    kwargs["is_causal"] = getattr(module, "is_causal", True) if causal is None else causal
    if not blocks:
        return attend(module, query, key, value, attention_mask, scaling, dropout, kwargs), None
    seen = [None if block.even and not kwargs["is_causal"] else mask for block, mask in zip(blocks, masks_of(attention_mask, blocks), strict=True)]
    rows = [t.transpose(1, 2) for t in (query, key, value)]
    if kwargs.get("softcap") is None and not dropout and _plain(query, max(block.width for block in blocks), kwargs):
        with torch.autocast(query.device.type, enabled=False):
            scaled = rows[0][0] * (scaling or query.shape[-1] ** -0.5)
            return _RowProducts.apply(scaled, rows[1][0], rows[2][0], blocks, [_hiding(mask, query.dtype) for mask in seen])[None], None  # type: ignore[no-untyped-call]
    found = []
    for block, mask, q, k, v in zip(blocks, seen, *(apart(t, blocks) for t in rows), strict=True):
        found.append(block.in_a_row(attend(module, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, scaling, dropout, kwargs)))
    return torch.cat(found)[None], None


def attend(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, dropout: float, more: dict[str, Any]) -> Tensor:
    """The same for whole sequences, without a mask of all tokens or, with ``is_causal`` in ``more``, of those before."""
    softcap, causal, length = more.get("softcap"), more["is_causal"], query.shape[2]
    plain = softcap is not None or _plain(query, key.shape[2], more)
    if not plain or dropout or (mask is None and causal and length != key.shape[2]):
        out: Tensor = sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **more)[0]
        return out
    if mask is None and causal:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]
    scale = scaling or query.shape[-1] ** -0.5
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        query = (query * scale).reshape(len(query), -1, groups * length, query.shape[-1])  # the queries of heads that share a key lie below each other
        hidden = _hiding(mask, query.dtype)
        result = _capped(query, key, value, hidden, groups, softcap) if softcap is not None else _Products.apply(query, key, value, hidden, groups)  # type: ignore[no-untyped-call]
        return result.reshape(len(result), heads, length, -1).transpose(1, 2).contiguous()


def _plain(query: Tensor, length: int, more: dict[str, Any]) -> bool:
    """Whether plain products are the faster way to attend to so many tokens."""
    return query.dtype == torch.bfloat16 and query.device.type == "cpu" and length <= FEW_TOKENS and more.get("position_bias") is None


def _hiding(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores: the least value where ``mask`` [n, 1, length, length] says that a token is not seen; [n, 1, 1, length, length]."""
    return None if mask is None else torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)[:, :, None]


def _capped(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, groups: int, softcap: float) -> Tensor:
    scores = torch.tanh((query @ key.transpose(2, 3)).float() / softcap) * softcap
    return torch.softmax(_hide(scores, hidden, groups), dim=-1).to(value.dtype) @ value


def _hide(scores: Tensor, hidden: Tensor | None, groups: int) -> Tensor:
    """Scores [n, key heads, groups x length, length] with the least value added to those that are not seen (four times as fast as to fill it in); in place."""
    if hidden is not None:
        scores.view(*scores.shape[:2], groups, -1, scores.shape[-1]).add_(hidden)
    return scores


def _products(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, groups: int) -> tuple[Tensor, Tensor]:
    """softmax(query keyᵀ) value, and the probabilities."""
    scores = _hide(query @ key.transpose(2, 3), hidden, groups)
    seen = torch.softmax(scores, -1, out=scores)
    return seen @ value, seen


def _derivatives(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the same, with respect to query, key and value."""
    slope = torch._softmax_backward_data(gradient @ value.transpose(2, 3), seen, -1, seen.dtype)
    return slope @ key, slope.transpose(2, 3) @ query, seen.transpose(2, 3) @ gradient


class _Products(torch.autograd.Function):
    """With its derivative written out nothing but the probabilities is kept, and nothing is repeated for grouped heads."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, groups: int) -> Tensor:
        found, seen = _products(query, key, value, hidden, groups)
        ctx.save_for_backward(query, key, value, seen)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, seen = ctx.saved_tensors
        return *_derivatives(query, key, value, seen, gradient), None, None


class _RowProducts(torch.autograd.Function):
    """The same for a row [tokens, heads, size], block by block: what belongs to a block is taken from the row and written to it again while it is in the caches."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], hidden: Sequence[Tensor | None]) -> Tensor:
        found, probabilities, shared = torch.empty_like(query), [], key.shape[1]
        for block, here, mask in zip(blocks, slices(blocks), hidden, strict=True):
            q, k, v = (_by_head(block.apart(t[here]), shared) for t in (query, key, value))
            result, seen = _products(q, k, v, mask, query.shape[1] // shared)
            found[here] = block.in_a_row(_by_token(result, block.width))
            probabilities.append(seen)
        ctx.blocks = blocks
        ctx.save_for_backward(query, key, value, *probabilities)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *probabilities = ctx.saved_tensors
        found, shared = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)), key.shape[1]
        for block, here, seen in zip(ctx.blocks, slices(ctx.blocks), probabilities, strict=True):
            q, k, v = (_by_head(block.apart(t[here]), shared) for t in (query, key, value))
            slopes = _derivatives(q, k, v, seen, _by_head(block.spread(gradient[here]), shared))
            for one, slope in zip(found, slopes, strict=True):
                one[here] = block.in_a_row(_by_token(slope, block.width))
        return *found, None, None


def _by_head(places: Tensor, shared: int) -> Tensor:
    """[n, width, heads, size] as [n, shared, heads / shared x width, size]: those of heads that share a key lie below each other."""
    n, width, heads, size = places.shape
    return places.reshape(n, width, shared, heads // shared, size).permute(0, 2, 3, 1, 4).reshape(n, shared, -1, size)


def _by_token(found: Tensor, width: int) -> Tensor:
    """And back: [n, width, heads, size]."""
    n, shared, _, size = found.shape
    return found.reshape(n, shared, -1, width, size).permute(0, 3, 1, 2, 4).reshape(n, width, -1, size)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
