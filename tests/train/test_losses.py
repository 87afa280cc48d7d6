"""Losses against closed forms in float64, at values where the naive form overflows."""

import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from assay.train.config import LossConfig, TrainConfig
from assay.train.losses import LOSSES, bradley_terry, pair_losses, rating_losses, step_terms

Floats = NDArray[np.float64]

DIFFERENCES = [-100.0, -30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0, 100.0]


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bradley_terry_value_and_gradient(difference: float, dtype: torch.dtype) -> None:
    chosen = torch.tensor([difference], dtype=dtype, requires_grad=True)
    rejected = torch.zeros(1, dtype=dtype, requires_grad=True)
    loss = bradley_terry(chosen, rejected)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-abs(difference))) + max(0.0, -difference), rel=1e-6, abs=1e-30)
    loss.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    slope = -1 / (1 + math.exp(difference))
    assert chosen.grad.item() == pytest.approx(slope, rel=1e-2 if dtype == torch.bfloat16 else 1e-5, abs=1e-30)
    assert rejected.grad.item() == -chosen.grad.item()


# each loss against its formula


def p(d: Floats) -> Floats:
    return 1 / (1 + np.exp(-d))


FORMULAS: list[tuple[dict[str, Any], Callable[[Floats, Floats, Floats], Floats]]] = [
    ({"kind": "bradley_terry"}, lambda c, r, m: -np.log(p(c - r))),
    ({"kind": "bradley_terry", "smoothing": 0.1}, lambda c, r, m: -0.9 * np.log(p(c - r)) - 0.1 * np.log(1 - p(c - r))),
    ({"kind": "cross_entropy", "smoothing": 0.1}, lambda c, r, m: -0.9 * (np.log(p(c)) + np.log(1 - p(r))) - 0.1 * (np.log(p(r)) + np.log(1 - p(c)))),
    ({"kind": "hinge", "smoothing": 0.2}, lambda c, r, m: 0.8 * np.maximum(0, 1 - (c - r)) + 0.2 * np.maximum(0, 1 + (c - r))),
    ({"kind": "temperature_bt", "temperature": 0.5}, lambda c, r, m: -np.log(p((c - r) / 0.5))),
    ({"kind": "temperature_bt"}, lambda c, r, m: -np.log(p((c - r) / 2))),
    ({"kind": "focal", "gamma": 0.5}, lambda c, r, m: -((1 - p(c - r)) ** 0.5) * np.log(p(c - r))),
    ({"kind": "focal"}, lambda c, r, m: -((1 - p(c - r)) ** 2) * np.log(p(c - r))),
    ({"kind": "focal_penalty", "gamma": 1}, lambda c, r, m: -(1 - 2 * np.maximum(0, p(c - r) - 0.5)) * np.log(p(c - r))),
    ({"kind": "focal_penalty"}, lambda c, r, m: -((1 - 2 * np.maximum(0, p(c - r) - 0.5)) ** 2) * np.log(p(c - r))),
    ({"kind": "hinge"}, lambda c, r, m: np.maximum(0, 1 - (c - r))),
    ({"kind": "hinge", "margin": 2.5}, lambda c, r, m: np.maximum(0, 2.5 - (c - r))),
    ({"kind": "margin_mse"}, lambda c, r, m: (c - r - 1) ** 2),
    ({"kind": "margin_mse", "margin": 0.5}, lambda c, r, m: (c - r - 0.5) ** 2),
    ({"kind": "cross_entropy"}, lambda c, r, m: -np.log(p(c)) - np.log(1 - p(r))),
    ({"kind": "tempered_log", "tempering": 0}, lambda c, r, m: 1 - p(c - r)),
    ({"kind": "tempered_log"}, lambda c, r, m: (1 - p(c - r) ** 0.5) / 0.5),
    ({"kind": "tempered_log", "tempering": 0.9}, lambda c, r, m: (1 - p(c - r) ** 0.1) / 0.1),
    ({"kind": "margin_bt"}, lambda c, r, m: -np.log(p(c - r - m))),
    ({"kind": "scaled_bt"}, lambda c, r, m: -m * np.log(p(c - r))),
    ({"kind": "focal", "centre": 0.01}, lambda c, r, m: -((1 - p(c - r)) ** 2) * np.log(p(c - r)) + 0.01 * (c + r) ** 2),
    ({"kind": "scaled_bt", "centre": 0.3}, lambda c, r, m: -m * np.log(p(c - r)) + 0.3 * (c + r) ** 2),
]


def some_pairs(n: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards whose differences lie in [-5, 5], and margins in [0, 3]."""
    torch.manual_seed(n)
    middle, half = torch.rand(n) * 4 - 2, (torch.rand(n) * 10 - 5) / 2
    return middle + half, middle - half, torch.rand(n) * 3


def with_slopes(config: LossConfig, chosen: Tensor, rejected: Tensor, margin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The losses and what each changes by with the chosen and with the rejected reward."""
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    losses = pair_losses(chosen, rejected, margin, config)
    by_chosen, by_rejected = torch.autograd.grad(losses.sum(), (chosen, rejected))
    return losses.detach(), by_chosen, by_rejected


def test_every_loss_has_a_formula_here_and_a_name_in_the_configuration() -> None:
    assert {given["kind"] for given, _ in FORMULAS} == set(LOSSES) == set(get_args(LossConfig.model_fields["kind"].annotation))


@pytest.mark.parametrize(("given", "formula"), FORMULAS, ids=[" ".join(map(str, given.values())) for given, _ in FORMULAS])
def test_value_and_gradient_are_those_of_the_formula(given: dict[str, Any], formula: Callable[[Floats, Floats, Floats], Floats]) -> None:
    pairs = some_pairs()
    found = with_slopes(LossConfig(**given), *pairs)
    c, r, m = (one.double().numpy() for one in pairs)
    step = 1e-5
    expected = formula(c, r, m), (formula(c + step, r, m) - formula(c - step, r, m)) / (2 * step), (formula(c, r + step, m) - formula(c, r - step, m)) / (2 * step)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [given for given, _ in FORMULAS], ids=[" ".join(map(str, given.values())) for given, _ in FORMULAS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_differences_have_finite_losses_and_gradients(given: dict[str, Any], dtype: torch.dtype) -> None:
    sides = torch.tensor([[100.0, 0], [-100, 0], [0, 100], [0, -100], [50, -50], [-50, 50], [0, 0], [100, 100], [-100, -100]], dtype=dtype)
    losses, by_chosen, by_rejected = with_slopes(LossConfig(**given), sides[:, 0], sides[:, 1], torch.full((9,), 3.0, dtype=dtype))
    assert losses.dtype == torch.float32
    assert (losses >= 0).all()
    for one in (losses, by_chosen, by_rejected):
        assert one.isfinite().all()


@pytest.mark.parametrize("kind", ["bradley_terry", "temperature_bt", "focal_penalty", "hinge", "margin_mse", "cross_entropy", "margin_bt", "scaled_bt"])
def test_a_pair_that_is_far_wrong_still_pulls(kind: str) -> None:
    """For differences where float32 has sigmoid(d) = 0. The focal and the tempered losses are left out: tempered ones are meant not to."""
    _, by_chosen, by_rejected = with_slopes(LossConfig(kind=kind), torch.tensor([-60.0]), torch.tensor([60.0]), torch.ones(1))
    assert by_chosen.item() <= -0.5
    assert by_rejected.item() == -by_chosen.item()


# losses that are others in a limit

PLAIN = LossConfig()


def assert_same(found: tuple[Tensor, Tensor, Tensor], expected: tuple[Tensor, Tensor, Tensor], within: float = 1e-6) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=within, atol=within)


@pytest.mark.parametrize(("given", "within"), [
    ({"kind": "focal", "gamma": 0}, 1e-6),
    ({"kind": "focal_penalty", "gamma": 0}, 1e-6),
    ({"kind": "temperature_bt", "temperature": 1}, 1e-6),
    ({"kind": "tempered_log", "tempering": 1}, 0),
    ({"kind": "tempered_log", "tempering": 1 - 1e-6}, 1e-4),
])  # fmt: skip
def test_losses_that_are_bradley_terry_in_a_limit(given: dict[str, Any], within: float) -> None:
    pairs = some_pairs()
    assert_same(with_slopes(LossConfig(**given), *pairs), with_slopes(PLAIN, *pairs), within)


def test_a_margin_of_0_is_no_margin() -> None:
    chosen, rejected, _ = some_pairs()
    none = torch.zeros(len(chosen))
    assert_same(with_slopes(LossConfig(kind="margin_bt"), chosen, rejected, none), with_slopes(PLAIN, chosen, rejected, none))
    losses, by_chosen, by_rejected = with_slopes(LossConfig(kind="scaled_bt"), chosen, rejected, none)
    assert not losses.any()
    assert not by_chosen.any()
    assert not by_rejected.any()


def test_the_focal_penalty_leaves_wrong_pairs_alone_and_lowers_right_ones() -> None:
    chosen, rejected, margin = some_pairs()
    wrong = chosen < rejected
    assert 100 < wrong.sum() < 200
    assert_same(with_slopes(LossConfig(kind="focal_penalty"), chosen[wrong], rejected[wrong], margin[wrong]), with_slopes(PLAIN, chosen[wrong], rejected[wrong], margin[wrong]))
    right = chosen[~wrong], rejected[~wrong], margin[~wrong]
    assert (with_slopes(LossConfig(kind="focal_penalty"), *right)[0] < with_slopes(PLAIN, *right)[0]).all()


def test_a_scale_of_2_is_the_pair_twice() -> None:
    chosen, rejected, _ = some_pairs()
    losses, by_chosen, by_rejected = with_slopes(PLAIN, chosen, rejected, chosen)
    assert_same(with_slopes(LossConfig(kind="scaled_bt"), chosen, rejected, torch.full_like(chosen, 2.0)), (2 * losses, 2 * by_chosen, 2 * by_rejected))


@pytest.mark.parametrize("kind", sorted(LOSSES))
@pytest.mark.parametrize("share", [0.01, 0.2, 0.49])
def test_smoothing_is_the_mixture_of_both_labels(kind: Any, share: float) -> None:
    chosen, rejected, margin = some_pairs()
    plain = LossConfig(kind=kind)
    as_given, turned = with_slopes(plain, chosen, rejected, margin), with_slopes(plain, rejected, chosen, margin)
    turned = turned[0], turned[2], turned[1]
    mixed = [(1 - share) * one + share * other for one, other in zip(as_given, turned, strict=True)]
    assert_same(with_slopes(LossConfig(kind=kind, smoothing=share), chosen, rejected, margin), (mixed[0], mixed[1], mixed[2]))


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_centre_adds_the_squared_sum_of_the_rewards(kind: str) -> None:
    chosen, rejected, margin = some_pairs()
    plain = with_slopes(LossConfig(kind=kind), chosen, rejected, margin)
    both = chosen + rejected
    expected = plain[0] + 0.25 * both**2, plain[1] + 0.5 * both, plain[2] + 0.5 * both
    assert_same(with_slopes(LossConfig(kind=kind, centre=0.25), chosen, rejected, margin), expected, 1e-5)


# terms of a whole step


def some_outputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(12, 2, dtype=torch.float64), torch.randint(5, 400, (12,)).double()


def test_no_term_is_asked_for() -> None:
    assert step_terms(*some_outputs(), LossConfig(kind="focal", centre=1)).item() == 0


def test_sum_to_zero_is_the_squared_sum_over_the_number() -> None:
    outputs, lengths = some_outputs()
    outputs.requires_grad_()
    found = step_terms(outputs, lengths, LossConfig(sum_to_zero=0.3))
    total = outputs.detach().numpy()[:, 0].sum()
    assert found.item() == pytest.approx(0.3 * total**2 / 12)
    (slope,) = torch.autograd.grad(found, outputs)
    assert slope[:, 0].tolist() == pytest.approx([0.6 * total / 12] * 12)
    assert not slope[:, 1].any()
    assert step_terms(outputs - outputs.mean(dim=0), lengths, LossConfig(sum_to_zero=0.3)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_length_head_is_of_the_two_correlations_with_length(sign: int) -> None:
    outputs, lengths = some_outputs()
    outputs = outputs + sign * 0.01 * lengths[:, None]
    of_reward, of_length = (np.corrcoef(outputs[:, k].numpy(), lengths.numpy())[0, 1] for k in (0, 1))
    assert of_reward * sign > 0.3
    assert of_length * sign > 0.3
    config = LossConfig(length_head=0.7)
    assert step_terms(outputs, lengths, config).item() == pytest.approx(0.7 * (abs(of_reward) - of_length))
    torch.autograd.gradcheck(lambda o: step_terms(o, lengths, config), outputs.clone().requires_grad_())


def test_both_terms_are_added() -> None:
    outputs, lengths = some_outputs()
    one, other = (step_terms(outputs, lengths, LossConfig(**{name: 0.5})).item() for name in ("sum_to_zero", "length_head"))
    assert step_terms(outputs, lengths, LossConfig(sum_to_zero=0.5, length_head=0.5)).item() == pytest.approx(one + other)


@pytest.mark.parametrize("number", [1, 8])
def test_answers_of_one_length_have_no_correlation_with_it(number: int) -> None:
    outputs = torch.randn(number, 2).requires_grad_()
    found = step_terms(outputs, torch.full((number,), 7.0), LossConfig(length_head=1))
    found.backward()
    assert found.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


# ratings


def some_ratings() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    outputs, targets = torch.randn(20, 4), torch.randint(0, 5, (20, 4)).float()
    targets[torch.rand(20, 4) < 0.4] = torch.nan
    targets[5], targets[6] = torch.nan, torch.ones(4)
    return outputs, targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_of_an_answer_is_the_mean_over_its_rated_attributes(dtype: torch.dtype) -> None:
    outputs, targets = some_ratings()
    outputs = outputs.to(dtype)
    found = rating_losses(outputs, targets)
    assert found.dtype == torch.float32
    for i in range(20):
        errors = [(outputs[i, k].item() - targets[i, k].item()) ** 2 for k in range(4) if not math.isnan(targets[i, k].item())]
        assert found[i].item() == pytest.approx(sum(errors) / len(errors) if errors else 0, rel=1e-5)
    assert found[5].item() == 0


def test_what_is_not_rated_has_no_gradient() -> None:
    outputs, targets = some_ratings()
    outputs.requires_grad_()
    (slope,) = torch.autograd.grad(rating_losses(outputs, targets).sum(), outputs)
    unrated = targets.isnan()
    assert (slope[unrated] == 0).all()
    counts = (~unrated).sum(dim=1, keepdim=True).expand(20, 4)
    torch.testing.assert_close(slope[~unrated], (2 * (outputs.detach() - targets) / counts)[~unrated])


# configuration


def test_a_bare_name_is_the_loss_with_its_usual_parameters() -> None:
    assert TrainConfig(loss="focal").loss == LossConfig(kind="focal")
    assert TrainConfig().loss == LossConfig(kind="bradley_terry")
    assert TrainConfig.model_validate({"loss": {"kind": "hinge", "margin": 2}}).loss == LossConfig(kind="hinge", margin=2)


@pytest.mark.parametrize("given", ["focall", {"kind": "dpo"}, {"kind": "focal", "gama": 1}, {"kind": "focal", "gamma": -1}, {"kind": "temperature_bt", "temperature": 0}, {"kind": "tempered_log", "tempering": 1.1}, {"smoothing": 0.5}, {"centre": -0.1}])
def test_losses_that_do_not_exist_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(loss=given)
