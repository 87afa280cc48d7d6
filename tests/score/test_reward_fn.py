"""Reward functions for policy trainers: TRL's and verl's shapes, texts and messages, and answers without a score."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from assay.errors import AssayError
from assay.score import reward_fn as module
from assay.score.reward_fn import reward_fn
from assay.score.scorer import Scores, load_scorer
from served import checkpoints, said


class Seen:
    """Keeps what it is asked; scores by the number of turns, NaN where an answer is `none`."""

    spec, attributes = "seen", ("reward", "a", "b")

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []

    def score(self, conversations: Sequence[Sequence[Any]]) -> Scores:
        self.asked += [[dict(m) for m in c] for c in conversations]
        values = [[math.nan if c[-1]["content"] == "none" else len(c), 8, 9] for c in conversations]
        return Scores(np.array(values, dtype=np.float32).reshape(-1, 3), np.zeros(len(values), dtype=bool))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    one = Seen()
    monkeypatch.setattr(module, "load_scorer", lambda spec, **_: one)
    return one


def test_trl_with_texts(seen: Seen) -> None:
    function = reward_fn("x")
    found = function(prompts=["q1", "q2"], completions=["a", "none"], completion_ids=[[1], [2]], trainer_state=None, answer=["x", "y"])
    assert found == [2.0, None]
    assert all(reward is None or type(reward) is float for reward in found)
    assert seen.asked == [said("q1", "a"), said("q2", "none")]
    assert function.__name__ == "assay_reward"


def test_trl_with_messages(seen: Seen) -> None:
    prompts = [said("q", "a", "more?", system="be kind"), [{"role": "user", "content": "q", "name": "Ada"}]]
    completions = [[{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "none", "tool_calls": None}]]
    assert reward_fn("x", "trl")(prompts, completions) == [5.0, None]
    assert seen.asked == [[*prompts[0], *completions[0]], said("q", "none")]


def test_trl_with_texts_and_messages_mixed(seen: Seen) -> None:
    assert reward_fn("x")(prompts=["q"], completions=[[{"role": "assistant", "content": "a"}]]) == [2.0]
    assert seen.asked == [said("q", "a")]


def test_trl_with_nothing_or_too_few(seen: Seen) -> None:
    assert reward_fn("x")(prompts=[], completions=[]) == []
    with pytest.raises(ValueError, match="zip"):
        reward_fn("x")(prompts=["a", "b"], completions=["c"])


@pytest.mark.parametrize(
    ("extra", "turns"),
    [
        ({"prompt": "q"}, said("q")),
        ({"question": "q"}, said("q")),
        ({"prompt": None, "question": "q", "index": 3}, said("q")),
        ({"prompt": "q", "question": "other"}, said("q")),
        ({"prompt": said("q", "a", "more?", system="s")}, said("q", "a", "more?", system="s")),
        ({"prompt": np.array(said("q", "a", "more?"), dtype=object)}, said("q", "a", "more?")),
    ],
)
def test_verl(seen: Seen, extra: dict[str, Any], turns: list[dict[str, str]]) -> None:
    found = reward_fn("x", "verl")(data_source="d", solution_str="yes", ground_truth=None, extra_info=extra, reward_router_address=None)
    assert found == {"score": float(len(turns) + 1)}
    assert type(found["score"]) is float
    assert seen.asked == [[*turns, {"role": "assistant", "content": "yes"}]]


def test_verl_without_a_score_raises_with_the_reason(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    function = reward_fn("x", "verl")
    with pytest.raises(AssayError, match="seen: no reward .it is not a number"):
        function("d", "none", None, {"prompt": "q"})
    monkeypatch.setattr(seen, "score", lambda _: Scores(np.full((1, 1), np.nan, dtype=np.float32), np.zeros(1, dtype=bool), {0: "status 503: asleep"}))
    with pytest.raises(AssayError, match="seen: no reward .status 503: asleep"):
        function("d", "yes", None, {"prompt": "q"})


@pytest.mark.parametrize("extra", [None, {}, {"index": 1}, {"prompt": None}])
def test_verl_needs_the_prompt(seen: Seen, extra: dict[str, Any] | None) -> None:
    with pytest.raises(ValueError, match="neither `prompt` nor `question`"):
        reward_fn("x", "verl")("d", "yes", None, extra)


def test_unknown_shapes_and_scorers() -> None:
    with pytest.raises(ValueError, match="shape is 'openrlhf', expected 'trl' or 'verl'"):
        reward_fn("rule:length", "openrlhf")
    with pytest.raises(AssayError, match="nowhere: no such folder"):
        reward_fn("nowhere")
    assert reward_fn("rule:length")(["q"], ["four"]) == [4.0]


def test_rewards_of_a_checkpoint_in_both_shapes() -> None:
    for folder in (checkpoints()["first"], checkpoints()["many"]):
        wanted = load_scorer(folder, precision="fp32").score([said("q", "one"), said("q", "two words")]).values[:, 0].tolist()
        assert reward_fn(folder, precision="fp32")(prompts=["q", "q"], completions=["one", "two words"]) == pytest.approx(wanted, abs=1e-5)
        verl = reward_fn(folder, "verl", precision="fp32")
        assert [verl("d", text, None, {"prompt": "q"})["score"] for text in ("one", "two words")] == pytest.approx(wanted, abs=1e-5)
        assert reward_fn(folder, precision="fp32")(prompts=[], completions=[]) == []
