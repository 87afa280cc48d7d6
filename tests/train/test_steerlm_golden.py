"""Merge, head and losses against the numbers that NeMo-Aligner's code for HelpSteer2 returned (tests/golden/steerlm.json); it computed in fp32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast

from assay.model.layout import Name
from assay.model.network import Network, as_reward_model
from assay.model.reward_model import RewardModel, from_backbone
from assay.train.config import LossConfig
from assay.train.losses import pair_losses, rating_losses

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "steerlm.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
ATTRIBUTES = GOLDEN["attribute_order"]
HELPFULNESS = ATTRIBUTES.index("helpfulness")
KINDS = {"bradley_terry": "regular_bt", "margin_bt": "margin_bt", "scaled_bt": "scaled_bt"}
NOT_RATED = -100


def of_kind(kind: str) -> list[str]:
    return [name for name, case in CASES.items() if case["kind"] == kind]


def merging(weights: list[float]) -> RewardModel:
    """A reward model of which only the merge is used."""
    return RewardModel(None, None, 8, False, {f"output {i}": weight for i, weight in enumerate(weights)})


@pytest.mark.parametrize("name", of_kind("merge"))
def test_the_reward_is_the_plain_weighted_sum(name: str) -> None:
    case = CASES[name]
    attributes = torch.tensor(case["input"]["attributes"])
    weights = case["input"]["weights"] or [1 / attributes.shape[1]] * attributes.shape[1]
    assert merging(weights).merged(attributes).tolist() == pytest.approx(case["output"]["goodness_float32"], rel=1e-6)


def test_without_weights_all_attributes_weigh_the_same(tiny_decoder: Path) -> None:
    case = CASES["uniform_default"]
    model = from_backbone(str(tiny_decoder), 64, 0, ATTRIBUTES[4:])
    assert model.merged(torch.tensor(case["input"]["attributes"])).tolist() == pytest.approx(case["output"]["goodness_float32"], rel=1e-6)


class Looked(nn.Module):
    """A backbone that gives each token its vector from a table, so that any layout can be read with given hidden states."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.table[input_ids])  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_the_head_reads_the_last_token(layout: Name) -> None:
    case = CASES["last_position"]
    given, pad = case["input"], 0
    hidden = torch.tensor(given["hidden_states_SxBxD"])
    length, batch, width = hidden.shape
    model: Any = LlamaForSequenceClassification(LlamaConfig(vocab_size=64, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=5, pad_token_id=pad))
    model.model = Looked(torch.cat([torch.full((1, width), 1e3), hidden.transpose(0, 1).flatten(0, 1)]))
    model.score = nn.Linear(width, 5)
    model.score.load_state_dict({"weight": torch.tensor(given["weight"]), "bias": torch.tensor(given["bias"])})
    network = Network(as_reward_model(model), pad, layout)
    tokens = [[1 + i * length + place for place in range(given["lengths"][i])] for i in range(batch)]
    with torch.inference_mode():
        outputs = network(network.prepare([[one] for one in tokens]))
    for ours, official in zip(outputs.tolist(), case["output"]["attributes"], strict=True):
        assert ours == pytest.approx(official, rel=1e-5)
    assert merging(given["merge_weights"]).merged(outputs).tolist() == pytest.approx(case["output"]["goodness"], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", of_kind("loss"))
def test_losses_of_the_first_pair(name: str, kind: Any) -> None:
    case = CASES[name]
    first, second = (torch.tensor([row[HELPFULNESS]]) for row in case["input"]["predictions"][:2])
    strength = case["input"]["labels"][0][0]
    chosen, rejected = (first, second) if strength < 0 else (second, first)
    ours = pair_losses(chosen, rejected, torch.tensor([abs(strength)]), LossConfig(kind=kind))
    assert ours.item() == pytest.approx(case["output"]["loss_float32"][KINDS[kind]], rel=1e-6)


@pytest.mark.parametrize("name", of_kind("loss"))
def test_regression_is_over_the_ratings_that_are_there(name: str) -> None:
    case = CASES[name]
    targets = torch.tensor(case["input"]["labels"])
    targets = torch.where(targets == NOT_RATED, float("nan"), targets)
    rated = (~targets.isnan()).sum(dim=1)
    losses = rating_losses(torch.tensor(case["input"]["predictions"]), targets)
    official = case["output"]["loss_float32"]["regression"]
    assert float((losses * rated).sum() / rated.sum()) == pytest.approx(official, rel=1e-6)
    # every answer weighs the same here, where theirs weighs by how many ratings it has
    assert (float(losses.mean()) == pytest.approx(official, rel=1e-6)) == (len(set(rated.tolist())) == 1)
