"""The doctor against another side that should give the same scores: the right one passes, every known mistake is named with its fix."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from assay.cli import run_app
from assay.model import checkpoint as checkpoints_of
from assay.model import contract as contracts
from assay.model.doctor import Finding, examine
from assay.model.reward_model import RewardModel
from assay.score import http
from assay.score.checkpoint import score_with
from served import Conversation, checkpoints, make_checkpoint, shared

Against = Callable[[list[Conversation]], list[float]]
PASSES = ("first", "second", "many")


def theirs(folder: Path, precision: str = "fp32", change: Callable[[RewardModel], RewardModel] = lambda model: model) -> Against:
    """Another side: the checkpoint, with a mistake."""
    model, _ = checkpoints_of.load(folder)
    model = change(model)
    return lambda conversations: [float(x) for x in score_with(model, conversations, precision, 4_096).values[:, 0]]


def golden(folder: Path) -> list[float]:
    return [canary.score for canary in contracts.read(folder).canaries]


def finding(folder: Path, against: Against) -> Finding:
    """What is said of the other side; everything else must be fine."""
    found = examine(folder, against)
    assert [f.check for f in found if not f.ok and f.check != "the other side"] == []
    (one,) = [f for f in found if f.check == "the other side"]
    return one


def made_of(scores: list[float], change: Callable[[float], float]) -> Against:
    return lambda conversations: [change(score) for score in scores]


@pytest.mark.parametrize("name", PASSES)
def test_the_same_checkpoint_passes(name: str) -> None:
    one = finding(checkpoints()[name], theirs(checkpoints()[name]))
    assert one.ok
    assert one.detail.startswith("agrees to")
    assert one.fix == ""


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    ("change", "says", "fix"),
    [
        (lambda x: 1 / (1 + math.exp(-x)), "a sigmoid is applied", "use_activation: false"),
        (lambda x: 1.0, "a softmax is applied", "raw value"),
        (lambda x: -x, "the sign is turned", "take the reward as it is"),
    ],
)
def test_what_is_done_to_the_score_is_named(name: str, change: Callable[[float], float], says: str, fix: str) -> None:
    one = finding(checkpoints()[name], made_of(golden(checkpoints()[name]), change))
    assert not one.ok
    assert says in one.detail
    assert fix in one.fix


def test_missing_special_tokens_are_named_as_missing() -> None:
    folder = checkpoints()["second"]  # an encoder whose tokenizer adds [CLS] and [SEP]
    assert contracts.read(folder).add_special_tokens
    one = finding(folder, theirs(folder, change=lambda m: replace(m, add_special_tokens=False)))
    assert not one.ok
    assert "special tokens are missing" in one.detail
    assert "true there" in one.fix


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose template writes its BOS, and whose tokenizer would add another."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bos")
    backbone = tiny.decoder(folder / "backbone", "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 0)])
    tokenizer.save_pretrained(backbone)
    return make_checkpoint(backbone, folder / "checkpoint", 300)


def test_a_double_bos_is_named(with_bos: Path) -> None:
    assert not contracts.read(with_bos).add_special_tokens
    assert finding(with_bos, theirs(with_bos)).ok
    one = finding(with_bos, theirs(with_bos, change=lambda m: replace(m, add_special_tokens=True)))
    assert not one.ok
    assert "added twice (double BOS)" in one.detail
    assert "false there" in one.fix


@pytest.mark.parametrize(("name", "length"), [("first", 128), ("first", 256), ("second", 128)])
def test_a_shorter_truncation_is_named(name: str, length: int) -> None:
    folder = checkpoints()[name]
    full = contracts.read(folder).max_length
    one = finding(folder, theirs(folder, change=lambda m: replace(m, max_length=length)))
    assert not one.ok
    assert f"truncated at {length} tokens instead of {full}" in one.detail
    assert f"{full} tokens" in one.fix


@pytest.mark.parametrize("name", PASSES)
def test_bf16_is_named(name: str) -> None:
    one = finding(checkpoints()[name], theirs(checkpoints()[name], "bf16"))
    assert not one.ok
    assert "about what bf16 rounds" in one.detail
    assert "fp32" in one.fix


@pytest.mark.parametrize("by", [2e-4, 5e-4, 9e-4, 5e-3])
@pytest.mark.parametrize("name", PASSES)
def test_small_drift_is_not_blamed_on_tokens(name: str, by: float) -> None:
    scores = golden(checkpoints()[name])
    one = finding(checkpoints()[name], lambda _: [s + by * (-1) ** i for i, s in enumerate(scores)])
    assert not one.ok
    assert "bf16" in one.detail
    assert "special tokens" not in one.detail


def test_other_weights_are_none_of_the_known_mistakes(tmp_path: Path) -> None:
    backbone = tiny.decoder(tmp_path / "backbone")
    other = make_checkpoint(backbone, tmp_path / "other", 300, seed=9)
    one = finding(checkpoints()["first"], theirs(other))
    assert not one.ok
    assert "by none of the known mistakes" in one.detail
    assert "weights" in one.fix


@pytest.mark.parametrize("at", [[0], [7], [3], list(range(8))])
def test_answers_without_a_score_do_not_pass(at: list[int]) -> None:
    scores = golden(checkpoints()["first"])
    one = finding(checkpoints()["first"], lambda _: [math.nan if i in at else s for i, s in enumerate(scores)])
    assert not one.ok, "a canary that got no score counts as agreement"
    assert "bf16" not in one.detail
    assert "nan" not in one.detail


@pytest.mark.parametrize("score", [-1_000.0, 1_000.0])
def test_large_rewards_do_not_break_the_doctor(score: float, tmp_path: Path) -> None:
    folder = make_checkpoint(tiny.decoder(tmp_path / "backbone"), tmp_path / "large", 64, scale=score * 50)
    found = examine(folder, lambda conversations: [0.5] * len(conversations))
    assert [f.ok for f in found if f.check == "the other side"] == [False]


def doctor(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = run_app(["doctor", *arguments, "--json"])
    out = capsys.readouterr().out
    return code, {f["check"]: f for f in json.loads(out)} if out else {}


def test_the_command_against_a_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = str(checkpoints()["first"])
    code, found = doctor(first, "--against", str(shutil.copytree(first, tmp_path / "copy")), capsys=capsys)
    assert (code, found["the other side"]["ok"]) == (0, True)
    code, found = doctor(first, "--against", str(checkpoints()["many"]), capsys=capsys)
    assert (code, found["the other side"]["ok"]) == (1, False)
    assert run_app(["doctor", first, "--against", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["assay", "vllm", "openrlhf"])
def test_the_command_against_the_real_server(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, url = str(checkpoints()["first"]), shared().url
    code, found = doctor(first, "--against", f"{kind}:{url}#{first if kind == 'openrlhf' else 'first'}", capsys=capsys)
    assert (code, found["the other side"]["ok"]) == (0, True)
    if kind != "openrlhf":
        code, found = doctor(first, "--against", f"{kind}:{url}#second", capsys=capsys)
        assert (code, found["the other side"]["ok"]) == (1, False)


def test_the_command_against_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.01)
    assert run_app(["doctor", str(checkpoints()["first"]), "--against", "vllm:http://127.0.0.1:9"]) in (1, 2)
    said = capsys.readouterr()
    assert "bug in Assay" not in said.err
    assert "127.0.0.1:9" in said.out + said.err, "nobody learns that the server does not answer"
