"""LoRA on a backbone in four bits: what is saved scores as what was trained."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_more_training import Make, ailing, config, on_both

from assay.errors import MissingExtra
from assay.files import read_json
from assay.model.checkpoint import load
from assay.train.examples import split
from assay.train.measure import score_sides
from assay.train.train import read_manifest, train

THERE = importlib.util.find_spec("bitsandbytes") is not None


class Ended(Exception):
    pass


@pytest.mark.skipif(not THERE, reason='SKIPPED LOUDLY: bitsandbytes is not installed; pip install -e ".[qlora]"')
@on_both
def test_four_bits_are_trained_measured_and_saved_as_the_same_model(kind: str, request: pytest.FixtureRequest, make_pairs: Make, tmp_path: Path) -> None:
    """The checkpoint, in fp32, gets on the held-out pairs what the model in four bits got at the last step; and a run that was ended goes on to it."""
    backbone = request.getfixturevalue(kind)
    settings = config(backbone, lora={"rank": 4, "bits": 4}, max_steps=6, validation=0.3, evaluate_every=6, save_every=2, learning_rate=1e-2, precision="fp32")
    checkpoint = train(make_pairs(60), settings, tmp_path / "one")
    manifest = read_manifest(tmp_path / "one")
    assert ailing(checkpoint) == []
    _, held_out = split(make_pairs(60), 0.3)
    margins = np.subtract(*score_sides(load(checkpoint)[0], held_out, "fp32", 4_096)).astype(float)
    (measured,) = [m["eval_loss"] for m in manifest["metrics"] if "eval_loss" in m]
    assert float(np.logaddexp(0, -margins).mean()) == pytest.approx(measured, abs=1e-5)
    plain, found = load_file(backbone / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    moved = [name for name in plain for other in found if other.endswith(name) and plain[name].shape == found[other].shape and plain[name].ndim == 2 and "embed" not in name and not torch.allclose(plain[name], found[other], atol=1e-4)]
    assert len(moved) >= 8, "the matrices were rounded"
    assert "quantization_config" not in read_json(checkpoint / "config.json")

    def end(step: int, steps: int, latest: dict[str, float]) -> None:
        if step == 5:
            raise Ended

    with pytest.raises(Ended):
        train(make_pairs(60), settings, tmp_path / "two", progress=end)
    other = load_file(train(make_pairs(60), settings, tmp_path / "two") / "model.safetensors")
    assert all(torch.allclose(found[name], other[name], atol=1e-6) for name in found)


@pytest.mark.skipif(THERE, reason="bitsandbytes is installed")
def test_without_the_extra_it_is_named(tiny_decoder: Path, make_pairs: Make, tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"assay\[qlora\]"):
        train(make_pairs(10), config(tiny_decoder, lora={"bits": 4}), tmp_path)
