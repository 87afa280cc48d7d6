"""Scores of causal language models: what an obvious loop over single answers gives, whatever the order and the batches."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from assay.errors import AssayError
from assay.evaluate.evaluate import evaluate
from assay.evaluate.suite import Item, Suite
from assay.model.reward_model import precision_of
from assay.pairs.schema import Message
from assay.score import causal, likelihood
from assay.score.causal import Implicit, Perplexity
from assay.score.scorer import Scorer, load_scorer
from conftest import turn


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "precision_of", lambda wish, device: "fp32")


def made(folder: Path, seed: int, template: str | None = tiny.CHATML) -> Path:
    """The tiny decoder with a random head."""
    tiny.decoder(folder, template)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 0.3)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("policy"), 1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("reference"), 2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a chat template."""
    return made(tmp_path_factory.mktemp("plain"), 1, None)


def conversations() -> list[list[Message]]:
    """Short and long, one and several turns, other scripts, a whole answer twice."""
    one = [[turn("user", f"question {i} " + "why " * (i % 5)), turn("assistant", "yes " * (1 + i * i % 23))] for i in range(12)]
    several = [turn("system", "Be brief."), turn("user", "a"), turn("assistant", "b"), turn("user", "and then?"), turn("assistant", "nothing")]
    return [*one, several, [turn("user", "¿qué?"), turn("assistant", "日本語 и русский")], one[3]]


def slow(folder: Path, conversation: list[Message]) -> tuple[float, int]:
    """Sum of the log probabilities of the answer's tokens, one forward pass alone, and their number."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    before = [dict(m) for m in conversation[:-1]]
    prompt = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True) if tokenizer.chat_template else "\n\n".join(m["content"] for m in before) + "\n\n"
    context = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(conversation[-1]["content"], add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([context + answer])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(context) + k - 1, token]) for k, token in enumerate(answer)), len(answer)


# Perplexity


@pytest.mark.parametrize("name", ["policy", "plain"])
def test_perplexity_is_that_of_a_loop(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    said = conversations()
    scores = load_scorer(f"perplexity:{folder}").score(said)
    assert scores.values.shape == (len(said), 1)
    expected = [total / n for total, n in (slow(folder, c) for c in said)]
    assert scores.values[:, 0].tolist() == pytest.approx(expected, abs=2e-5)
    assert scores.reasons == {}
    assert not scores.truncated.any()
    assert scores.values[3, 0] == pytest.approx(float(scores.values[-1, 0]), abs=1e-6)


def kinds(policy: Path, reference: Path) -> list[Scorer]:
    return [Perplexity(f"perplexity:{policy}"), Implicit(f"implicit:{policy},{reference}")]


def test_order_and_batches_change_nothing(policy: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = conversations()
    order = np.random.default_rng(0).permutation(len(said))
    for scorer in kinds(policy, reference):
        scores = scorer.score(said).values[:, 0]
        assert scorer.score([said[i] for i in order]).values[:, 0] == pytest.approx(scores[order], abs=2e-4)
        assert np.concatenate([scorer.score([c]).values[:, 0] for c in said]) == pytest.approx(scores, abs=2e-4)
        for tokens in (1, 100, 100_000):
            monkeypatch.setattr(likelihood, "TOKENS", tokens)
            assert scorer.score(said).values[:, 0] == pytest.approx(scores, abs=2e-4)


def test_what_is_longer_than_the_model_reads_is_marked(policy: Path, reference: Path) -> None:
    """The tiny model has 512 positions and a token a byte."""
    short = [turn("user", "?"), turn("assistant", "yes")]
    long_prompt = [turn("user", "x" * 600), turn("assistant", "yes")]
    long_answer = [turn("user", "?"), turn("assistant", "y" * 600)]
    for scorer in kinds(policy, reference):
        scores = scorer.score([short, long_prompt, long_answer])
        assert scores.truncated.tolist() == [False, True, True]
        assert np.isfinite(scores.values).all()
        assert scores.reasons == {}


def test_exactly_as_long_as_the_model_reads_is_not_cut(policy: Path) -> None:
    scorer = Perplexity(f"perplexity:{policy}")
    frame = len(scorer.model.tokenizer.apply_chat_template([turn("user", "?")], tokenize=True, add_generation_prompt=True)["input_ids"])
    room = 512 - frame
    said = [[turn("user", "?"), turn("assistant", "y" * n)] for n in (room, room + 1)]
    scores = scorer.score(said)
    assert scores.truncated.tolist() == [False, True]
    assert scores.values[0, 0] == pytest.approx(slow(policy, said[0])[0] / room, abs=2e-5)


def test_fewer_tokens_than_the_model_reads(policy: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "MOST_TOKENS", 40)
    said = [[turn("user", "?"), turn("assistant", "y" * n)] for n in (5, 50)]
    for scorer in kinds(policy, reference):
        assert scorer.score(said).truncated.tolist() == [False, True]


def test_an_empty_answer_has_no_score_but_a_reason(policy: Path, reference: Path) -> None:
    said = [[turn("user", "?"), turn("assistant", "yes")], [turn("user", "?"), turn("assistant", "")]]
    for scorer in kinds(policy, reference):
        scores = scorer.score(said)
        assert np.isnan(scores.values[:, 0]).tolist() == [False, True]
        assert scores.reasons == {1: "the answer is empty"}


def test_no_conversation_and_no_prompt(policy: Path, plain: Path, reference: Path) -> None:
    for scorer in kinds(policy, reference):
        assert scorer.score([]).values.shape == (0, 1)
    for folder in (policy, plain):
        assert np.isfinite(load_scorer(f"perplexity:{folder}").score([[turn("assistant", "yes")]]).values).all()


# Implicit rewards


def test_the_implicit_reward_is_that_of_a_loop(policy: Path, reference: Path) -> None:
    said = conversations()
    scores = load_scorer(f"implicit:{policy},{reference}").score(said)
    expected = [slow(policy, c)[0] - slow(reference, c)[0] for c in said]
    assert scores.values[:, 0].tolist() == pytest.approx(expected, abs=2e-3)
    assert np.std(expected) > 0.1


def test_a_policy_that_is_its_reference_rewards_nothing(policy: Path) -> None:
    assert load_scorer(f"implicit:{policy}, {policy}").score(conversations()).values.tolist() == [[0.0]] * 15


def test_policy_and_reference_exchanged_change_the_sign(policy: Path, reference: Path) -> None:
    there, back = (Implicit(f"implicit:{a},{b}").score(conversations()).values for a, b in ((policy, reference), (reference, policy)))
    assert there == pytest.approx(-back, abs=1e-4)


@pytest.mark.parametrize("names", ["", "a", "a,", ",b", "a,b,c"])
def test_a_spec_without_two_models(names: str) -> None:
    with pytest.raises(AssayError) as caught:
        load_scorer(f"implicit:{names}")
    assert str(caught.value) == f"implicit:{names}: expected implicit:POLICY,REFERENCE, two causal language models"


def test_the_precision_that_is_asked_for_is_used_and_said(policy: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "precision_of", precision_of)
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    items = [Item(str(i), "all", c[:-1], [c[-1:], [turn("assistant", "no")]], (1.0, 0.0), str(i)) for i, c in enumerate(conversations())]
    for spec in (f"perplexity:{policy}", f"implicit:{policy},{reference}"):
        exact, rounded = (load_scorer(spec, precision=precision) for precision in ("fp32", "bf16"))
        apart = np.abs(exact.score(conversations()).values - rounded.score(conversations()).values)
        assert 1e-5 < apart.max() < 5
        assert exact.fingerprint != rounded.fingerprint  # type: ignore[attr-defined]
        results = [evaluate(one, [Suite("s", "pairs", items)]) for one in (exact, rounded)]
        assert [one["precision"] for one in results] == ["fp32", "bf16"]
    assert evaluate(load_scorer(f"mean({spec},rule:length)", precision="bf16"), [Suite("s", "pairs", items)])["precision"] == "bf16"
    assert "precision" not in evaluate(load_scorer("mean(rule:length)"), [Suite("s", "pairs", items)])


def test_models_that_are_not_there(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(AssayError, match="nowhere: no such folder, and not a hub id or a shipped model"):
        load_scorer("perplexity:nowhere")
    with pytest.raises(AssayError, match="not a model folder"):
        load_scorer(f"implicit:{policy},{tmp_path}")


def test_an_encoder_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(AssayError, match="is an encoder"):
        load_scorer(f"perplexity:{tiny_encoder}")


# In an evaluation


def test_fingerprints_name_the_files(policy: Path, reference: Path, tmp_path: Path) -> None:
    one, same = Perplexity(f"perplexity:{policy}"), Perplexity(f"perplexity:{policy}")
    names = {s.fingerprint for s in [one, *kinds(policy, reference), Implicit(f"implicit:{reference},{policy}")]}
    assert one.fingerprint == same.fingerprint
    assert len(names) == 3
    assert None not in names
    copy = made(tmp_path / "model", 1)
    before = Perplexity(f"perplexity:{copy}").fingerprint
    made(copy, 3)
    assert Perplexity(f"perplexity:{copy}").fingerprint != before


def test_an_evaluation_tells_of_empty_and_cut_answers(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    texts = [("yes", "no"), ("", "no"), ("y" * 600, "no")]
    items = [Item(f"i{i}", "all", [turn("user", f"p{i}")], [[turn("assistant", a)] for a in pair], (1.0, 0.0), f"c{i}") for i, pair in enumerate(texts)]
    found = evaluate(Perplexity(f"perplexity:{policy}"), [Suite("s", "pairs", items)])["suites"]["s"]
    assert (found["without_score"], found["truncated"], found["truncated_items"]) == (1, 1, ["i2"])
    assert found["reasons"] == {"the answer is empty": 1}
    assert any("the answer is empty" in w for w in found["warnings"])
    again = evaluate(Perplexity(f"perplexity:{policy}"), [Suite("s", "pairs", items)])["suites"]["s"]
    assert again == found
    assert not math.isnan(found["overall"]["value"])
