"""What must not change the model: the layout, the token budget, recomputed activations, and being killed and resumed, for every kind of attention."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    modeling_utils,
)

import assay.train.trainer as trainer
import tiny
from assay.errors import AssayError
from assay.files import read_json, write_json
from assay.model.doctor import examine
from assay.pairs.schema import from_rows
from assay.train.config import TrainConfig
from assay.train.train import Progress, read_manifest, train
from conftest import pair

SHARP = {"initializer_range": 0.2}
"""So that attention is not near to a mean over all tokens, which would hide what a mask gets wrong."""
GEMMA = {**SHARP, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
DECODERS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, SHARP),
    "qwen2": (Qwen2Config, SHARP),
    "qwen3": (Qwen3Config, {**SHARP, "head_dim": 8}),
    "mistral": (MistralConfig, {**SHARP, "sliding_window": 7}),
    "gemma2": (Gemma2Config, {**GEMMA, "attn_logit_softcapping": 1.0}),
    "gemma3_text": (Gemma3TextConfig, GEMMA),
}
ALONE, USUAL, TOGETHER = 64, 512, 1_000_000
PARTS = {ALONE: [8, 8, 8, 8, 8, 8, 4, 8], TOGETHER: [1] * 8}
"""Into how many parts the steps fall with a token budget so small that each pair goes alone, and so large that all go together. The last step of the first epoch has four pairs."""


@dataclass(frozen=True)
class Run:
    """A training: the loss of every step, how many parts every step had, and what came out."""

    folder: Path
    losses: list[float]
    parts: list[int]

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "checkpoint" / "model.safetensors")


def uneven_pairs() -> pl.DataFrame:
    """52 pairs: prompts of one letter and of hundreds, some with up to five pairs that share answers."""
    rng = random.Random(5)

    def text(fewest: int, most: int) -> str:
        return " ".join(rng.choices(["red", "green", "blue", "old", "new", "fast", "slow"], k=rng.randint(fewest, most)))

    rows: list[dict[str, Any]] = []
    while len(rows) < 52:
        prompt, best = rng.choice(["?", f"{len(rows)}", text(1, 6), text(20, 50)]) + str(len(rows)), f"yes {text(3, 8)}"
        for _ in range(min(rng.choice([1, 1, 1, 2, 5]), 52 - len(rows))):
            rows.append(pair(prompt, best, f"no {text(2, rng.choice([4, 30]))}{len(rows)}", weight=rng.choice([0.5, 1.0, 1.0])))
    return from_rows(rows)


def settings(backbone: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": str(backbone), "max_length": 256, "max_steps": 8, "batch_size": 8, "tokens_per_batch": USUAL, "learning_rate": 1e-3, "precision": "fp32", "validation": 0, "save_every": 3, **changes})


def run(backbone: Path, folder: Path, progress: Progress | None = None, **changes: object) -> Run:
    """Train, and note the exact loss and the number of parts of every step."""
    losses: list[float] = []
    numbers: list[int] = []
    step, parts = trainer.RewardTrainer.training_step, trainer.parts

    def noting_step(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        found = step(self, *args, **kwargs)
        losses.append(float(found))
        return found

    def noting_parts(*args: Any) -> Any:
        found = parts(*args)
        numbers.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.RewardTrainer, "training_step", noting_step)
        patch.setattr(trainer, "parts", noting_parts)
        train(uneven_pairs(), settings(backbone, **changes), folder, progress=progress)
    return Run(folder, losses, numbers)


@pytest.fixture(scope="module")
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random backbone of the architecture that the test is parametrised with."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "bert":
        return tiny.encoder(folder)
    kind, more = DECODERS[request.param]
    return tiny.backbone(folder, kind, **more)


@pytest.fixture(scope="module")
def usual(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run with which the others are compared."""
    return run(backbone, tmp_path_factory.mktemp("usual"))


on_decoders = pytest.mark.parametrize("backbone", DECODERS, indirect=True)
on_the_encoder = pytest.mark.parametrize("backbone", ["bert"], indirect=True)
on_all = pytest.mark.parametrize("backbone", [*DECODERS, "bert"], indirect=True)


def assert_same(one: Run, other: Run) -> None:
    """Losses to 1e-5, as far as both runs have them, and weights to 1e-4.

    AdamW divides a gradient by its own size, so that one of 1e-8 moves a weight as far as one of 1, and rounding decides about it. Of the encoder
    that touches the head's bias, whose gradient is 0 but for rounding as it cancels in a difference of rewards (3e-4 after eight steps), and
    single elements elsewhere (1.04e-4); with Adam's epsilon at 1e-6 all are within 5e-6.
    """
    assert other.losses == pytest.approx(one.losses[-len(other.losses) :], abs=1e-5, rel=0)
    wanted, found = one.weights, other.weights
    assert found.keys() == wanted.keys()
    for name in found.keys() - {"classifier.bias"}:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=2e-4 if name.startswith("bert.") else 1e-4, msg=lambda text, name=name: f"{name}: {text}")


@on_all
def test_training_moves_the_weights_of_every_layer(backbone: Path, usual: Run) -> None:
    before, after = load_file(backbone / "model.safetensors"), usual.weights
    prefix = next(name.split(".")[0] for name in after if "layer" in name)
    for name, tensor in before.items():
        if "layer" in name and tensor.dim() == 2:
            assert (after[f"{prefix}.{name}"] - tensor).abs().max() > 1e-3, name
    assert len(usual.losses) == 8


@on_all
def test_plain_transformers_gives_the_rewards_of_every_architecture(backbone: Path, usual: Run) -> None:
    assert [f"{f.check}: {f.detail}" for f in examine(usual.folder / "checkpoint") if not f.ok] == []


@on_decoders
@pytest.mark.parametrize(("layout", "tokens"), [("shared", ALONE), ("shared", TOGETHER), ("packed", USUAL), ("packed", TOGETHER), ("padded", ALONE), ("padded", USUAL)])
def test_neither_the_layout_nor_the_token_budget_changes_the_model(backbone: Path, usual: Run, layout: str, tokens: int, tmp_path: Path) -> None:
    other = run(backbone, tmp_path, layout=layout, tokens_per_batch=tokens)
    assert_same(usual, other)
    assert read_manifest(usual.folder)["layout"] == "shared"
    assert read_manifest(tmp_path)["layout"] == layout
    assert other.parts == PARTS.get(tokens, other.parts)


@on_the_encoder
@pytest.mark.parametrize(("layout", "tokens"), [("packed", ALONE), ("packed", TOGETHER), ("padded", ALONE), ("padded", USUAL), ("padded", TOGETHER)])
def test_neither_does_change_an_encoder(backbone: Path, usual: Run, layout: str, tokens: int, tmp_path: Path) -> None:
    other = run(backbone, tmp_path, layout=layout, tokens_per_batch=tokens)
    assert_same(usual, other)
    assert read_manifest(usual.folder)["layout"] == "packed"
    assert read_manifest(tmp_path)["layout"] == layout
    assert other.parts == PARTS.get(tokens, other.parts)


@on_the_encoder
def test_an_encoder_is_refused_a_layout_in_which_answers_share_a_prompt(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"train\.layout is shared, but .* reads in both directions.*; use `padded`, or leave it out"):
        run(backbone, tmp_path, layout="shared")


@pytest.mark.parametrize("backbone", ["mistral", "gemma2", "gemma3_text"], indirect=True)
def test_the_sliding_window_matters_for_these_models(backbone: Path, usual: Run, tmp_path: Path) -> None:
    everything = tmp_path / "without"
    shutil.copytree(backbone, everything)
    write_json(everything / "config.json", {**read_json(backbone / "config.json"), "sliding_window": 500})
    other = run(everything, tmp_path, max_steps=1)
    assert abs(other.losses[0] - usual.losses[0]) > 1e-3


@on_all
def test_recomputed_activations_do_not_change_the_model(backbone: Path, usual: Run, tmp_path: Path) -> None:
    layers: list[object] = []
    checkpoint = modeling_utils.checkpoint

    def noting(*args: Any, **more: Any) -> Any:
        layers.append(args[0])
        return checkpoint(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_utils, "checkpoint", noting)
        assert_same(usual, run(backbone, tmp_path, gradient_checkpointing=True))
    assert len(layers) >= sum(usual.parts)  # an encoder's last layer, which reads one token only, is not among them


class Killed(Exception):
    """Stands for the end of a process."""


@on_all
@pytest.mark.parametrize("at", [4, 8])
def test_a_run_that_ends_after_a_save_resumes_to_the_same_model(backbone: Path, usual: Run, at: int, tmp_path: Path) -> None:
    def kill(step: int, steps: int, latest: dict[str, float]) -> None:
        if step == at:
            raise Killed

    with pytest.raises(Killed):
        run(backbone, tmp_path, kill)
    resumed = run(backbone, tmp_path)
    assert_same(usual, resumed)
    assert len(resumed.losses) == 8 - (at - 1) // 3 * 3
    assert [m["step"] for m in read_manifest(tmp_path)["metrics"]] == [*range(1, 9)]
