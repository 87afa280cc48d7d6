"""Faults that training once had: each was found by a test that failed."""

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from test_more_training import (
    Example,
    Make,
    config,
    in_two_processes,
    pair,
    poisoned,
    rated_answers,
    rating,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel, TrainerCallback
from transformers import modeling_flash_attention_utils as flash

import assay.train.trainer as trainer
from assay.errors import AssayError
from assay.model.doctor import examine
from assay.model.network import use_attention
from assay.pairs.schema import from_rows
from assay.train import train as module
from assay.train.train import read_manifest, train


class Killed(Exception):
    pass


def killed_at(at: int) -> Any:
    def progress(step: int, steps: int, latest: dict[str, float]) -> None:
        if step == at:
            raise Killed

    return progress


def same(one: Path, other: Path) -> bool:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return all(torch.equal(a[n], b[n]) for n in a)


def test_1_lora_resumes(tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    settings = config(tiny_decoder, lora={}, max_steps=8, save_every=3, validation=0)
    whole = train(make_pairs(60), settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(make_pairs(60), settings, tmp_path / "killed", progress=killed_at(4))
    assert same(whole, train(make_pairs(60), settings, tmp_path / "killed"))


def test_1_lora_keeps_the_best(tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    train(make_pairs(60), config(tiny_decoder, lora={}, max_steps=8, evaluate_every=2, keep_best=True), tmp_path)


def prompts_of(number: list[int]) -> pl.DataFrame:
    return from_rows([pair(f"number {i + 10}?", "yes", f"no {j}") for i, n in enumerate(number) for j in range(n)])


def noted(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    step, steps = trainer.RewardTrainer.training_step, []

    def noting(self: Any, model: Any, inputs: list[Example], *args: Any) -> Any:
        steps.append(inputs)
        return step(self, model, inputs, *args)

    monkeypatch.setattr(trainer.RewardTrainer, "training_step", noting)
    return steps


def test_2_together_trains_one_epoch_where_one_is_asked_for(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = noted(monkeypatch)
    train(prompts_of([5] * 12), config(tiny_decoder, max_steps=None, epochs=1, together=True, validation=0), tmp_path)
    assert set(Counter(e.id for one in steps for e in one).values()) == {1}


UNEVEN = [1, 2, 3, 5, 7] * 4


def test_3_together_has_every_pair_once_in_every_epoch(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = noted(monkeypatch)
    for seed in range(8):
        steps.clear()
        train(prompts_of(UNEVEN), config(tiny_decoder, max_steps=40, together=True, validation=0, seed=seed), tmp_path / str(seed))
        assert len(steps) == 40
        seen = Counter(e.id for one in steps for e in one)
        assert max(seen.values()) - min(seen.values()) <= 1


def test_3_together_resumes_in_a_later_epoch(tiny_decoder: Path, tmp_path: Path) -> None:
    settings = config(tiny_decoder, max_steps=40, together=True, validation=0, save_every=13, learning_rate=1e-3)
    whole = train(prompts_of(UNEVEN), settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(prompts_of(UNEVEN), settings, tmp_path / "killed", progress=killed_at(26))
    assert same(whole, train(prompts_of(UNEVEN), settings, tmp_path / "killed"))


@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_4_rows_that_share_a_row_with_a_bad_one_are_not_named(layout: str, tiny_decoder: Path, tmp_path: Path) -> None:
    rows = [pair(f"{i + 10}?", "yes" if i else "yes " + "long " * 12, "~" if i in (4, 17, 33) else "no") for i in range(40)]
    table = from_rows(rows)
    with pytest.raises(AssayError) as error:
        train(table, config(poisoned(tiny_decoder, "~", tmp_path / "backbone"), layout=layout, tokens_per_batch=100_000, batch_size=40, validation=0), tmp_path / "run")
    assert "more" not in str(error.value).split("rows", 1)[1].split(".")[0]
    assert set(re.findall(r"[0-9a-f]{32}", str(error.value))) == {table["id"][i] for i in (4, 17, 33)}


def test_5_other_ratings_are_another_training(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = rated_answers(40)
    one = load_file(train(rows, rating(tiny_encoder, max_steps=2), tmp_path) / "model.safetensors")
    other = load_file(train(rows.with_columns(attr_helpful=4 - pl.col("attr_helpful")), rating(tiny_encoder, max_steps=2), tmp_path) / "model.safetensors")
    assert any(not torch.equal(one[n], other[n]) for n in one)


def test_5_other_margins_are_another_training(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    settings = config(tiny_encoder, loss="margin_bt", max_steps=2)
    one = load_file(train(make_pairs(40).with_columns(margin=pl.lit(1.0, dtype=pl.Float32)), settings, tmp_path) / "model.safetensors")
    other = load_file(train(make_pairs(40).with_columns(margin=pl.lit(3.0, dtype=pl.Float32)), settings, tmp_path) / "model.safetensors")
    assert any(not torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("loss", [{"sum_to_zero": 0.1}, {"length_head": 1.0}])
def test_6_a_step_of_one_pair_in_two_processes_with_a_term_of_the_step(loss: dict[str, float], tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    assert in_two_processes(make_pairs(49), config(tiny_decoder, loss=loss, max_steps=8, validation=0), tmp_path) == 0


def test_7_fsdp_with_a_term_of_the_step_and_other_numbers_of_parts(tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    assert in_two_processes(make_pairs(52), config(tiny_decoder, fsdp=True, loss={"sum_to_zero": 0.1}, batch_size=7, tokens_per_batch=64, max_steps=8, validation=0), tmp_path) == 0


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("where", ["RewardTrainer", "_measured"])
def test_8_memory_that_runs_out_before_and_after_the_steps_is_told(where: str, tiny_decoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, where, out_of_memory)
    with pytest.raises(AssayError, match=r"^out of memory\. The result stays the same if you halve train\.tokens_per_batch .*; or set train\.gradient_checkpointing to true\. LoRA .* gives another model"):
        train(make_pairs(20), config(tiny_decoder, max_steps=1, validation=0), tmp_path)


@pytest.mark.parametrize("attributes", [[], ["helpful"]])
def test_9_a_last_step_that_spoils_the_weights_leaves_no_checkpoint(attributes: list[str], tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    rows = rated_answers(20) if attributes else make_pairs(20)
    with pytest.raises(AssayError, match=r"after the last step the rewards are no numbers any more\. Lower train\.learning_rate"):
        train(rows, config(tiny_encoder, attributes=attributes, learning_rate=1e30, warmup=0, max_steps=1, validation=0), tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("wish", [{"keep_best": True}, {"patience": 2}])
def test_10_the_best_measurement_is_not_asked_for_where_nothing_is_measured_on(wish: dict[str, Any], tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="need a held-out part to measure on, but validation is 0"):
        config(tiny_decoder, evaluate_every=2, validation=0, **wish)
    with pytest.raises(AssayError, match=r"of 20 rows train\.validation = 1e-06 holds out none; raise it"):
        train(make_pairs(20), config(tiny_decoder, evaluate_every=2, validation=1e-6, **wish), tmp_path)


class Tracking(TrainerCallback):
    """Writes where transformers lets TensorBoard write: a folder for each start."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.file = Path(args.output_dir) / "runs" / f"from {state.global_step}" / "events"
        self.file.parent.mkdir(parents=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.file.write_text(f"to {state.global_step}")


def test_11_what_the_steps_wrote_down_outlives_the_work(tiny_decoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trainer.INTEGRATION_TO_CALLBACK, "tensorboard", Tracking)
    settings = config(tiny_decoder, max_steps=6, save_every=2, validation=0, report_to=["tensorboard"])
    with pytest.raises(Killed):
        train(make_pairs(40), settings, tmp_path, progress=killed_at(3))
    train(make_pairs(40), settings, tmp_path)
    assert not (tmp_path / "work").exists()
    assert [line["step"] for line in trainer.read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["from 0", "from 2"]
    assert (tmp_path / "runs" / "from 2" / "events").read_text() == "to 6"


def missing() -> None:
    raise RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`.")


@pytest.mark.parametrize(("name", "says"), [("wandb", r"the tracker `wandb` cannot be used \(.*pip install wandb"), ("wandbb", "there is no tracker `wandbb`. Did you mean `wandb`")])
def test_11_a_tracker_that_is_not_there_is_named(name: str, says: str, tiny_decoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trainer.INTEGRATION_TO_CALLBACK, "wandb", missing)
    with pytest.raises(AssayError, match=says):
        train(make_pairs(20), config(tiny_decoder, max_steps=1, validation=0, report_to=[name]), tmp_path)


@pytest.mark.parametrize("at", [11, 12])
def test_12_patience_that_ran_out_has_run_out_when_resumed(at: int, tiny_encoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best is measured at step 6; killed between the two measurements after it, and when it had stopped at the second."""
    made_up = dict(zip([3, 6, 9, 12, 15, 18], [0.5, 0.9, 0.7, 0.8, 0.6, 0.95], strict=True))
    measured: list[int] = []

    def evaluate(self: Any, *_: Any, **__: Any) -> dict[str, float]:
        measured.append(self.state.global_step)
        metrics = {"eval_accuracy": made_up[self.state.global_step]}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(trainer.RewardTrainer, "evaluate", evaluate)
    settings = config(tiny_encoder, max_steps=18, evaluate_every=3, patience=2)
    whole = train(make_pairs(60), settings, tmp_path / "whole")
    assert measured == [3, 6, 9, 12]
    with monkeypatch.context() as once:
        once.setattr(module, "_finish", killed)
        with pytest.raises(Killed):
            train(make_pairs(60), settings, tmp_path / "killed", progress=killed_at(at) if at < 12 else None)
    measured.clear()
    assert same(whole, train(make_pairs(60), settings, tmp_path / "killed"))
    assert measured == [12]
    assert read_manifest(tmp_path / "killed")["steps"] == 12
    lines, resumed = (trainer.read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    assert [line["step"] for line in resumed] == [line["step"] for line in lines]


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def by_sequence(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
    """What FlashAttention's variable-length kernel computes: [tokens, heads, size], each sequence by itself."""
    assert causal
    found = [scaled_dot_product_attention(*(t[at:end].transpose(0, 1) for t in (q, k, v)), is_causal=True, scale=softmax_scale, enable_gqa=True) for at, end in itertools.pairwise(cu_seqlens_q.tolist())]
    return torch.cat(found, dim=1).transpose(0, 1)


def test_13_flash_attention_trains_the_same_model_and_is_left_before_it_is_measured(tiny_decoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is replaced, and so are the checks that it is there; what transformers does before and after it is not."""
    functions = (None, by_sequence, None, None, None), (flash._lazy_define_process_function(by_sequence), dict)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: functions)
    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", lambda _, wish, **__: wish or "sdpa")
    settings, networked, used = config(tiny_decoder, layout="packed", max_steps=6, evaluate_every=3), module.networked, []

    def flashing(reward_model: Any, given: Any) -> Any:
        made = networked(reward_model, given)
        use_attention(reward_model.model, "flash_attention_2")
        used.append(reward_model)
        return made

    plain = train(make_pairs(40), settings, tmp_path / "plain")
    monkeypatch.setattr(module, "networked", flashing)
    other = train(make_pairs(40), settings, tmp_path / "flash")
    one, two = (load_file(folder / "model.safetensors") for folder in (plain, other))
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-4) for name in one)
    assert used[0].model.config._attn_implementation == "assay"
    assert [finding.detail for finding in examine(other) if not finding.ok] == []


@pytest.mark.parametrize(("more", "says"), [({"layout": "shared"}, "needs layout: packed"), ({"layout": "packed", "precision": "fp32"}, "computes in bf16 alone, but precision is fp32")])
def test_what_flash_attention_cannot_do_is_refused(more: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config("any", attention="flash_attention_2", **more)
