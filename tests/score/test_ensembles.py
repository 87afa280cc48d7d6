"""Several scorers as one: what is merged, how specs nest, and which are refused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from assay.errors import AssayError
from assay.pairs.schema import Message, answer_text
from assay.score.ensembles import Ensemble, members_of
from assay.score.rules import Length
from assay.score.scorer import Scores, load_scorer
from conftest import turn


class Constant:
    """Gives the scores it was made with, whatever it is asked."""

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str, values: Sequence[float], reasons: dict[int, str] | None = None, truncated: Sequence[int] = (), scale: tuple[float | None, float | None] | None = None) -> None:
        self.spec, self.values, self.reasons, self.cut = spec, values, reasons or {}, truncated
        if scale:
            self.contract = SimpleNamespace(mean=scale[0], std=scale[1])

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        cut = np.isin(np.arange(len(self.values)), self.cut)
        return Scores(np.array(self.values, dtype=np.float32).reshape(-1, 1), cut, self.reasons)


SAID = [[turn("user", "?"), turn("assistant", "x" * n)] for n in (1, 2, 3, 4)]
A, B, C = [1.0, 2.0, 3.0, 4.0], [4.0, 0.0, 5.0, -2.0], [0.5, 0.5, 0.0, 10.0]


def load(spec: str, **more: Any) -> Ensemble:
    """An ensemble of constants: a, b and c, or what is given by name."""
    known: dict[str, Any] = {"a": Constant("a", A), "b": Constant("b", B), "c": Constant("c", C), **more}

    def member(name: str) -> Any:
        return Ensemble(name, member) if name.endswith(")") else known[name]

    return Ensemble(spec, member)


def values(spec: str, **more: Any) -> list[float]:
    found: list[float] = load(spec, **more).score(SAID).values[:, 0].tolist()
    return found


a, b, c = (np.array(x) for x in (A, B, C))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mean(a,b)", (a + b) / 2),
        ("mean(a,b,c)", (a + b + c) / 3),
        ("mean( a , b )", (a + b) / 2),
        ("mean(a)", a),
        ("min(a,b)", np.minimum(a, b)),
        ("min(a,b,c)", np.minimum(np.minimum(a, b), c)),
        ("mean-0.5(a,b)", (a + b) / 2 - 0.5 * np.abs(a - b) / 2),
        ("mean-2(a,b,c)", (a + b + c) / 3 - 2 * np.std([a, b, c], axis=0)),
        ("mean-0(a,b)", (a + b) / 2),
        ("weighted(0.7*a,0.3*b)", 0.7 * a + 0.3 * b),
        ("weighted(2*a,-1*b)", 2 * a - b),
        ("weighted(1e-1*a, 3*b)", 0.1 * a + 3 * b),
        ("min(mean(a,b),c)", np.minimum((a + b) / 2, c)),
        ("mean(min(a,b),mean-0.5(b,c),a)", (np.minimum(a, b) + (b + c) / 2 - np.abs(b - c) / 4 + a) / 3),
        ("weighted(0.5*mean(a,b),0.5*weighted(2*a,1*c))", 0.25 * (a + b) + a + 0.5 * c),
    ],
)
def test_what_is_merged(spec: str, expected: np.ndarray) -> None:
    assert values(spec) == pytest.approx(expected.tolist(), rel=1e-6)


def test_the_order_of_the_members_does_not_matter() -> None:
    for form in ("mean({},{},{})", "min({},{},{})", "mean-1.5({},{},{})"):
        assert values(form.format("a", "b", "c")) == pytest.approx(values(form.format("c", "a", "b")))


def test_disagreement_costs() -> None:
    assert all(x <= y for x, y in zip(values("mean-0.5(a,b)"), values("mean(a,b)"), strict=True))
    assert values("mean-0.5(a,a)") == pytest.approx(A)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("implicit:p,r", ["implicit:p,r"]),
        ("implicit:p,r,a", ["implicit:p,r", "a"]),
        ("a,implicit:p,r", ["a", "implicit:p,r"]),
        ("implicit:p,r,implicit:q,s,a", ["implicit:p,r", "implicit:q,s", "a"]),
        ("0.5*implicit:p,r,0.5*a", ["0.5*implicit:p,r", "0.5*a"]),
        ("mean(implicit:p,r,a),b", ["mean(implicit:p,r,a)", "b"]),
        ("mean(a,b),min(c,mean(d,e))", ["mean(a,b)", "min(c,mean(d,e))"]),
        ("min(implicit:p,r),implicit:q,s", ["min(implicit:p,r)", "implicit:q,s"]),
        (" a , b ", ["a", "b"]),
        ("", []),
    ],
)
def test_the_members_between_the_commas(text: str, parts: list[str]) -> None:
    assert members_of(text) == parts


def test_members_are_loaded_by_their_own_spec() -> None:
    loaded: list[str] = []

    def member(spec: str) -> Any:
        loaded.append(spec)
        return Constant(spec, A)

    Ensemble("weighted(0.5*implicit:p,r,0.25*runs/x/checkpoint,0.25*judge:m@http://h:1/v1)", member)
    assert loaded == ["implicit:p,r", "runs/x/checkpoint", "judge:m@http://h:1/v1"]


# Scales


def test_members_with_known_scales_are_standardised() -> None:
    more = {"one": Constant("one", A, scale=(2.0, 4.0)), "two": Constant("two", B, scale=(-1.0, 0.5))}
    first, second = (a - 2) / 4, (b + 1) / 0.5
    assert values("mean(one,two)", **more) == pytest.approx(((first + second) / 2).tolist())
    assert values("min(one,two)", **more) == pytest.approx(np.minimum(first, second).tolist())
    assert values("weighted(0.9*one,0.1*two)", **more) == pytest.approx((0.9 * first + 0.1 * second).tolist(), rel=1e-5)
    assert values("mean-1(one,two)", **more) == pytest.approx(((first + second) / 2 - np.abs(first - second) / 2).tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("scale", [None, (None, None), (1.0, None), (None, 1.0), (1.0, 0.0)])
def test_one_member_without_a_scale_leaves_all_as_they_are(scale: tuple[float | None, float | None] | None) -> None:
    more = {"one": Constant("one", A, scale=(2.0, 4.0)), "two": Constant("two", B, scale=scale)}
    assert values("mean(one,two)", **more) == pytest.approx(((a + b) / 2).tolist())


def test_a_trained_checkpoint_is_brought_to_its_scale(tiny_encoder: Path, make_pairs: Callable[..., Any], tmp_path: Path) -> None:
    from assay.train.config import TrainConfig
    from assay.train.train import train

    config = TrainConfig(model=str(tiny_encoder), max_length=96, max_steps=2, batch_size=8, learning_rate=3e-3, precision="fp32")
    checkpoint = train(make_pairs(40), config, tmp_path)
    alone = load_scorer(checkpoint, precision="fp32")
    contract = alone.contract  # type: ignore[attr-defined]
    together = load_scorer(f"mean({checkpoint},{checkpoint})", precision="fp32")
    expected = (alone.score(SAID).values[:, 0] - contract.mean) / contract.std
    assert contract.std > 0
    assert together.score(SAID).values[:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert together.fingerprint  # type: ignore[attr-defined]
    mixed = load_scorer(f"mean({checkpoint},rule:length)", precision="fp32").score(SAID).values[:, 0]
    assert mixed.tolist() == pytest.approx(((alone.score(SAID).values[:, 0] + [1, 2, 3, 4]) / 2).tolist(), abs=1e-5)


# What is passed on


@pytest.mark.parametrize("form", ["mean({},{})", "min({},{})", "mean-0.5({},{})", "weighted(0.5*{},0.5*{})"])
def test_without_one_score_there_is_none_but_its_reason(form: str) -> None:
    broken = Constant("broken", [1.0, float("nan"), 3.0, 4.0], {1: "the answer is empty"})
    found = load(form.format("a", "broken"), broken=broken).score(SAID)
    assert np.isnan(found.values[:, 0]).tolist() == [False, True, False, False]
    assert found.reasons == {1: "broken: the answer is empty"}


def test_every_reason_is_kept() -> None:
    one = Constant("one", [float("nan"), 2, 3, float("nan")], {0: "no", 3: "never"})
    two = Constant("two", [float("nan"), float("nan"), 3, 4], {0: "bad", 1: "worse"})
    found = load("mean(one,two)", one=one, two=two).score(SAID)
    assert np.isnan(found.values[:, 0]).tolist() == [True, True, False, True]
    assert found.reasons[1] == "two: worse"
    assert found.reasons[3] == "one: never"
    assert set(found.reasons) == {0, 1, 3}
    nested = load("mean(min(one,two),a)", one=one, two=two).score(SAID)
    assert nested.reasons[1] == "min(one,two): two: worse"


def test_cut_for_one_is_cut() -> None:
    more = {"one": Constant("one", A, truncated=[0]), "two": Constant("two", B, truncated=[0, 2])}
    assert load("min(one,two,a)", **more).score(SAID).truncated.tolist() == [True, False, True, False]


def test_no_conversations() -> None:
    found = load_scorer("mean(rule:length,rule:length)").score([])
    assert found.values.shape == (0, 3)


def test_fingerprints() -> None:
    named = {name: Constant(name, A) for name in ("one", "two")}
    for name, member in named.items():
        member.fingerprint = f"print of {name}"  # type: ignore[attr-defined]
    prints = [load(spec, **named).fingerprint for spec in ("mean(one,two)", "min(one,two)", "mean(two,one)", "mean-0.5(one,two)", "weighted(1*one,2*two)")]
    assert None not in prints
    assert len(set(prints)) == 5
    assert load("mean(one,a)", **named).fingerprint is None
    named["two"].fingerprint = "another"  # type: ignore[attr-defined]
    assert load("mean(one,two)", **named).fingerprint != prints[0]


# Specs


def test_specs_are_understood_by_load_scorer() -> None:
    for spec in ("mean(rule:length,rule:length)", "min(rule:length)", "mean-0.5(rule:length,mean(rule:length,rule:length))", "weighted(0.5*rule:length,0.5*min(rule:length,rule:length))"):
        found = load_scorer(spec)
        assert found.spec == spec
        assert isinstance(found, Ensemble)
        assert found.score(SAID).values[:, 0].tolist() == [1, 2, 3, 4]
    assert isinstance(found.members[0], Length)


EXPECTED = "expected mean(A,B), min(A,B), mean-0.5(A,B) or weighted(0.7*A,0.3*B) with scorers in the brackets"


@pytest.mark.parametrize("spec", ["mean()", "min( )", "weighted()", "mean-x(rule:length)", "mean-(rule:length)", "mean-0.5.5(rule:length)", "mean--1(rule:length)", "mean(,)"])
def test_malformed_specs(spec: str) -> None:
    with pytest.raises(AssayError) as caught:
        load_scorer(spec)
    assert str(caught.value) == f"{spec}: {EXPECTED}"


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("weighted(rule:length,0.5*rule:length)", "rule:length"),
        ("weighted(0.5*rule:length,rule:length)", "rule:length"),
        ("weighted(half*rule:length)", "half*rule:length"),
        ("weighted(*rule:length)", "*rule:length"),
        ("weighted(nan*rule:length)", "nan*rule:length"),
        ("weighted(inf*rule:length)", "inf*rule:length"),
    ],
)
def test_a_member_without_a_weight(spec: str, part: str) -> None:
    with pytest.raises(AssayError) as caught:
        load_scorer(spec)
    assert str(caught.value) == f"{spec}: `{part}` has no weight; expected NUMBER*SCORER, for example 0.7*runs/a/checkpoint"


@pytest.mark.parametrize("spec", ["mean(rule:lenght,rule:length)", "weighted(0.5*rule:lenght)", "min(mean(rule:lenght))"])
def test_a_mistake_in_a_member_names_it(spec: str) -> None:
    with pytest.raises(AssayError, match=re.escape("unknown rule `rule:lenght`. Did you mean `rule:length`?")):
        load_scorer(spec)


@pytest.mark.parametrize("spec", ["mean(rule:length,rule:length", "mean(rule:length))", "mean((rule:length)", "weighted(1*)", "mean(rule:length)(rule:length)", "median(rule:length,rule:length)"])
def test_brackets_that_do_not_match_are_an_error(spec: str) -> None:
    with pytest.raises(AssayError):
        load_scorer(spec)


def test_a_judge_of_pairs_is_no_member() -> None:
    """It gives no scores, so it must be refused, not fail halfway."""
    with pytest.raises(AssayError):
        load_scorer("mean(judge-pairs:m@http://localhost:1/v1,rule:length)").score(SAID)


def test_the_answer_is_what_is_scored() -> None:
    assert [len(answer_text(s[-1:])) for s in SAID] == load_scorer("mean(rule:length)").score(SAID).values[:, 0].tolist()
