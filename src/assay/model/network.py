"""The network as a module: laid-out tokens in, one row of outputs for each answer out.

It is what a trainer wraps (DDP, FSDP), since every pass goes through its ``forward``. Only the vectors at the ends of the answers reach the head, which
runs in fp32 whatever the precision of the rest.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import AssayError
from assay.model import attention
from assay.model.last_layer import ENCODERS, first_position, read_ends_only, read_first_only, reads_ends_only
from assay.model.layout import Group, Name, Row, lay_out, masks
from assay.model.lean_layer import make_lean

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
FLASH = "flash_attention_2"


class Network(nn.Module):
    """A sequence classifier of transformers that takes groups of token sequences in one of the layouts."""

    _keys_to_ignore_on_save = None  # what the Trainer asks of any model whose checkpoint lacks weights; of ours the frozen ones

    def __init__(self, model: Any, pad_id: int, layout: Name = "padded", flex: bool = False) -> None:
        super().__init__()
        self.model, self.pad_id, self.layout, self.flex = model, pad_id, layout, flex

    def prepare(self, groups: Sequence[Group]) -> Row | dict[str, Tensor]:
        """The tensors for ``forward``, where the network is."""
        device = self.model.device
        if self.layout == "padded":
            return pad([one for group in groups for one in group], self.pad_id, device)
        if self.layout == "packed":
            groups = [[one] for group in groups for one in group]
        return lay_out(groups, share=self.layout == "shared").to(device)

    def forward(self, batch: Row | dict[str, Tensor]) -> Tensor:
        """Outputs of all sequences in the order given, fp32 of shape [n, k]."""
        if isinstance(batch, dict):
            logits: Tensor = self.model(**batch).logits
            return logits.float()
        if not is_decoder(self.model):
            return self._encoded(batch)
        backbone = getattr(self.model, self.model.base_model_prefix)
        config = self.model.config.get_text_config()
        if config._attn_implementation == FLASH:  # takes no mask: where positions start again, a sequence begins
            found = backbone(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
            return self._read(found.last_hidden_state[0, batch.last])
        ends = batch.last if reads_ends_only(self.model) else None
        found = backbone(input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=masks(batch, config, self._mask), blocks=batch.blocks, ends=ends, use_cache=False)
        return self._read(found.last_hidden_state[0, batch.last if ends is None else slice(None)])

    def _read(self, vectors: Tensor) -> Tensor:
        outputs: Tensor = head_of(self.model)(vectors)
        return outputs.float()

    def _encoded(self, row: Row) -> Tensor:
        """Outputs of an encoder that is read at its first tokens, which its last layer gives out as a sequence each, in the order of the row."""
        positions = row.position_ids + first_position(self.model)
        outputs: Tensor = self.model(input_ids=row.input_ids, position_ids=positions, token_type_ids=torch.zeros_like(positions), attention_mask=row.sees(causal=False), blocks=row.blocks).logits
        return outputs[row.last.argsort().argsort()].float()

    def _mask(self, row: Row, window: int | None) -> Any:
        if not self.flex:
            return row.sees(window)
        from torch.nn.attention.flex_attention import create_block_mask

        tokens = row.input_ids.shape[1]
        return create_block_mask(row.sees_at(window), 1, None, tokens, tokens, device=str(row.input_ids.device))


def pad(ids: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` of shape [n, longest], padded on the right."""
    longest = max(map(len, ids))
    padded = torch.full((len(ids), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(ids), longest), dtype=torch.long)
    for i, one in enumerate(ids):
        padded[i, : len(one)] = torch.tensor(one, dtype=torch.long)
        mask[i, : len(one)] = 1
    return {"input_ids": padded.to(device, non_blocking=True), "attention_mask": mask.to(device, non_blocking=True)}


def layout_for(model: Any, wish: Name | None, pad_id: int) -> Name:
    """The layout ``wish``, or the best that ``model`` can do; that it can is tried on two small groups, whose outputs must not depend on the layout.

    Raises:
        AssayError: the model cannot do what is wished.
    """
    best: Name = "shared" if is_decoder(model) else "packed"
    why = None if wish == "padded" else why_not(wish or best, model, pad_id)
    if why and wish:
        raise AssayError(f"train.layout is {wish}, but {type(model).__name__} {why}; use `padded`" + (", or leave it out" if wish == "shared" else ""))
    return "padded" if why else wish or best


def why_not(layout: Name, model: Any, pad_id: int) -> str | None:
    """Why sequences cannot lie in one row of this model, in ``layout``; None if they can."""
    if not is_decoder(model):
        if layout == "shared":
            return "reads in both directions, so that its prompt depends on the answer"
        if model.config.model_type not in ENCODERS:
            return "is not of a kind of encoder for which Assay can keep sequences apart"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - KNOWN_LAYERS
    if kinds:
        return f"has layers of the kind {', '.join(sorted(kinds))}, for which Assay cannot keep answers apart"
    words = [i for i in range(3, 20) if i != pad_id]
    groups = [[words[:6], [*words[:4], words[9]], [*words[:4], *words[8:11]]], [words[5:7], words[2:9]]]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            one, other = (network(network.prepare(groups)) for network in (Network(model, pad_id), Network(model, pad_id, layout)))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        return f"does not take positions and masks ({str(error).splitlines()[0]})"
    finally:
        model.train(was_training)
    worst = float((one - other).abs().max())
    return None if worst < 1e-3 * max(1.0, float(one.abs().max())) else f"gives other rewards when answers share a row (by {worst:.2g})"


def head_of(model: Any) -> nn.Module:
    """The module that turns a pooled vector into the outputs: ``score`` of a decoder, ``classifier`` of an encoder.

    Raises:
        AssayError: the architecture has neither.
    """
    return getattr(model, head_name(model))  # type: ignore[no-any-return]


def head_name(model: Any) -> str:
    """The name of the head in ``model``: ``score`` or ``classifier``.

    Raises:
        AssayError: the architecture has neither.
    """
    for name in ("score", "classifier"):
        if isinstance(getattr(model, name, None), nn.Module):
            return name
    raise AssayError(f"{type(model).__name__} has neither a `score` nor a `classifier` head; Assay does not know where its reward comes from")


def is_decoder(model: Any) -> bool:
    """Whether a token sees only those before it; such models are read at their last token."""
    return isinstance(getattr(model, "score", None), nn.Module)


def pooled_position(model: Any) -> str:
    """Which token's vector the head sees, in words."""
    return "last token that is not padding" if is_decoder(model) else "first token"


def as_reward_model(model: Any) -> Any:
    """``model`` with a head that computes in fp32 under any autocast (a copy of the head does so too) and, if they can be, layers that keep less for their derivative and a last one that computes only what the head reads."""
    head = head_of(model)
    head.forward = MethodType(_in_fp32, head)
    return make_lean(read_ends_only(model)) if is_decoder(model) else read_first_only(model)


def _in_fp32(head: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(next(head.parameters()).device.type, enabled=False):
        return type(head).forward(head, *(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args), **kwargs)


def use_attention(model: Any, implementation: str | None = None) -> None:
    """Let ``model`` compute attention by ``implementation`` of transformers; by default as ``assay.model.attention`` does, where the model can."""
    if implementation is None and (model._supports_sdpa or model.config.model_type == "gemma2"):
        model._supports_sdpa = True  # Gemma 2 says no because SDPA cannot cap scores; ours can
        implementation = attention.NAME
    if implementation:
        model.set_attn_implementation(implementation)
