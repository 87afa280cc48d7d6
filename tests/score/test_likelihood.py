"""Likelihood of answers under a tiny causal model: the same as a plain loop over single sequences, whatever the batches."""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from assay.errors import AssayError
from assay.pairs.schema import from_rows
from assay.score import likelihood
from assay.score.likelihood import SIDES, CausalModel, measurer
from conftest import pair, turn


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "precision_of", lambda wish, device: "fp32")


def causal(folder: Path, template: str | None, *, uniform: bool = False) -> Path:
    """The tiny decoder with a head: random, or all zeros, so that every token is as likely."""
    tiny.decoder(folder, template)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        if uniform:
            model.lm_head.weight.zero_()
        else:
            model.lm_head.weight.normal_(0, 0.3)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal(tmp_path_factory.mktemp("lm"), tiny.CHATML)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a chat template."""
    return causal(tmp_path_factory.mktemp("plain"), None)


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal(tmp_path_factory.mktemp("uniform"), tiny.CHATML, uniform=True)


def pairs() -> pl.DataFrame:
    """Short and long, several turns, other scripts."""
    rows = [pair(f"question {i} " + "why " * (i % 5), "yes " * (1 + i * i % 17), "no, " * (1 + i % 3)) for i in range(9)]
    rows.append({"prompt": [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Bye")], "chosen": [turn("assistant", "Tschüß 你好")], "rejected": [turn("assistant", "x")]})
    return from_rows(rows)


@lru_cache
def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def by_loop(folder: Path, prompt: str | None, answer: str, most: int) -> float:
    """Mean loss of the answer's tokens, one sequence by itself, token after token."""
    tokenizer, net = loaded(folder)
    said = tokenizer(answer, add_special_tokens=False)["input_ids"][: most - 1]
    before = [tokenizer.bos_token_id] if prompt is None else tokenizer(prompt, add_special_tokens=False)["input_ids"][-(most - len(said)) :]
    ids = torch.tensor([before + said])
    with torch.no_grad():
        logarithms = net(input_ids=ids).logits[0].log_softmax(-1)
    losses = [-float(logarithms[len(before) + i - 1, token]) for i, token in enumerate(said)]
    return sum(losses) / len(losses)


def prompt_of(row: dict[str, Any], template: bool) -> str:
    if template:
        return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["prompt"])
    return "\n\n".join(m["content"] for m in row["prompt"]) + "\n\n"


@pytest.mark.parametrize("most", [1024, 40])
@pytest.mark.parametrize("template", [True, False])
def test_losses_are_those_of_a_plain_loop(template: bool, most: int, model: Path, plain: Path, tmp_path: Path) -> None:
    folder, table = (model if template else plain), pairs()
    found = measurer()(str(folder), table, most, tmp_path)
    assert found.columns == list(SIDES)
    for row, said in zip(table.iter_rows(named=True), found.iter_rows(named=True), strict=True):
        for side in ("chosen", "rejected"):
            answer = row[side][0]["content"]
            assert said[side] == pytest.approx(by_loop(folder, prompt_of(row, template), answer, most), abs=1e-4)
            assert said[f"{side}_alone"] == pytest.approx(by_loop(folder, None, answer, most), abs=1e-4)
    assert (found["chosen"] - found["chosen_alone"]).abs().max() > 1e-3


def test_every_token_of_a_uniform_model_costs_the_vocabulary(uniform: Path, tmp_path: Path) -> None:
    found = measurer()(str(uniform), pairs(), 1024, tmp_path)
    size = len(AutoTokenizer.from_pretrained(uniform))
    for side in SIDES:
        assert found[side].exp().to_list() == pytest.approx([size] * found.height, rel=1e-5)


def test_the_prompt_is_read_but_not_counted(model: Path, tmp_path: Path) -> None:
    """The mean is over the answer's tokens: a prompt a hundred times as long does not water it down, and changes what is expected of the answer."""
    table = from_rows([pair("q", "yes", "no"), pair("q" * 300, "yes", "no")])
    short, long = measurer()(str(model), table, 1024, tmp_path).iter_rows(named=True)
    assert short["chosen"] != long["chosen"]
    assert short["chosen_alone"] == pytest.approx(long["chosen_alone"], abs=1e-5)
    assert long["chosen"] == pytest.approx(by_loop(model, prompt_of({"prompt": [turn("user", "q" * 300)]}, True), "yes", 1024), abs=1e-4)


@pytest.mark.parametrize(("tokens", "chunk"), [(1, 256), (200, 4), (100_000, 256), (2_048, 3)])
def test_batches_and_padding_change_nothing(tokens: int, chunk: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = measurer()(str(model), pairs(), 64, tmp_path / "usual")
    monkeypatch.setattr(likelihood, "TOKENS", tokens)
    monkeypatch.setattr(likelihood, "CHUNK", chunk)
    other = measurer()(str(model), pairs(), 64, tmp_path / "other")
    for side in SIDES:
        assert other[side].to_list() == pytest.approx(usual[side].to_list(), abs=1e-5)


def test_a_long_answer_keeps_its_beginning_and_a_long_prompt_its_end(model: Path, tmp_path: Path) -> None:
    start, end = "abcdefghij", "the end of it"
    table = from_rows([pair("x" * 50, start + "Z" * 50, "n"), pair("x" * 50, start + "QW" * 30, "n"), pair("A" * 90 + end, "yes", "n"), pair("B" * 200 + end, "yes", "n")])
    found = measurer()(str(model), table, 11, tmp_path)
    assert found["chosen_alone"][0] == pytest.approx(found["chosen_alone"][1], abs=1e-5)
    assert found["chosen_alone"][0] == pytest.approx(by_loop(model, None, start, 1024), abs=1e-4)
    assert found["chosen"][2] == pytest.approx(found["chosen"][3], abs=1e-5)


def test_an_answer_without_a_word_has_no_likelihood(model: Path, tmp_path: Path) -> None:
    table = from_rows([pair("q", "", "no"), pair("q", "yes", "no")])
    found = measurer()(str(model), table, 64, tmp_path)
    assert math.isnan(found["chosen"][0])
    assert math.isnan(found["chosen_alone"][0])
    assert found.select(pl.all().slice(1).is_finite().all()).row(0) == (True,) * 4


def test_no_pairs_at_all(model: Path, tmp_path: Path) -> None:
    assert measurer()(str(model), pairs().head(0), 64, tmp_path).schema == dict.fromkeys(SIDES, pl.Float64)


def test_an_encoder_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"tiny-encoder.*: (is an encoder; `perplexity` needs a causal language model|cannot be loaded as a causal language model)"):
        measurer()(str(tiny_encoder), pairs(), 64, tmp_path)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="nothing-here"):
        measurer()(str(tmp_path / "nothing-here"), pairs(), 64, tmp_path)


Losses = Callable[..., pl.DataFrame]


def test_what_an_earlier_run_measured_is_not_measured_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 3)
    measured: list[int] = []
    really: Losses = CausalModel.losses

    def losses(self: CausalModel, part: pl.DataFrame, max_tokens: int) -> pl.DataFrame:
        if len(measured) == 2 and "killed" not in seen:
            seen.append("killed")
            raise KeyboardInterrupt
        measured.append(part.height)
        return really(self, part, max_tokens)

    seen: list[str] = []
    monkeypatch.setattr(CausalModel, "losses", losses)
    with pytest.raises(KeyboardInterrupt):
        measurer()(str(model), pairs(), 64, tmp_path)
    again = measurer()(str(model), pairs(), 64, tmp_path)
    assert measured == [3, 3, 3, 1]
    monkeypatch.setattr(likelihood, "CausalModel", None)  # not even loaded
    assert measurer()(str(model), pairs(), 64, tmp_path).equals(again)
