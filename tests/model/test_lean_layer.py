"""Layers that keep less in mixed precision: the same values to the bit, the right derivative, and less kept."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from assay.model.lean_layer import FeedForward, Norm, make_lean
from assay.model.network import Network, as_reward_model, use_attention

SIZES: dict[str, Any] = {"vocab_size": 120, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128}
MORE: dict[str, Any] = {**SIZES, "pad_token_id": 0, "initializer_range": 0.2, "num_labels": 2}
LEAN: dict[str, Any] = {"llama": LlamaConfig(**MORE), "mistral": MistralConfig(**MORE, sliding_window=5), "qwen2": Qwen2Config(**MORE), "qwen3": Qwen3Config(**MORE)}
GROUPS = [[[*range(5, 80)], [*range(5, 60), 20]], [[30, 31, 32, 33], [30, 31, 90, 91, 92, 93]], [[*range(3, 100)], [*range(60, 110)]]]


def pair(config: PreTrainedConfig) -> tuple[Any, Any]:
    """A model with lean layers and the same without."""
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_config(copy.deepcopy(config))
    for name, weight in plain.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return make_lean(copy.deepcopy(plain)), plain


def outputs_and_gradients(model: Any, *, mixed: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Outputs, gradients of the sum of their squares, and how many bytes were kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network = Network(model, 0, "shared")
    use_attention(model)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        outputs = network(network.prepare(GROUPS))
    (outputs**2).sum().backward()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    return outputs.detach(), {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}, sum(n for at, n in kept.items() if at not in weights)


@pytest.mark.parametrize("name", LEAN)
def test_in_mixed_precision_the_values_are_the_same_and_less_is_kept(name: str) -> None:
    lean, plain = (outputs_and_gradients(model, mixed=True) for model in pair(LEAN[name]))
    assert torch.equal(lean[0], plain[0])
    assert lean[2] < 0.8 * plain[2]
    exact = outputs_and_gradients(pair(LEAN[name])[1], mixed=False)[1]
    assert lean[1].keys() == plain[1].keys()
    for weight, found in lean[1].items():
        off, others = ((one - exact[weight]).norm() / exact[weight].norm() for one in (found, plain[1][weight]))
        assert off < max(0.02, 1.3 * float(others)), weight


@pytest.mark.parametrize("name", LEAN)
def test_in_fp32_nothing_changes(name: str) -> None:
    lean, plain = (outputs_and_gradients(model, mixed=False) for model in pair(LEAN[name]))
    assert torch.equal(lean[0], plain[0])
    assert all(torch.equal(lean[1][weight], found) for weight, found in plain[1].items())


@pytest.mark.parametrize("config", [GemmaConfig(**MORE), Gemma2Config(**MORE)], ids=["gemma", "gemma2"])
def test_other_norms_are_left_alone(config: PreTrainedConfig) -> None:
    lean, plain = (outputs_and_gradients(model, mixed=True) for model in pair(config))
    assert torch.equal(lean[0], plain[0])
    assert lean[2] == plain[2]


def test_another_activation_than_silu_is_kept() -> None:
    lean, plain = (outputs_and_gradients(model, mixed=True) for model in pair(LlamaConfig(**MORE, hidden_act="gelu")))
    assert torch.equal(lean[0], plain[0])


@pytest.mark.parametrize("more", [{"mlp_bias": True}, {"attention_bias": True}])
def test_matrices_with_a_bias_give_the_same(more: dict[str, bool]) -> None:
    lean, plain = (outputs_and_gradients(model, mixed=True) for model in pair(LlamaConfig(**MORE, **more)))
    assert torch.equal(lean[0], plain[0])
    assert lean[1].keys() == plain[1].keys()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_on_some_matrices_or_all_is_not_passed_by() -> None:
    from peft import LoraConfig, get_peft_model

    for modules in ("all-linear", ["gate_proj"], ["q_proj"]):
        found = []
        for model in pair(LEAN["llama"]):
            torch.manual_seed(1)
            adapted = get_peft_model(model, LoraConfig(r=4, target_modules=modules, init_lora_weights=False, modules_to_save=["score"]))
            found.append(outputs_and_gradients(adapted.base_model.model, mixed=True))
        (lean, plain) = found
        torch.testing.assert_close(lean[0], plain[0], rtol=0.02, atol=0.02)
        assert lean[1].keys() == plain[1].keys()
        assert all((one.norm() > 0) == (plain[1][name].norm() > 0) for name, one in lean[1].items())


def test_what_needs_no_gradient_gets_none() -> None:
    lean, plain = pair(LEAN["llama"])
    for model in (lean, plain):
        model.requires_grad_(False)
        model.score.requires_grad_(True)
        model.model.layers[0].mlp.up_proj.requires_grad_(True)
    assert outputs_and_gradients(lean, mixed=True)[1].keys() == outputs_and_gradients(plain, mixed=True)[1].keys()


def test_checkpointing_gives_the_same() -> None:
    lean, _ = pair(LEAN["llama"])
    whole = outputs_and_gradients(lean.train(), mixed=True)
    lean.activation_checkpointing_enable({"use_reentrant": False})
    again = outputs_and_gradients(lean, mixed=True)
    assert torch.equal(whole[0], again[0])
    assert all(torch.equal(whole[1][name], one) for name, one in again[1].items())


def test_a_reward_model_is_lean() -> None:
    plain = pair(LEAN["llama"])[1]
    kept = outputs_and_gradients(plain, mixed=True)[2]
    assert outputs_and_gradients(as_reward_model(plain), mixed=True)[2] < 0.8 * kept


def test_derivatives_against_differences() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True), torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: Norm.apply(*t, 1e-3, torch.float64), (x, weight))
    gate, up, down = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 5), (7, 5), (5, 7)))
    assert torch.autograd.gradcheck(FeedForward.apply, (x, gate, up, down))
