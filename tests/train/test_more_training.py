"""What else a training can be asked for: LoRA, ratings, a length head, other losses, the best measurement, all pairs of a prompt together, several processes."""

import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, DebertaV2Config, ModernBertConfig

import assay.train.trainer as trainer
from assay.errors import AssayError
from assay.files import write_parquet
from assay.model import contract as contracts
from assay.model.checkpoint import load
from assay.model.doctor import examine
from assay.model.network import head_name
from assay.model.reward_model import from_backbone
from assay.pairs.schema import MESSAGES, from_rows, pair_id, prompt_id
from assay.score.scorer import load_scorer
from assay.train.batches import Example, parts
from assay.train.config import LossConfig, TrainConfig
from assay.train.losses import pair_losses, step_terms
from assay.train.measure import r2_intervals, score_sides
from assay.train.sharded import load_weights
from assay.train.train import read_manifest, train
from conftest import pair, turn

Make = Callable[..., pl.DataFrame]
WORDS = ["red", "green", "blue", "old", "new", "fast", "slow", "warm", "cold", "round"]
on_both = pytest.mark.parametrize("kind", ["tiny_encoder", "tiny_decoder"])
def config(backbone: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": str(backbone), "max_length": 96, "max_steps": 30, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0.2, **changes})


def ailing(checkpoint: Path) -> list[str]:
    """What the doctor finds wrong."""
    return [f"{f.check}: {f.detail}" for f in examine(checkpoint) if not f.ok]


def some(rng: random.Random, fewest: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(fewest, most)))


# LoRA


@on_both
def test_lora_trains_low_rank_additions_and_the_head_and_nothing_else(kind: str, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path) -> None:
    backbone: Path = request.getfixturevalue(kind)
    checkpoint = train(make_pairs(160), config(backbone, lora={"rank": 3}, learning_rate=1e-2), tmp_path)
    start = from_backbone(str(backbone), 96, 0).model
    before, after = start.state_dict(), load_file(checkpoint / "model.safetensors")
    head = head_name(start)
    assert (after[f"{head}.weight"] - before[f"{head}.weight"]).abs().max() > 1e-3
    changed = {name: after[name] - before[name] for name in after if not name.startswith(head) and not torch.equal(after[name], before[name])}
    assert sum("layer" in name for name in changed) == len([name for name in after if "layer" in name and after[name].dim() == 2])
    for name, difference in changed.items():
        assert "embed" not in name
        assert difference.dim() == 2, name
        assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 3, name


@on_both
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_lora_checkpoint_scores_as_peft_does_with_the_adapter_on_the_backbone(kind: str, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path) -> None:
    from peft import PeftModel

    backbone: Path = request.getfixturevalue(kind)
    checkpoint = train(make_pairs(160), config(backbone, lora={}, learning_rate=3e-3), tmp_path)
    assert read_manifest(tmp_path)["accuracy"] > 0.9
    assert ailing(checkpoint) == []
    reward_model, _ = load(checkpoint)
    torch.manual_seed(1234)
    plain = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, checkpoint / "adapter").eval()
    ids, _ = reward_model.encode([p + c for p, c in make_pairs(20, seed=7).select("prompt", "chosen").iter_rows()])
    with torch.inference_mode():
        for one in ids:
            assert float(adapted(input_ids=torch.tensor([one])).logits[0, 0]) == pytest.approx(float(reward_model.rewards([one])[0]), abs=1e-5)


# Ratings


def rated_answers(n: int) -> pl.DataFrame:
    """Answers whose first word decides how helpful they are, and their length how wordy, which every other one is not rated for."""
    rng = random.Random(0)
    rows = []
    for i in range(n):
        prompt, first, words = [turn("user", f"number {i // 2}?")], rng.choice(["yes", "maybe", "no"]), rng.choices(WORDS, k=rng.randint(3, 8))
        response = [turn("assistant", " ".join([first, *words]))]
        helpful, wordy = {"yes": 4.0, "maybe": 2.0, "no": 0.0}[first], len(words) / 2
        rows.append({"id": pair_id(prompt, response, []), "prompt_id": prompt_id(prompt), "prompt": prompt, "response": response, "weight": None, "attr_helpful": helpful, "attr_wordy": None if i % 2 else wordy})
    return pl.DataFrame(rows, schema_overrides={"prompt": MESSAGES, "response": MESSAGES, "weight": pl.Float32})


def rating(backbone: Path, **changes: object) -> TrainConfig:
    return config(backbone, **{"attributes": ["helpful", "wordy"], "max_steps": 240, "batch_size": 16, "learning_rate": 5e-3, **changes})


def test_ratings_are_learned_where_half_of_them_are_missing(tiny_decoder: Path, tmp_path: Path) -> None:
    train(rated_answers(400), rating(tiny_decoder), tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["ratings"]["r2_helpful"] > 0.5
    assert manifest["ratings"]["r2_wordy"] > 0.5
    assert manifest["accuracy"] > 0.8


@pytest.mark.parametrize("merge", ["fit", {"wordy": -0.3, "helpful": 0.7}])
def test_a_reward_is_the_sum_of_its_attributes_by_the_weights_of_the_contract(merge: Any, tiny_decoder: Path, tmp_path: Path) -> None:
    checkpoint = train(rated_answers(120), rating(tiny_decoder, merge=merge, max_steps=80), tmp_path)
    contract = contracts.read(checkpoint)
    assert contract.attributes == ["helpful", "wordy"]
    if merge == "fit":
        assert sum(map(abs, contract.merge.values())) == pytest.approx(1)
        assert contract.merge["helpful"] > 0
    else:
        assert contract.merge == merge
    scorer = load_scorer(checkpoint, precision="fp32")
    assert scorer.attributes == ("reward", "helpful", "wordy")
    values = scorer.score([p + r for p, r in rated_answers(20).select("prompt", "response").iter_rows()]).values
    assert values.shape == (20, 3)
    np.testing.assert_allclose(values[:, 0], values[:, 1:] @ [contract.merge["helpful"], contract.merge["wordy"]], atol=1e-5)
    assert values[:, 1:].std(axis=0).min() > 1e-3
    assert ailing(checkpoint) == []


# Terms of a step


def longer_is_chosen(n: int, seed: int) -> pl.DataFrame:
    """Pairs in which the answer that says yes is chosen; nine times of ten it is also the longer one."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        long, short = some(rng, 5, 9), some(rng, 0, 3)
        good, bad = (long, short) if rng.random() < 0.9 else (short, long)
        rows.append(pair(f"number {seed} {i}?", f"yes {good}".strip(), f"no {bad}".strip()))
    return from_rows(rows)


def correlation_with_length(checkpoint: Path) -> float:
    """Of the rewards of answers that say yes or no and are of any length."""
    rng = random.Random(9)
    answers = [f"{['no', 'yes'][i % 2]} {some(rng, 0, 9)}".strip() for i in range(120)]
    values = load_scorer(checkpoint, precision="fp32").score([[turn("user", f"number {i}?"), turn("assistant", a)] for i, a in enumerate(answers)]).values
    return float(np.corrcoef(values[:, 0], [len(a) for a in answers])[0, 1])


def test_a_length_head_takes_length_out_of_the_reward(tiny_encoder: Path, tmp_path: Path) -> None:
    found: dict[float, list[float]] = {0.0: [], 1.0: []}
    for weight, correlations in found.items():
        for seed in range(3):
            checkpoint = train(longer_is_chosen(200, seed), config(tiny_encoder, loss={"length_head": weight}, seed=seed, max_steps=60, learning_rate=2e-3, validation=0), tmp_path / f"{weight} {seed}")
            correlations.append(correlation_with_length(checkpoint))
    assert np.mean(found[0.0]) > 0.3
    assert abs(np.mean(found[1.0])) < np.mean(found[0.0]) / 2


@on_both
def test_a_length_head_is_an_output_that_the_reward_leaves_out(kind: str, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path) -> None:
    checkpoint = train(make_pairs(80), config(request.getfixturevalue(kind), loss={"length_head": 1.0}), tmp_path)
    contract = contracts.read(checkpoint)
    assert contract.attributes == ["quality", "length"]
    assert contract.merge == {"quality": 1.0, "length": 0.0}
    scorer = load_scorer(checkpoint, precision="fp32")
    assert scorer.attributes == ("reward", "quality", "length")
    values = scorer.score([p + c for p, c in make_pairs(10).select("prompt", "chosen").iter_rows()]).values
    np.testing.assert_array_equal(values[:, 0], values[:, 1])
    assert np.abs(values[:, 1] - values[:, 2]).max() > 1e-3
    assert ailing(checkpoint) == []


@pytest.mark.parametrize("loss", [{"centre": 0.1}, {"sum_to_zero": 0.1}])
def test_rewards_are_brought_to_zero(loss: dict[str, float], tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    """From a reward model whose head adds 1 to every reward, which a loss of differences alone never sees."""
    start = shutil.copytree(tiny_encoder, tmp_path / "start")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    with torch.no_grad():
        model.classifier.bias.fill_(1.0)
    model.save_pretrained(start)
    means = []
    for name, terms in (("without", {}), ("with", loss)):
        checkpoint = train(make_pairs(120), config(start, loss=terms, max_steps=60), tmp_path / name)
        means.append(contracts.read(checkpoint).mean)
        assert read_manifest(tmp_path / name)["accuracy"] > 0.9
    assert means[0] > 0.5
    assert abs(means[1]) < means[0] / 3


@on_both
@pytest.mark.parametrize("loss", [{"sum_to_zero": 0.3}, {"length_head": 1.0}, {"sum_to_zero": 0.3, "length_head": 0.5, "centre": 0.1}])
@pytest.mark.parametrize("tokens", [64, 200])
def test_the_gradient_of_a_step_in_parts_is_that_of_its_whole_loss(kind: str, loss: dict[str, float], tokens: int, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = trainer.RewardTrainer.training_step
    steps = []

    def whole(self: Any, inputs: list[Example]) -> list[Tensor]:
        (part,) = parts(inputs, 1_000_000, self.network.layout)
        outputs = self.network(self.network.prepare(part.groups))[torch.tensor(part.places).flatten()]
        rewards = outputs.sum(dim=1)
        each = pair_losses(rewards[0::2], rewards[1::2], torch.zeros(len(inputs)), LossConfig(**loss))
        weights = torch.tensor([e.weight for e in part.examples])
        lengths = torch.tensor([float(length) for e in part.examples for length in e.lengths])
        total = (each * weights).sum() / len(inputs) + step_terms(outputs, lengths, LossConfig(**loss))
        return list(torch.autograd.grad(total, list(self.network.parameters()), allow_unused=True))

    def compared(self: Any, model: Any, inputs: list[Example], *args: Any) -> Tensor:
        wanted = whole(self, inputs)
        found = step(self, model, inputs, *args)
        # rounding of rewards that are nearly the same is large beside their spread, which a correlation divides by
        scale = max(float(one.abs().max()) for one in wanted if one is not None)
        for (name, parameter), one in zip(self.network.named_parameters(), wanted, strict=True):
            if one is not None:
                torch.testing.assert_close(parameter.grad, one, rtol=0, atol=3e-3 * scale, msg=lambda text, name=name: f"{name}: {text}")
        steps.append(len(inputs))
        return found

    monkeypatch.setattr(trainer.RewardTrainer, "training_step", compared)
    rows = make_pairs(27).with_columns(weight=pl.Series([0.5, 1.0, 2.0] * 9, dtype=pl.Float32))
    train(rows, config(request.getfixturevalue(kind), loss=loss, max_steps=4, tokens_per_batch=tokens, validation=0), tmp_path)
    assert sorted(steps) == [3, 8, 8, 8]


# Losses


def test_margins_move_rewards_apart_and_smoothing_holds_them_together(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    rows = make_pairs(160).with_columns(margin=pl.lit(3.0, dtype=pl.Float32))
    apart = {}
    for name, loss in {"smoothed": {"smoothing": 0.2}, "plain": {}, "margin": {"kind": "margin_bt"}, "scaled": {"kind": "scaled_bt"}}.items():
        checkpoint = train(rows, config(tiny_encoder, loss=loss, max_steps=80), tmp_path / name)
        manifest = read_manifest(tmp_path / name)
        assert manifest["accuracy"] > 0.9
        assert all(math.isfinite(m["loss"]) for m in manifest["metrics"] if "loss" in m)
        chosen, rejected = score_sides(load(checkpoint)[0], rows, "fp32", 10_000)
        apart[name] = float((chosen - rejected).mean())
    assert 0 < apart["smoothed"] < apart["plain"] < apart["margin"]
    assert apart["scaled"] > apart["smoothed"]


@pytest.mark.parametrize("kind", ["margin_bt", "scaled_bt"])
def test_a_loss_of_margins_is_refused_where_no_pair_has_one(kind: str, tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=rf"train\.loss is {kind}, which reads the column `margin`, but no pair has one"):
        train(make_pairs(20), config(tiny_encoder, loss=kind), tmp_path)


def poisoned(backbone: Path, character: str, folder: Path) -> Path:
    """A copy of ``backbone`` in which the vector of ``character`` is no number."""
    shutil.copytree(backbone, folder)
    (token,) = AutoTokenizer.from_pretrained(backbone)(character, add_special_tokens=False)["input_ids"]
    weights = load_file(folder / "model.safetensors")
    (embeddings,) = (name for name in weights if name.endswith(("embed_tokens.weight", "word_embeddings.weight")))
    weights[embeddings][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("kind", "layout", "tokens"), [("tiny_encoder", None, 64), ("tiny_encoder", None, 100_000), ("tiny_decoder", "padded", 100_000), ("tiny_decoder", "shared", 64)])
def test_a_loss_that_is_no_number_stops_and_names_the_rows_that_made_it(kind: str, layout: str | None, tokens: int, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path) -> None:
    rows = make_pairs(40).to_dicts()
    for i, side in ((4, "chosen"), (17, "rejected"), (33, "rejected")):
        rows[i][side] = [turn("assistant", rows[i][side][0]["content"] + " ~")]
    table = from_rows(rows)
    with pytest.raises(AssayError, match=r"step 1: the loss is no number any more, from the rows .*train\.learning_rate") as error:
        train(table, config(poisoned(request.getfixturevalue(kind), "~", tmp_path / "backbone"), layout=layout, tokens_per_batch=tokens, batch_size=40, validation=0), tmp_path / "run")
    assert set(re.findall(r"[0-9a-f]{32}", str(error.value))) == {table["id"][i] for i in (4, 17, 33)}
    assert not (tmp_path / "run" / "checkpoint").exists()


# What is kept, how pairs are dealt, what is measured


@pytest.mark.parametrize(("changes", "kept"), [({"keep_best": True}, 6), ({"patience": 2}, 6), ({}, 15)])
@pytest.mark.parametrize("attributes", [[], ["helpful"]])
def test_the_weights_of_the_best_measurement_are_kept_where_that_is_asked_for(attributes: list[str], changes: dict[str, Any], kept: int, tiny_encoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements are made up, and the weights at each noted; the best of pairs is the greatest accuracy, of ratings the least loss."""
    made_up = dict(zip([3, 6, 9, 12, 15], [0.5, 0.9, 0.7, 0.8, 0.6], strict=True))
    weights: dict[int, dict[str, Tensor]] = {}

    def measure(reward_model: Any, *_: Any) -> dict[str, float]:
        step = list(made_up)[len(weights)]
        weights[step] = {name: tensor.clone() for name, tensor in reward_model.model.state_dict().items()}
        return {"accuracy": made_up[step], "loss": 1 - made_up[step] if attributes else made_up[step]}

    monkeypatch.setattr(trainer, "measure", measure)
    rows = rated_answers(60) if attributes else make_pairs(60)
    checkpoint = train(rows, config(tiny_encoder, max_steps=15, evaluate_every=3, attributes=attributes, **changes), tmp_path)
    assert read_manifest(tmp_path)["steps"] == (12 if "patience" in changes else 15)
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        assert torch.equal(tensor, weights[kept][name]), name
    assert not torch.equal(weights[kept]["classifier.weight"], weights[3]["classifier.weight"])


def four_to_a_prompt(n: int) -> pl.DataFrame:
    """Pairs of which every four have one prompt and one chosen answer."""
    rng = random.Random(3)
    rows = []
    for i in range(n // 4):
        prompt, best = f"number {i}: {some(rng, 2, 12)}?", f"yes {some(rng, 1, 6)}"
        rows += [pair(prompt, best, f"no {some(rng, 1, 6)} {j}") for j in range(4)]
    return from_rows(rows)


def test_pairs_of_a_prompt_go_together_once_an_epoch_and_teach_as_much(tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = trainer.RewardTrainer.training_step
    steps: list[list[Example]] = []

    def noting(self: Any, model: Any, inputs: list[Example], *args: Any) -> Tensor:
        steps.append(inputs)
        return step(self, model, inputs, *args)

    monkeypatch.setattr(trainer.RewardTrainer, "training_step", noting)
    accuracies = []
    for together in (True, False):
        steps.clear()
        checkpoint = train(four_to_a_prompt(64), config(tiny_decoder, max_steps=None, epochs=6, together=together, validation=0), tmp_path / str(together))
        assert len(steps) == 48
        for epoch in range(6):
            seen = Counter(e.id for one in steps[8 * epoch : 8 * epoch + 8] for e in one)
            assert len(seen) == 64
            assert set(seen.values()) == {1}
        whole = [set(Counter(e.prompt for e in one).values()) == {4} for one in steps]
        assert all(whole) if together else not all(whole)
        assert all(math.isfinite(m["loss"]) for m in read_manifest(tmp_path / str(together))["metrics"] if "loss" in m)
        chosen, rejected = score_sides(load(checkpoint)[0], four_to_a_prompt(64), "fp32", 10_000)
        accuracies.append((chosen > rejected).mean())
    assert min(accuracies) > 0.9


def test_the_contract_has_a_temperature_for_the_differences_of_rewards(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    rows = make_pairs(400)
    flipped = pl.concat([rows[:320], rows[320:].with_columns(chosen="rejected", rejected="chosen")])  # so that not all held-out pairs are right
    contract = contracts.read(train(flipped, config(tiny_encoder), tmp_path, name="made"))
    assert contract.temperature is not None
    assert 0.01 < contract.temperature < 100
    assert contract.measured_on == "made"
    assert contract.std is not None
    assert contract.std > 0


# Several processes


SCRIPT = """
import os, sys
from pathlib import Path
from assay.files import read_parquet
from assay.train.config import TrainConfig
from assay.train.train import train

def progress(step, steps, latest):
    if step == int(sys.argv[4]):
        os._exit(1)

train(read_parquet(Path(sys.argv[1])), TrainConfig.model_validate_json(sys.argv[2]), Path(sys.argv[3]), progress=progress)
os._exit(0)  # PyTorch's own threads sometimes abort a process that exits after FSDP with gloo
"""


def in_two_processes(rows: pl.DataFrame, settings: TrainConfig, folder: Path, end_at: int = 0) -> int:
    """Train under torchrun and return its exit status; with ``end_at`` the first process ends at that step."""
    folder.mkdir(exist_ok=True)
    write_parquet(folder / "pairs.parquet", rows)
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(folder / "script.py"), str(folder / "pairs.parquet"), settings.model_dump_json(), str(folder), str(end_at)]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
        try:
            return process.wait(timeout=150)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def losses_of(folder: Path) -> list[float]:
    return [m["loss"] for m in read_manifest(folder)["metrics"] if "loss" in m]


def assert_same(one: Path, other: Path) -> None:
    """The losses to 1e-5 and the weights to 1e-4."""
    assert losses_of(other) == pytest.approx(losses_of(one), abs=1e-5, rel=0)
    wanted, found = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (one, other))
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pairs", "changes"),
    [(49, {}), (49, {"fsdp": True}), (49, {"lora": {}, "layout": "padded", "gradient_checkpointing": True}), (52, {"loss": {"sum_to_zero": 0.1}}), (49, {"validation": 0.2, "evaluate_every": 2, "keep_best": True})],
    ids=["ddp", "fsdp", "lora-recomputed", "sum_to_zero", "keep_best"],
)
def test_two_processes_train_the_same_model_as_one(pairs: int, changes: dict[str, Any], tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    """49 pairs in steps of 8: one step has a single pair, and the second process none."""
    settings = {"max_steps": 8, "tokens_per_batch": 128, "learning_rate": 1e-3, "validation": 0, **changes}
    train(make_pairs(pairs), config(tiny_decoder, **{**settings, "fsdp": False}), tmp_path / "one")
    assert in_two_processes(make_pairs(pairs), config(tiny_decoder, **settings), tmp_path / "two") == 0, (tmp_path / "two" / "output.txt").read_text()[-3000:]
    assert len(losses_of(tmp_path / "one")) == 8
    assert read_manifest(tmp_path / "two")["processes"] == 2
    assert_same(tmp_path / "one", tmp_path / "two")
    assert ailing(tmp_path / "two" / "checkpoint") == []


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_of_which_one_ended_resume_to_the_same_model(fsdp: bool, tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    settings = config(tiny_decoder, max_steps=8, tokens_per_batch=128, learning_rate=1e-3, save_every=3, validation=0, fsdp=fsdp)
    train(make_pairs(49), settings.model_copy(update={"fsdp": False}), tmp_path / "one")
    assert in_two_processes(make_pairs(49), settings, tmp_path / "two", end_at=5) != 0
    assert not (tmp_path / "two" / "checkpoint").exists()
    assert [p.name for p in (tmp_path / "two" / "work").glob("checkpoint-*")] == ["checkpoint-3"]
    assert in_two_processes(make_pairs(49), settings, tmp_path / "two") == 0, (tmp_path / "two" / "output.txt").read_text()[-3000:]
    assert_same(tmp_path / "one", tmp_path / "two")
    resumed = [m["step"] for m in read_manifest(tmp_path / "two")["metrics"] if "loss" in m]
    assert resumed == list(range(1, 9))


def test_parts_of_another_number_of_processes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part-1-of-2.safetensors").touch()
    with pytest.raises(AssayError, match=r"has part-1-of-2\.safetensors, but 4 processes resume; start as many as the run was begun with"):
        load_weights(None, tmp_path, 0, 4)


def test_intervals_of_what_is_explained_hold_the_truth() -> None:
    """Ratings whose variance is explained to 60%, in prompts of three answers with something in common; some are missing."""
    rng = np.random.default_rng(0)
    prompts = [f"p{i // 3}" for i in range(240)]
    held = 0
    for _ in range(200):
        signal = np.sqrt(0.6) * (np.repeat(rng.normal(size=80), 3) + rng.normal(size=240)) / np.sqrt(2)
        noise = np.sqrt(0.4) * (np.repeat(rng.normal(size=80), 3) + rng.normal(size=240)) / np.sqrt(2)
        rated = np.where(rng.random(240) < 0.1, np.nan, signal + noise)
        intervals = r2_intervals(signal[:, None], np.stack([rated, np.full(240, np.nan)], axis=1), ["one", "none"], prompts)
        assert list(intervals) == ["one"]
        held += intervals["one"][0] <= 0.6 <= intervals["one"][1]
    assert 0.90 <= held / 200 <= 0.99


def test_sharing_weights_out_is_refused_to_a_single_process(tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"train\.fsdp shares the weights out among processes, but there is one"):
        train(make_pairs(10), config(tiny_decoder, fsdp=True), tmp_path)


def test_a_training_from_a_checkpoint_that_was_made_anew_is_another_training(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    def both(rate: float, folder: Path) -> dict[str, Tensor]:
        start = train(make_pairs(40), config(tiny_encoder, max_steps=2, learning_rate=rate, validation=0), tmp_path / "start")
        return load_file(train(make_pairs(40, 1), config(start, max_steps=2, validation=0), folder) / "model.safetensors")

    first, again, anew = both(1e-3, tmp_path / "second"), both(1e-3, tmp_path / "second"), both(3e-2, tmp_path / "second")
    fresh = both(3e-2, tmp_path / "fresh")
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(torch.equal(anew[n], fresh[n]) for n in anew)
    assert any(not torch.equal(first[n], anew[n]) for n in first)


def test_the_length_head_is_told_the_lengths_of_answers(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def noting(outputs: Tensor, lengths: Tensor, config: LossConfig) -> Tensor:
        told.extend(lengths.tolist())
        return step_terms(outputs, lengths, config)

    monkeypatch.setattr(trainer, "step_terms", noting)
    rows = [pair("why? " * (1 + i), "yes it is", "no") for i in range(16)]
    train(from_rows(rows), config(tiny_encoder, loss={"length_head": 1.0}, max_steps=1, batch_size=16, validation=0), tmp_path)
    assert told == [9.0, 2.0] * 16


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", [DebertaV2Config, ModernBertConfig])
def test_what_a_backbone_lacks_is_saved_with_its_adapter(kind: Any, tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "pad_token_id": 0}
    AutoModel.from_config(kind(vocab_size=len(tokenizer), **settings, **({"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3} if kind is ModernBertConfig else {}))).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    checkpoint = train(make_pairs(40), config(tmp_path / "backbone", lora={}, learning_rate=1e-2, max_steps=3, validation=0), tmp_path / "run")
    torch.manual_seed(1)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "backbone", num_labels=1)
    adapted = PeftModel.from_pretrained(plain, checkpoint / "adapter").eval()
    reward_model, _ = load(checkpoint)
    ids, _ = reward_model.encode([row["prompt"] + row["chosen"] for row in make_pairs(4).iter_rows(named=True)])
    with torch.inference_mode():
        found = torch.cat([adapted(input_ids=torch.tensor([one])).logits[:, 0] for one in ids])
        torch.testing.assert_close(found, torch.cat([reward_model.rewards([one]) for one in ids]), rtol=0, atol=1e-5)
