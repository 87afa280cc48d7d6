"""Models whose last layer computes only what the head reads, against those that compute all of it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from assay.model.last_layer import read_ends_only, read_first_only, reads_ends_only
from assay.model.layout import Name
from assay.model.network import Network, as_reward_model, use_attention

SIZES: dict[str, Any] = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2}
AS_BERT: dict[str, Any] = {"bert": BertConfig(**SIZES), "roberta": RobertaConfig(**SIZES), "electra": ElectraConfig(**SIZES, embedding_size=16)}
OTHERS: dict[str, Any] = {"deberta": DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"]), "modernbert": ModernBertConfig(**SIZES)}
KEYS: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
AS_LLAMA: dict[str, Any] = {"llama": LlamaConfig(**KEYS), "mistral": MistralConfig(**KEYS, sliding_window=5), "qwen2": Qwen2Config(**KEYS), "qwen3": Qwen3Config(**KEYS), "gemma": GemmaConfig(**KEYS)}

ROUNDED = 1e-5
"""How far decoders may be apart, whose norms and gated layers round more."""


def groups() -> list[list[list[int]]]:
    """Sequences of 1 to 30 tokens."""
    torch.manual_seed(1)
    return [[torch.randint(3, 120, (length,)).tolist() for length in lengths] for lengths in ((30, 17), (1, 2, 9))]


def made(config: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    for name, value in {"num_labels": 2, **more}.items():
        setattr(config, name, value)
    return AutoModelForSequenceClassification.from_config(config).eval()


def outputs_and_gradients(model: Any, layout: Name = "padded") -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs of all sequences, and the gradients of the sum of their squares."""
    network = Network(model, 0, layout)
    model.zero_grad()
    outputs = network(network.prepare(groups()))
    (outputs**2).sum().backward()
    return outputs.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], allowed: float = 1e-6) -> None:
    assert expected[0].std() > 0.1
    torch.testing.assert_close(found[0], expected[0], rtol=allowed, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(one.abs().max()) for one in expected[1].values())
    for name, one in expected[1].items():
        torch.testing.assert_close(found[1][name], one, rtol=0, atol=allowed * largest, msg=lambda text, name=name: f"{name}: {text}")


def last_layer(model: Any) -> Any:
    return (model.base_model.encoder.layer if hasattr(model.base_model, "encoder") else model.base_model.layers)[-1]


def widths(model: Any) -> list[int]:
    """How many tokens the last two layers give out for sequences of up to 30."""
    found: list[int] = []
    layers = model.base_model.encoder.layer[-2:]
    hooks = [layer.register_forward_hook(lambda _, __, out: found.append(out.shape[1])) for layer in layers]
    with torch.no_grad():
        Network(model, 0)(Network(model, 0).prepare(groups()))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa", None])
@pytest.mark.parametrize("name", AS_BERT)
def test_the_first_token_alone_gives_the_same_outputs_and_gradients(name: str, attention: str | None) -> None:
    plain, model = made(AS_BERT[name]), made(AS_BERT[name])
    assert read_first_only(model) is model
    use_attention(model, attention)
    assert widths(plain) == [30, 30]
    assert widths(model) == [30, 1]
    assert_same(outputs_and_gradients(model), outputs_and_gradients(plain))


@pytest.mark.parametrize("name", AS_BERT)
def test_as_it_does_when_activations_are_computed_twice(name: str) -> None:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain, model = made(AS_BERT[name], **quiet).train(), as_reward_model(made(AS_BERT[name], **quiet)).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.is_activation_checkpointing
    assert_same(outputs_and_gradients(model), outputs_and_gradients(plain))


@pytest.mark.parametrize("name", AS_BERT)
def test_a_sequence_is_read_alike_alone_and_beside_longer_ones(name: str) -> None:
    model = as_reward_model(made(AS_BERT[name]))
    use_attention(model)
    together = outputs_and_gradients(model)[0]
    alone = torch.cat([made(AS_BERT[name])(input_ids=torch.tensor([one])).logits for group in groups() for one in group])
    torch.testing.assert_close(together, alone.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attending", [1, 2_000, 100_000])
@pytest.mark.parametrize("padding", [1, 32])
@pytest.mark.parametrize("name", AS_BERT)
def test_in_a_row_it_gives_the_same_outputs_and_gradients(name: str, padding: int, attending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.model.batching.PADDING", padding)
    monkeypatch.setattr("assay.model.layout.ATTENDING", attending)
    plain, model = made(AS_BERT[name]), as_reward_model(made(AS_BERT[name]))
    use_attention(model)
    found, expected = outputs_and_gradients(model, "packed"), outputs_and_gradients(plain)
    positions = next(key for key in expected[1] if key.endswith("position_embeddings.weight"))
    assert found[1][positions].abs().sum() > 0
    assert_same(found, expected)


@pytest.mark.parametrize("name", AS_BERT)
def test_in_a_row_in_bf16_it_gives_the_same_but_for_rounding(name: str) -> None:
    plain, model = made(AS_BERT[name]), as_reward_model(made(AS_BERT[name]))
    use_attention(model)
    exact = outputs_and_gradients(plain)
    with torch.autocast("cpu", torch.bfloat16):
        found = outputs_and_gradients(model, "packed")
    assert found[0].dtype == torch.float32
    for one, other in ((found[0], exact[0]), (torch.cat([g.flatten() for g in found[1].values()]), torch.cat([g.flatten() for g in exact[1].values()]))):
        assert float((one - other).norm() / other.norm()) < 0.05


@pytest.mark.parametrize("name", OTHERS)
def test_encoders_that_are_built_otherwise_are_left_as_they_are_and_score(name: str) -> None:
    plain, model = made(OTHERS[name]), as_reward_model(made(OTHERS[name]))
    assert "forward" not in vars(last_layer(model))
    use_attention(model)
    outputs, slopes = outputs_and_gradients(model)
    alone = torch.cat([plain(input_ids=torch.tensor([one])).logits for group in groups() for one in group])
    assert outputs.shape == (5, 2)
    torch.testing.assert_close(outputs, alone.detach(), rtol=1e-5, atol=1e-5)
    assert all(one.isfinite().all() for one in slopes.values())


@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.parametrize("name", AS_LLAMA)
def test_the_ends_alone_give_the_same_outputs_and_gradients(name: str, layout: Name) -> None:
    plain, model = made(AS_LLAMA[name]), made(AS_LLAMA[name])
    assert read_ends_only(model) is model
    assert reads_ends_only(model)
    assert not reads_ends_only(plain)
    for one in (plain, model):
        use_attention(one)
    seen: list[int] = []
    last_layer(model).mlp.register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    found = outputs_and_gradients(model, layout)
    assert seen == [5]
    assert_same(found, outputs_and_gradients(plain, layout), ROUNDED)
    assert_same(found, outputs_and_gradients(plain), ROUNDED)
    assert_same(outputs_and_gradients(model), outputs_and_gradients(plain), ROUNDED)  # padded: all of the layer is computed


@pytest.mark.parametrize("name", AS_LLAMA)
def test_ends_when_activations_are_computed_twice(name: str) -> None:
    plain, model = made(AS_LLAMA[name]).train(), as_reward_model(made(AS_LLAMA[name])).train()
    use_attention(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert_same(outputs_and_gradients(model, "shared"), outputs_and_gradients(plain), ROUNDED)


def test_decoders_that_are_built_otherwise_compute_their_whole_last_layer() -> None:
    config = Gemma2Config(**KEYS)
    plain, model = made(config), as_reward_model(made(config))
    assert not reads_ends_only(model)
    for one in (plain, model):
        use_attention(one)
    assert_same(outputs_and_gradients(model, "shared"), outputs_and_gradients(plain), ROUNDED)
