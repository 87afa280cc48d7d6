"""The last layer computes only what the head reads: the same reward for less work.

Of an encoder that is read at its first token, that token alone (a sixth of a six-layer model's work less); of a decoder, in a row, everything behind attention
at the ends of the answers alone (three quarters of a layer).
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from assay.model.attention import attend
from assay.model.layout import Block, apart, firsts, masks_of

ENCODERS = {"bert", "roberta", "xlm-roberta", "camembert", "electra", "data2vec-text", "ernie"}
"""Models whose layers compute what BERT's do; many others name their parts alike and compute something else."""
DECODERS = {"llama", "mistral", "qwen2", "qwen3", "gemma"}
"""Models whose layers compute what Llama's do."""


def read_first_only(model: Any) -> Any:
    """``model``, whose last layer gives out the first token's vector [n, 1, size] of each sequence, if it is one of ``ENCODERS``; unchanged otherwise."""
    if model.config.model_type in ENCODERS:
        last = model.base_model.encoder.layer[-1]
        last.forward = MethodType(_first_token, last)
    return model


def read_ends_only(model: Any) -> Any:
    """``model``, whose last layer, told of ``ends`` [n] in a row of tokens, gives out their vectors [1, n, size] alone, if it is one of ``DECODERS``; unchanged otherwise."""
    last = _last_of(model)
    if last is not None and model.config.model_type in DECODERS:
        last.forward = MethodType(_ends, last)
    return model


def reads_ends_only(model: Any) -> bool:
    """Whether the last layer of ``model`` is such a one."""
    last = _last_of(model)
    return last is not None and getattr(last.forward, "__func__", None) is _ends


def layers_of(model: Any) -> Sequence[Any]:
    """The layers of a decoder; none where its backbone names them otherwise or has none."""
    return getattr(getattr(model, model.base_model_prefix), "layers", None) or ()


def _last_of(model: Any) -> Any:
    layers = layers_of(model)
    return layers[-1] if layers else None


def first_position(model: Any) -> int:
    """The position of a sequence's first token: behind that of padding, where there is one."""
    padding = model.base_model.embeddings.position_embeddings.padding_idx
    return 0 if padding is None else padding + 1


def _first_token(layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, blocks: Sequence[Block] = (), **__: Any) -> Tensor:
    inner = layer.attention.self

    def heads(states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], -1, inner.attention_head_size).transpose(1, 2)

    def seen(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return attend(inner, heads(query), heads(key), heads(value), mask, None, inner.dropout.p if layer.training else 0.0, {"is_causal": False})

    key, value = inner.key(hidden_states), inner.value(hidden_states)
    if blocks:
        first = hidden_states[0, firsts(blocks)][:, None]
        of_blocks = zip(inner.query(first).split([block.number for block in blocks]), apart(key, blocks), apart(value, blocks), masks_of(attention_mask, blocks), strict=True)
        found = torch.cat([seen(query, keys, values, None if mask is None else mask[:, :, :1]) for query, keys, values, mask in of_blocks])
    else:
        first = hidden_states[:, :1]
        found = seen(inner.query(first), key, value, None if attention_mask is None else attention_mask[:, :, :1])
    after: Tensor = layer.feed_forward_chunk(layer.attention.output(found.flatten(2), first))
    return after


def _ends(layer: Any, hidden_states: Tensor, *args: Any, ends: Tensor | None = None, **kwargs: Any) -> Tensor:
    if ends is None:
        whole: Tensor = type(layer).forward(layer, hidden_states, *args, **kwargs)
        return whole
    attended, _ = layer.self_attn(layer.input_layernorm(hidden_states), *args, **kwargs)
    read = hidden_states[:, ends] + attended[:, ends]
    after: Tensor = read + layer.mlp(layer.post_attention_layernorm(read))
    return after
