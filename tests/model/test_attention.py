"""Attention against plain softmax attention in float64."""

import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, Gemma2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from assay.model.attention import _hiding, _Products, _RowProducts, attention
from assay.model.layout import Name, lay_out, masks_of
from assay.model.network import Network, as_reward_model, use_attention

LENGTH, SIZE = 9, 8


class Layer(torch.nn.Module):
    """What attention reads of the module that calls it."""

    def __init__(self, groups: int, is_causal: bool = False) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, is_causal


def slow(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None, softcap: float | None = None, is_causal: bool = False) -> Tensor:
    """softmax(query keyᵀ) value in float64, a head and a token at a time."""
    query, key, value = query.double(), key.double(), value.double()
    rows = []
    for n in range(len(query)):
        for i in range(query.shape[2]):
            for h in range(query.shape[1]):
                k = h // (query.shape[1] // key.shape[1])
                seen = [j for j in range(key.shape[2]) if (j <= i if mask is None and is_causal else mask is None or bool(mask[n, 0, i, j]))]
                scores = key[n, k, seen] @ query[n, h, i] * (scaling or query.shape[3] ** -0.5)
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = scores.exp() / scores.exp().sum()
                rows.append(weights @ value[n, k, seen])
    return torch.stack(rows).view(len(query), query.shape[2], query.shape[1], -1)


def some_heads(heads: int = 4, groups: int = 2, dtype: torch.dtype = torch.float32, number: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a number of sequences."""
    torch.manual_seed(heads + groups)
    return tuple(torch.randn(number, n, LENGTH, SIZE).to(dtype).requires_grad_() for n in (heads, heads // groups, heads // groups))


def some_mask() -> Tensor:
    """A token sees itself and some others."""
    torch.manual_seed(7)
    return (torch.rand(2, 1, LENGTH, LENGTH) < 0.4) | torch.eye(LENGTH, dtype=torch.bool)


MASKS = pytest.mark.parametrize(("mask", "is_causal"), [(some_mask(), False), (some_mask(), True), (None, False), (None, True)], ids=["mask", "mask in a causal layer", "all", "causal"])


def used_products(out: Tensor) -> bool:
    """Whether the derivative that is written out is among those that lead to ``out``."""
    todo, names = [out.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is not None:
            names.add(type(node).__name__)
            todo += [one for one, _ in node.next_functions]
    return "_ProductsBackward" in names


def pulled(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradients of the inputs for a fixed gradient of ``out``."""
    torch.manual_seed(11)
    return torch.autograd.grad(out, inputs, torch.randn(out.shape).bfloat16().to(out.dtype))


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("groups", [1, 2, 4])
@MASKS
def test_it_is_softmax_attention(mask: Tensor | None, is_causal: bool, groups: int, softcap: float | None) -> None:
    heads = some_heads(4, groups)
    more = {} if softcap is None else {"softcap": softcap}
    out, none = attention(Layer(groups, is_causal), *heads, mask, **more)
    expected = slow(*heads, mask, softcap=softcap, is_causal=is_causal)
    assert none is None
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert not used_products(out)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(pulled(out, heads), pulled(expected, heads), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_scaled_as_asked(dtype: torch.dtype, softcap: float | None) -> None:
    heads = some_heads(dtype=dtype)
    out, _ = attention(Layer(2), *heads, some_mask(), scaling=0.9, softcap=softcap)
    torch.testing.assert_close(out.double(), slow(*heads, some_mask(), 0.9, softcap), rtol=0, atol=1e-5 if dtype == torch.float32 else 0.05)


def errors(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    """The size of each one's error over that of its values."""
    return [float((one.detach().double() - other.detach()).norm() / other.detach().norm()) for one, other in zip(found, expected, strict=True)]


def in_double(heads: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(one.detach().double().requires_grad_() for one in heads)


BF16 = 2**-8
"""Half the distance of 1 from the next number."""


@pytest.mark.parametrize("groups", [1, 2, 4])
@MASKS
def test_products_in_bf16_are_as_exact_as_bf16_and_nearly_as_the_fused_kernel(mask: Tensor | None, is_causal: bool, groups: int) -> None:
    heads = some_heads(4, groups, torch.bfloat16)
    exactly = in_double(heads)
    exact, layer = slow(*exactly, mask, is_causal=is_causal), Layer(groups, is_causal)
    out, _ = attention(layer, *heads, mask)
    fused, _ = sdpa_attention_forward(layer, *heads, mask)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous()
    assert used_products(out)
    assert not used_products(fused)
    expected = exact, *pulled(exact, exactly)
    ours, theirs = errors((out, *pulled(out, heads)), expected), errors((fused, *pulled(fused, heads)), expected)
    assert max(ours) < 2 * BF16
    assert all(one < 2 * other for one, other in zip(ours, theirs, strict=True))


def test_products_in_bf16_lean_to_no_side() -> None:
    """Over many numbers, the slope of what is found against what is exact is 1, as the fused kernel's is."""
    heads, layer = some_heads(number=64, dtype=torch.bfloat16), Layer(2, is_causal=True)
    exactly = in_double(heads)
    exact, _ = sdpa_attention_forward(layer, *exactly, None)
    expected = exact, *pulled(exact, exactly)
    for way in (attention, sdpa_attention_forward):
        out, _ = way(layer, *heads, None)
        assert used_products(out) == (way is attention)
        for one, other in zip((out, *pulled(out, heads)), expected, strict=True):
            slope = float((one.detach().double() * other.detach()).sum() / (other.detach() ** 2).sum())
            assert abs(slope - 1) < 5e-4


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("mask", [None, some_mask()])
def test_capped_scores_in_bf16_are_as_exact_as_bf16(mask: Tensor | None, is_causal: bool) -> None:
    heads = some_heads(dtype=torch.bfloat16)
    exactly = in_double(heads)
    exact = slow(*exactly, mask, softcap=3.0, is_causal=is_causal)
    out, _ = attention(Layer(2, is_causal), *heads, mask, softcap=3.0)
    assert out.dtype == torch.bfloat16
    assert max(errors((out, *pulled(out, heads)), (exact, *pulled(exact, exactly)))) < 2 * BF16


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_under_autocast_it_runs_in_bf16_whatever_it_is_given(softcap: float | None) -> None:
    heads = some_heads()
    exactly = in_double(heads)
    exact = slow(*exactly, some_mask(), softcap=softcap)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attention(Layer(2), *heads, some_mask(), softcap=softcap)
        assert torch.is_autocast_enabled("cpu")
    assert out.dtype == torch.bfloat16
    assert used_products(out) == (softcap is None)
    slopes = pulled(out, heads)
    assert {one.dtype for one in slopes} == {torch.float32}
    assert max(errors((out, *slopes), (exact, *pulled(exact, exactly)))) < 3 * BF16
    rounded = [one.detach().bfloat16().requires_grad_() for one in heads]
    assert torch.equal(out, attention(Layer(2), rounded[0], rounded[1], rounded[2], some_mask(), softcap=softcap)[0])


def test_products_are_for_few_tokens_in_bf16_without_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, mask = some_heads(dtype=torch.bfloat16), some_mask()
    with_gradient, _ = attention(Layer(2), *heads, mask)
    assert used_products(with_gradient)
    assert not used_products(attention(Layer(2), *(one.detach().float().requires_grad_() for one in heads), mask)[0])
    assert not used_products(attention(Layer(2), *heads, mask, dropout=0.1)[0])
    assert not used_products(attention(Layer(2), *heads, mask, position_bias=torch.zeros(1, 4, LENGTH, LENGTH, dtype=torch.bfloat16))[0])
    with torch.no_grad():
        assert torch.equal(attention(Layer(2), *heads, mask)[0], with_gradient)
    monkeypatch.setattr("assay.model.attention.FEW_TOKENS", LENGTH - 1)
    assert not used_products(attention(Layer(2), *heads, mask)[0])
    monkeypatch.setattr("assay.model.attention.FEW_TOKENS", LENGTH)
    assert used_products(attention(Layer(2), *heads, mask)[0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_derivative_that_is_written_out_is_the_derivative(groups: int, masked: bool) -> None:
    torch.manual_seed(groups)
    length, size = 4, 3
    query, key, value = (torch.randn(2, 2, n, size, dtype=torch.float64, requires_grad=True) for n in (groups * length, length, length))
    unseen = ~some_mask()[:, :, None, :length, :length]
    hidden = torch.zeros(unseen.shape, dtype=torch.float64).masked_fill_(unseen, torch.finfo(torch.float64).min) if masked else None
    assert torch.autograd.gradcheck(lambda *heads: _Products.apply(*heads, hidden, groups), (query, key, value))
    alone = [one.detach() for one in (query, key, value)]
    expected = torch.softmax((alone[0] @ alone[1].mT).view(2, 2, groups, length, length).masked_fill(unseen if masked else torch.tensor(False), -torch.inf), dim=-1).flatten(2, 3) @ alone[2]
    torch.testing.assert_close(_Products.apply(*alone, hidden, groups), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize(("padding", "even"), [(1, {False}), (32, {True})])
def test_a_row_attends_as_its_groups_do_alone(monkeypatch: pytest.MonkeyPatch, padding: int, even: set[bool], shared: int, causal: bool) -> None:
    monkeypatch.setattr("assay.model.batching.PADDING", padding)
    torch.manual_seed(shared)
    row = lay_out([[list(range(3, 3 + n))] for n in (5, 4, 4, 4, 2)], share=False)
    assert {block.even for block in row.blocks} == even
    query, key, value = (torch.randn(19, heads, 3, dtype=torch.float64, requires_grad=True) for heads in (2 * shared, shared, shared))
    hidden = [_hiding(mask, torch.float64) for mask in masks_of(row.sees(causal=causal), row.blocks)]
    assert torch.autograd.gradcheck(lambda *heads: _RowProducts.apply(*heads, row.blocks, hidden), (query, key, value))
    before = 0
    for length in (5, 4, 4, 4, 2):
        alone = [t[before : before + length].detach().transpose(0, 1)[None] for t in (query, key, value)]
        expected = slow(*alone, None, scaling=1.0, is_causal=causal)
        torch.testing.assert_close(_RowProducts.apply(query, key, value, row.blocks, hidden)[before : before + length], expected[0])
        before += length


# models

DECODER: dict[str, Any] = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 1, "initializer_range": 0.2}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**DECODER),
    "mistral with a window": MistralConfig(**DECODER, sliding_window=7),
    "qwen2 with a window": Qwen2Config(**DECODER, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "gemma2": Gemma2Config(**DECODER, sliding_window=6, attn_logit_softcapping=5.0, query_pre_attn_scalar=8),
}
GROUPS = [[[*range(3, 20), 50, 51], [*range(3, 15), 40], [*range(3, 15), *range(60, 80)]], [[50, 51], [50, *range(60, 72)]]]


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(copy.deepcopy(CONFIGS[request.param])).eval()
    use_attention(as_reward_model(made))
    return made


@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning", "ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_flex_attention_gives_what_the_mask_gives(model: Any, layout: Name) -> None:
    """On a CPU torch has its forward pass alone."""
    with torch.no_grad():
        network = Network(model, 0, layout)
        expected = network(network.prepare(GROUPS))
        use_attention(model, "flex_attention")
        flex = Network(model, 0, layout, flex=True)
        try:
            with torch.compiler.set_stance("force_eager"):
                found = flex(flex.prepare(GROUPS))
        except NotImplementedError as error:
            pytest.skip(f"torch refuses FlexAttention on this processor: {error}")
    assert model.config._attn_implementation == "flex_attention"
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_training_in_bf16_gives_what_fp32_gives_but_for_rounding(model: Any) -> None:
    """An answer that saw another would change them by as much as they are."""
    exact = outputs_and_gradient(model, "padded")
    for layout in get_args(Name):
        with torch.autocast("cpu", torch.bfloat16):
            found = outputs_and_gradient(model, layout)
        assert found[0].dtype == torch.float32
        assert max(errors(found, tuple(one.double() for one in exact))) < 16 * BF16


def outputs_and_gradient(model: Any, layout: Name) -> tuple[Tensor, Tensor]:
    """The outputs, and the gradients of the sum of their squares in one row."""
    network = Network(model, 0, layout)
    network.zero_grad()
    outputs = network(network.prepare(GROUPS))
    (outputs**2).sum().backward()
    return outputs.detach(), torch.cat([one.grad.flatten() for one in model.parameters()])
