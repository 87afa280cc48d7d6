"""Training: it learns, the token budget and the precision of nothing else change it, and a killed run ends with the same weights."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from assay.errors import AssayError
from assay.files import sha256_file, write_parquet
from assay.train import train as module
from assay.train.config import TrainConfig
from assay.train.examples import split
from assay.train.train import read_manifest, train

Make = Callable[..., pl.DataFrame]


def config(backbone: Path, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"model": str(backbone), "max_length": 96, "max_steps": 12, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0.2, **changes})


@pytest.mark.parametrize("kind", ["tiny_encoder", "tiny_decoder"])
def test_it_learns_a_rule(kind: str, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path) -> None:
    backbone: Path = request.getfixturevalue(kind)
    train(make_pairs(160), config(backbone, max_steps=60, evaluate_every=20), tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["accuracy"] > 0.9
    assert manifest["pairs"] + manifest["held_out"] == 160
    assert [m["step"] for m in manifest["metrics"] if "eval_accuracy" in m] == [20, 40, 60]
    assert manifest["metrics"][-1]["step"] == 60


def test_the_token_budget_does_not_change_the_model(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    weights = []
    for tokens in (64, 100_000):
        checkpoint = train(make_pairs(40), config(tiny_encoder, tokens_per_batch=tokens, max_steps=4), tmp_path / str(tokens))
        weights.append(load_file(checkpoint / "model.safetensors"))
    for name in weights[0].keys() - {"classifier.bias"}:  # whose gradient is rounding alone, as it cancels in a difference of rewards
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=2e-4)


def test_a_weight_of_zero_takes_a_pair_out(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    good, bad = make_pairs(60), make_pairs(60, seed=1)
    bad = bad.with_columns(chosen="rejected", rejected="chosen", weight=pl.lit(0.0, dtype=pl.Float32))
    train(pl.concat([good, bad], how="diagonal"), config(tiny_encoder, max_steps=60, validation=0), tmp_path)
    reloaded = train(pl.concat([good, bad], how="diagonal"), config(tiny_encoder, max_steps=60, validation=0), tmp_path)
    from assay.model.checkpoint import load
    from assay.train.measure import score_sides

    chosen, rejected = score_sides(load(reloaded)[0], make_pairs(50, seed=2), "fp32", 10_000)
    assert (chosen > rejected).mean() > 0.9


def test_early_stopping_keeps_the_best(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    train(make_pairs(160), config(tiny_encoder, max_steps=400, evaluate_every=10, patience=2), tmp_path)
    manifest = read_manifest(tmp_path)
    measured = [m["eval_accuracy"] for m in manifest["metrics"] if "eval_accuracy" in m]
    assert manifest["steps"] < 400
    assert manifest["accuracy"] == pytest.approx(max(measured))


def test_prompts_are_never_on_both_sides(make_pairs: Make) -> None:
    pairs = pl.concat([make_pairs(300), make_pairs(300).with_columns(chosen="rejected", rejected="chosen")])
    seen, held_out = split(pairs, 0.2)
    assert seen.height + held_out.height == 600
    assert 60 < held_out.height < 180
    assert not set(map(str, seen["prompt"].to_list())) & set(map(str, held_out["prompt"].to_list()))
    shuffled, _ = split(pairs.sample(fraction=1, shuffle=True, seed=1), 0.2)
    assert set(map(str, shuffled["prompt"].to_list())) == set(map(str, seen["prompt"].to_list()))


def test_pairs_that_are_too_long_are_counted(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    train(make_pairs(40), config(tiny_encoder, max_length=24, max_steps=2), tmp_path)
    assert read_manifest(tmp_path)["truncated_pairs"] > 20


def test_errors_say_what_to_do(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"only 256 positions; set train\.max_length to 256 or less"):
        train(make_pairs(10), config(tiny_encoder, max_length=300), tmp_path / "a")
    with pytest.raises(AssayError, match="nothing to train on: 0 pairs"):
        train(make_pairs(10).clear(), config(tiny_encoder), tmp_path / "b")
    with pytest.raises(AssayError, match="Did you mean `minilm`"):
        train(make_pairs(10), config(Path("minilmm")), tmp_path / "c")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AssayError, match=r"not a model folder \(no config.json\)"):
        train(make_pairs(10), config(empty), tmp_path / "d")


SCRIPT = """
import sys
from pathlib import Path
from assay.files import read_parquet
from assay.train.config import TrainConfig
from assay.train.train import train
train(read_parquet(Path(sys.argv[1])), TrainConfig.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.parametrize("more", [{}, {"evaluate_every": 5, "keep_best": True}])
def test_killed_between_the_last_step_and_the_end(more: dict[str, Any], tiny_encoder: Path, make_pairs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint is in the midst of an epoch, where the Trainer would take a step more."""
    pairs, settings = make_pairs(120), config(tiny_encoder, max_steps=10, save_every=5, **more)
    whole = train(pairs, settings, tmp_path / "whole")
    with monkeypatch.context() as once:
        once.setattr(module, "_finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(pairs, settings, tmp_path / "killed")
    assert (tmp_path / "killed" / "work" / "checkpoint-10").is_dir()
    killed = train(pairs, settings, tmp_path / "killed")
    assert sha256_file(killed / "model.safetensors") == sha256_file(whole / "model.safetensors")
    assert [m["step"] for m in read_manifest(tmp_path / "killed")["metrics"]] == [m["step"] for m in read_manifest(tmp_path / "whole")["metrics"]]


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_kill_at_random_moments_ends_with_the_same_weights(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    settings = config(tiny_encoder, max_steps=60, save_every=5, evaluate_every=15)
    pairs = tmp_path / "pairs.parquet"
    write_parquet(pairs, make_pairs(120))
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", SCRIPT, str(pairs), settings.model_dump_json(), str(tmp_path / "killed")]
    subprocess.run([*command[:-1], str(tmp_path / "whole")], check=True, env=threads)  # a process of its own, as the killed ones are
    whole = tmp_path / "whole" / "checkpoint"
    rng = random.Random(time.time_ns())
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=threads)
        metrics = tmp_path / "killed" / "work" / "metrics.jsonl"
        before = metrics.stat().st_size if metrics.is_file() else 0
        while process.poll() is None and not (metrics.is_file() and metrics.stat().st_size > before):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills, "the run was never killed: it is too short for this test"
    subprocess.run(command, check=True, env=threads)
    killed = tmp_path / "killed" / "checkpoint"
    assert sha256_file(killed / "model.safetensors") == sha256_file(whole / "model.safetensors")
    steps = [m["step"] for m in read_manifest(tmp_path / "killed")["metrics"]]
    assert steps == [m["step"] for m in read_manifest(tmp_path / "whole")["metrics"]]
