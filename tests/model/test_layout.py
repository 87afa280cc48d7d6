"""Sequences laid out in a row, against a slow twin and against models that read them one at a time."""

import copy
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from assay.errors import AssayError
from assay.model.batching import PADDING
from assay.model.layout import Block, Name, Row, apart, common_beginning, firsts, lay_out, masks_of, size
from assay.model.network import Network, as_reward_model, layout_for, pad, use_attention, why_not

# a row, against a twin

PAD = 99
SEQUENCES = st.lists(st.integers(1, 2), min_size=1, max_size=7)


@st.composite
def some_group(draw: st.DrawFn) -> list[list[int]]:
    """Answers after a common prompt, which may be empty, of so few different tokens that answers too begin alike."""
    prompt = draw(st.lists(st.integers(1, 2), max_size=6))
    return [[*prompt, *one] for one in draw(st.lists(SEQUENCES, min_size=1, max_size=4))]


GROUPS = st.lists(some_group(), min_size=1, max_size=5)
WINDOWS = st.one_of(st.none(), st.integers(1, 8))


@dataclass
class Token:
    """Where a token stands in the tree of its group: the prompt's path is empty, an answer's is its number."""

    id: int
    position: int
    group: int
    path: tuple[int, ...]


def slow(groups: list[list[list[int]]], share: bool) -> list[Token]:
    """The row, the longest group first."""
    pieces: list[list[Token]] = []
    for g, group in enumerate(groups):
        common = 0
        while share and all(len(one) > common + 1 for one in group) and len({one[common] for one in group}) == 1:
            common += 1
        tokens = [Token(group[0][i], i, g, ()) for i in range(common)]
        for a, one in enumerate(group):
            tokens += [Token(one[i], i, g, (a + 1,)) for i in range(common, len(one))]
        pieces.append(tokens)
    return [token for tokens in sorted(pieces, key=len, reverse=True) for token in tokens]


def slow_mask(row: list[Token], window: int | None, causal: bool) -> Tensor:
    """Which token sees which."""
    mask = torch.zeros(len(row), len(row), dtype=torch.bool)
    for i, one in enumerate(row):
        for j, other in enumerate(row):
            ahead = one.position - other.position
            before = one.path[: len(other.path)] == other.path and ahead >= 0 and (window is None or ahead < window)
            mask[i, j] = one.group == other.group and (before or not causal)
    return mask


def whole_mask(row: Row, window: int | None = None, causal: bool = True) -> Tensor:
    """Which token sees which, put together from the blocks; at places that are filled up stands what the first token of the group sees, and nobody sees them."""
    tokens = row.input_ids.shape[1]
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    before = 0
    for block, seen in zip(row.blocks, masks_of(row.sees(window, causal=causal), row.blocks), strict=True):
        places = {int(place): before + i for i, place in enumerate(block.place)}
        for n in range(block.number):
            for q in range(block.width):
                sees = seen[n, 0, q].nonzero()[:, 0].tolist()
                assert sees, "a softmax over nothing"
                if n * block.width + q in places:
                    for k in sees:
                        mask[places[n * block.width + q], places[n * block.width + k]] = True
                else:
                    assert torch.equal(seen[n, 0, q], seen[n, 0, 0])
        before += len(block.place)
    assert before == tokens
    return mask


@settings(deadline=None, max_examples=80)
@given(GROUPS, WINDOWS, st.booleans(), st.booleans())
@example([[[1]]], None, True, True)
@example([[[1, 2], [1]], [[1, 2], [1, 2]]], 1, True, True)
def test_the_row_and_who_sees_whom_are_those_of_the_slow_twin(groups: list[list[list[int]]], window: int | None, share: bool, causal: bool) -> None:
    row, twin = lay_out(groups, share=share), slow(groups, share)
    assert row.input_ids.tolist() == [[token.id for token in twin]]
    assert row.position_ids.tolist() == [[token.position for token in twin]]
    assert row.group.tolist() == [[token.group for token in twin]]
    assert row.answer.tolist() == [[token.path[0] if token.path else 0 for token in twin]]
    assert torch.equal(whole_mask(row, window, causal), slow_mask(twin, window, causal))


@settings(deadline=None, max_examples=80)
@given(GROUPS, WINDOWS, st.booleans())
def test_the_mask_as_a_function_is_the_mask(groups: list[list[list[int]]], window: int | None, share: bool) -> None:
    row = lay_out(groups, share=share)
    tokens = row.input_ids.shape[1]
    at = torch.meshgrid(torch.arange(1), torch.arange(2), torch.arange(tokens), torch.arange(tokens), indexing="ij")
    assert torch.equal(row.sees_at(window)(*at), whole_mask(row, window).expand(1, 2, tokens, tokens))


@settings(deadline=None, max_examples=80)
@given(GROUPS, st.booleans())
def test_the_path_to_each_last_token_is_the_sequence_given(groups: list[list[list[int]]], share: bool) -> None:
    row = lay_out(groups, share=share)
    sees = whole_mask(row)
    sequences = [one for group in groups for one in group]
    assert len(row.last) == len(sequences)
    for end, one in zip(row.last.tolist(), sequences, strict=True):
        assert row.input_ids[0, sees[end]].tolist() == one
        assert row.position_ids[0, sees[end]].tolist() == list(range(len(one)))
        assert sees[end].nonzero().max() == end


# blocks


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 3_000))
def test_blocks_hold_groups_of_similar_length_and_few_pairs_of_tokens(lengths: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assay.model.layout.ATTENDING", most)
        row = lay_out([[[1] * length] for length in lengths], share=False)
    assert sum(block.number for block in row.blocks) == len(lengths)
    assert [length for block in row.blocks for length in of_groups(block)] == sorted(lengths, reverse=True)
    for block in row.blocks:
        assert block.number == 1 or block.number * block.width**2 <= most
        assert block.number * block.width - len(block.place) <= sum(lengths) / PADDING
    begins = torch.tensor([0, *sorted(lengths, reverse=True)[:-1]]).cumsum(0)
    assert torch.equal(firsts(row.blocks), begins)


def of_groups(block: Block) -> list[int]:
    """How long its groups are."""
    return torch.bincount(block.place // block.width, minlength=block.number).tolist()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_tokens_that_are_taken_apart_and_put_in_a_row_again_are_the_same_and_so_is_their_gradient(lengths: list[int]) -> None:
    """Places that are filled up get a gradient, as of a softmax they may, and it must reach no token."""
    row = lay_out([[[1] * length] for length in lengths], share=False)
    tokens = torch.randn(1, sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    blocks = apart(tokens, row.blocks)
    for block, places, length in zip(row.blocks, blocks, torch.split(torch.tensor(sorted(lengths, reverse=True)), [b.number for b in row.blocks]), strict=True):
        for n in range(block.number):
            assert torch.equal(places[n, int(length[n]) :], places[n, :1].expand(block.width - int(length[n]), -1))
    again = torch.cat([block.in_a_row(places) for block, places in zip(row.blocks, blocks, strict=True)])[None]
    assert torch.equal(again, tokens)
    pull = torch.randn_like(tokens)
    everywhere = sum((places * 3.0).sum() for places in blocks)
    assert torch.equal(torch.autograd.grad((again * pull).sum(), tokens, retain_graph=True)[0], pull)
    assert torch.equal(torch.autograd.grad(everywhere, tokens)[0], torch.full_like(tokens, 3.0))


@given(GROUPS)
def test_sizes_are_those_of_what_is_laid_out(groups: list[list[list[int]]]) -> None:
    for name, share in (("shared", True), ("packed", False)):
        row = lay_out(groups, share=share)
        assert [int((row.group == g).sum()) for g in range(len(groups))] == [size(group, name) for group in groups]
    assert [pad(group, PAD, "cpu")["input_ids"].numel() for group in groups] == [size(group, "padded") for group in groups]


@given(some_group())
@example([[1, 2]])
@example([[1]])
@example([[1, 2], [1, 2]])
@example([[1, 2, 1], [1]])
def test_what_a_group_begins_with_leaves_a_token_to_each_and_is_as_long_as_it_can_be(group: list[list[int]]) -> None:
    found = common_beginning(group)
    assert all(len(one) > found and one[:found] == group[0][:found] for one in group)
    assert min(map(len, group)) == found + 1 or len({one[found] for one in group}) > 1


def test_a_row_by_hand() -> None:
    row = lay_out([[[5, 6]], [[1, 2, 3], [1, 2, 4, 5]]], share=True)
    assert row.input_ids.tolist() == [[1, 2, 3, 4, 5, 5, 6]]
    assert row.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert row.group.tolist() == [[1, 1, 1, 1, 1, 0, 0]]
    assert row.answer.tolist() == [[0, 0, 1, 2, 2, 0, 1]]
    assert row.last.tolist() == [6, 2, 4]
    assert [(block.number, block.width) for block in row.blocks] == [(1, 5), (1, 2)]
    first, second = masks_of(row.sees(), row.blocks)
    assert first[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert second[0, 0].int().tolist() == [[1, 0], [1, 1]]
    assert masks_of(row.sees(2), row.blocks)[0][0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, 1]]
    moved = row.to(torch.device("cpu"))
    assert all(torch.equal(getattr(row, name), getattr(moved, name)) for name in Row.__slots__ if name != "blocks")
    assert [(block.place.tolist(), block.token.tolist()) for block in moved.blocks] == [(block.place.tolist(), block.token.tolist()) for block in row.blocks]


def test_a_block_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.model.batching.PADDING", 1)
    first, second = lay_out([[[7]], [[1, 2, 3]], [[4, 5]]], share=False).blocks
    assert (first.number, first.width, first.even) == (2, 3, False)
    assert first.place.tolist() == [0, 1, 2, 3, 4]
    assert first.token.tolist() == [0, 1, 2, 3, 4, 3]
    assert (second.number, second.width, second.even) == (1, 1, True)


# outputs, against models that read one sequence at a time

SIZES: dict[str, Any] = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 1, "initializer_range": 0.2}
DECODER: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**DECODER),
    "qwen2": Qwen2Config(**DECODER),
    "qwen2 with a window": Qwen2Config(**{**DECODER, "num_hidden_layers": 3}, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": Qwen3Config(**DECODER),
    "mistral": MistralConfig(**DECODER, sliding_window=7),
    "gemma2": Gemma2Config(**DECODER, sliding_window=6, attn_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "gemma3": Gemma3TextConfig(**DECODER, sliding_window=6, query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"]),
}


def some_groups() -> list[list[list[int]]]:
    """One to four answers to each of four prompts; most are longer than the windows."""
    torch.manual_seed(1)

    def some(least: int, most: int) -> list[int]:
        return torch.randint(3, 120, (int(torch.randint(least, most, ())),)).tolist()

    return [[[*prompt, *some(1, 14)] for _ in range(number)] for number, prompt in ((1, some(3, 9)), (2, some(9, 20)), (4, some(5, 12)), (2, []))]


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


@dataclass
class Case:
    """A model, and what one of the same weights with eager attention gives when it reads the sequences one at a time."""

    model: Any
    outputs: Tensor
    gradients: dict[str, Tensor]


@pytest.fixture(scope="module", params=list(CONFIGS))
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(config)).eval()
    plain = AutoModelForSequenceClassification.from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    plain.load_state_dict(model.state_dict())
    use_attention(as_reward_model(model))
    outputs = torch.cat([plain(input_ids=torch.tensor([one])).logits for group in some_groups() for one in group])
    (outputs**2).sum().backward()
    return Case(model, outputs.detach(), gradients(plain))


@pytest.mark.parametrize("layout", get_args(Name))
def test_outputs_and_gradients_are_those_of_sequences_read_one_at_a_time(case: Case, layout: Name) -> None:
    assert case.outputs.std() > 0.1
    network = Network(case.model, 0, layout)
    network.zero_grad()
    outputs = network(network.prepare(some_groups()))
    torch.testing.assert_close(outputs, case.outputs, rtol=1e-5, atol=1e-5)
    (outputs**2).sum().backward()
    found = gradients(case.model)
    assert found.keys() == case.gradients.keys()
    largest = max(float(one.abs().max()) for one in case.gradients.values())
    for name, expected in case.gradients.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-4 * largest, msg=lambda text, name=name: f"{name}: {text}")


def test_decoders_share_prompts_unless_something_else_is_wished(case: Case) -> None:
    assert layout_for(case.model.train(), None, 0) == "shared"
    assert case.model.training
    for layout in get_args(Name):
        assert layout_for(case.model.eval(), layout, 0) == layout
    assert not case.model.training


@pytest.mark.parametrize("config", [BertConfig(**SIZES), RobertaConfig(**SIZES), ElectraConfig(**SIZES, embedding_size=16)], ids=["bert", "roberta", "electra"])
def test_encoders_of_a_known_kind_lie_in_a_row_and_refuse_to_share(config: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    use_attention(as_reward_model(model))
    assert layout_for(model, None, 0) == layout_for(model, "packed", 0) == "packed"
    assert layout_for(model, "padded", 0) == "padded"
    with pytest.raises(AssayError, match=f"train.layout is shared, but {type(model).__name__} reads in both directions.*; use `padded`, or leave it out"):
        layout_for(model, "shared", 0)


@pytest.mark.parametrize(("config", "why"), [
    (ModernBertConfig(**SIZES), "is not of a kind of encoder for which Assay can keep sequences apart"),
    (BloomConfig(vocab_size=120, hidden_size=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0), "does not take positions and masks"),
])  # fmt: skip
def test_models_that_cannot_say_so_and_are_padded(config: Any, why: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    use_attention(as_reward_model(model))
    assert layout_for(model, None, 0) == layout_for(model, "padded", 0) == "padded"
    with pytest.raises(AssayError, match=f"train.layout is packed, but {type(model).__name__} {why}.*; use `padded`"):
        layout_for(model, "packed", 0)


def test_layers_of_an_unknown_kind_are_refused() -> None:
    model = AutoModelForSequenceClassification.from_config(Qwen3Config(**DECODER)).eval()
    model.config.layer_types = ["full_attention", "chunked_attention"]
    assert layout_for(model, None, 0) == "padded"
    with pytest.raises(AssayError, match="layers of the kind chunked_attention, for which Assay cannot keep answers apart"):
        layout_for(model, "shared", 0)


def test_a_model_whose_outputs_depend_on_the_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one whose backbone keeps the masks it is given to itself."""
    model = AutoModelForSequenceClassification.from_config(LlamaConfig(**DECODER)).eval()
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *given, attention_mask=None, **more: forward(*given, **more))
    assert "gives other rewards when answers share a row" in str(why_not("shared", model, 0))
    assert layout_for(model, None, 0) == "padded"
