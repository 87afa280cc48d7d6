"""Sequences laid out in rows, against a slow twin and against models that read them one at a time."""

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
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from assay.errors import AssayError
from assay.model.layout import PADDING, Name, Rows, common_beginning, lay_out, size
from assay.model.network import Network, as_reward_model, layout_for, pad, use_attention, why_not_shared

# rows, against a twin

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


def slow(groups: list[list[list[int]]], share: bool) -> list[list[Token]]:
    """The rows, without their padding."""
    pieces: list[list[Token]] = []
    for g, group in enumerate(groups):
        common = 0
        while share and all(len(one) > common + 1 for one in group) and len({one[common] for one in group}) == 1:
            common += 1
        tokens = [Token(group[0][i], i, g, ()) for i in range(common)]
        for a, one in enumerate(group):
            tokens += [Token(one[i], i, g, (a + 1,)) for i in range(common, len(one))]
        pieces.append(tokens)
    width = max(map(len, pieces))
    rows: list[list[Token]] = []
    for tokens in sorted(pieces, key=len, reverse=True):
        for row in rows:
            if len(row) + len(tokens) <= width:
                row += tokens
                break
        else:
            rows.append(list(tokens))
    return rows


def slow_mask(rows: list[list[Token]], width: int, window: int | None) -> Tensor:
    """Which token sees which; padding sees padding."""
    mask = torch.zeros(len(rows), 1, width, width, dtype=torch.bool)
    for r, row in enumerate(rows):
        for i in range(width):
            for j in range(width):
                if i < len(row) and j < len(row):
                    one, other = row[i], row[j]
                    ahead = one.position - other.position
                    mask[r, 0, i, j] = one.group == other.group and one.path[: len(other.path)] == other.path and ahead >= 0 and (window is None or ahead < window)
                else:
                    mask[r, 0, i, j] = i >= len(row) and j >= len(row)
    return mask


@settings(deadline=None, max_examples=80)
@given(GROUPS, WINDOWS, st.booleans())
@example([[[1]]], None, True)
@example([[[1, 2], [1]], [[1, 2], [1, 2]]], 1, True)
def test_rows_and_who_sees_whom_are_those_of_the_slow_twin(groups: list[list[list[int]]], window: int | None, share: bool) -> None:
    rows, twin = lay_out(groups, PAD, share=share), slow(groups, share)
    height, width = len(twin), max(map(len, twin))
    assert rows.input_ids.shape == rows.position_ids.shape == rows.group.shape == rows.answer.shape == (height, width)
    for r, row in enumerate(twin):
        empty = width - len(row)
        assert rows.input_ids[r].tolist() == [token.id for token in row] + [PAD] * empty
        assert rows.position_ids[r].tolist() == [token.position for token in row] + [0] * empty
        assert rows.group[r].tolist() == [token.group for token in row] + [PADDING] * empty
        assert rows.answer[r].tolist() == [token.path[0] if token.path else 0 for token in row] + [0] * empty
    assert torch.equal(rows.sees(window), slow_mask(twin, width, window))


@settings(deadline=None, max_examples=80)
@given(GROUPS, WINDOWS, st.booleans())
def test_the_mask_as_a_function_is_the_mask(groups: list[list[list[int]]], window: int | None, share: bool) -> None:
    rows = lay_out(groups, PAD, share=share)
    height, width = rows.input_ids.shape
    row, head, token, other = torch.meshgrid(torch.arange(height), torch.arange(2), torch.arange(width), torch.arange(width), indexing="ij")
    assert torch.equal(rows.sees_at(window)(row, head, token, other), rows.sees(window).expand(height, 2, width, width))


@settings(deadline=None, max_examples=80)
@given(GROUPS, st.booleans())
def test_the_path_to_each_last_token_is_the_sequence_given(groups: list[list[list[int]]], share: bool) -> None:
    rows = lay_out(groups, PAD, share=share)
    sees = rows.sees()
    assert sees.any(dim=-1).all()
    sequences = [one for group in groups for one in group]
    assert len(rows.last) == len(sequences)
    for end, one in zip(rows.last.tolist(), sequences, strict=True):
        row, column = divmod(end, rows.input_ids.shape[1])
        seen = sees[row, 0, column]
        assert rows.input_ids[row, seen].tolist() == one
        assert rows.position_ids[row, seen].tolist() == list(range(len(one)))
        assert seen.nonzero().max() == column


@given(GROUPS)
def test_sizes_are_those_of_what_is_laid_out(groups: list[list[list[int]]]) -> None:
    for name, share in (("shared", True), ("packed", False)):
        rows = lay_out(groups, PAD, share=share)
        assert [int((rows.group == g).sum()) for g in range(len(groups))] == [size(group, name) for group in groups]
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
    rows = lay_out([[[5, 6]], [[1, 2, 3], [1, 2, 4, 5]]], PAD, share=True)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5], [5, 6, PAD, PAD, PAD]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    assert rows.group.tolist() == [[1, 1, 1, 1, 1], [0, 0, PADDING, PADDING, PADDING]]
    assert rows.answer.tolist() == [[0, 0, 1, 2, 2], [0, 1, 0, 0, 0]]
    assert rows.last.tolist() == [6, 2, 4]
    assert rows.sees()[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert rows.sees(2)[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 1, 1]]
    moved = rows.to(torch.device("cpu"))
    assert all(torch.equal(getattr(rows, name), getattr(moved, name)) for name in Rows.__slots__)


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


@pytest.mark.parametrize(("config", "why"), [
    (BertConfig(**SIZES), "reads in both directions"),
    (BloomConfig(vocab_size=120, hidden_size=32, n_layer=2, n_head=4, num_labels=1, pad_token_id=0), "does not take positions and masks"),
])  # fmt: skip
def test_models_that_cannot_share_say_so_and_are_padded(config: Any, why: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    use_attention(as_reward_model(model))
    assert layout_for(model, None, 0) == layout_for(model, "padded", 0) == "padded"
    for layout in ("shared", "packed"):
        with pytest.raises(AssayError, match=f"train.layout is {layout}, but {type(model).__name__} {why}.*; use `padded`"):
            layout_for(model, layout, 0)


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
    assert "gives other rewards when answers share a row" in str(why_not_shared(model, 0))
    assert layout_for(model, None, 0) == "padded"
