"""Ray Train: two workers of a Ray that the test starts train the model that one process trains."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from assay.files import write_parquet
from assay.train.config import TrainConfig
from assay.train.train import read_manifest, train

SCRIPT = """
import sys
from pathlib import Path
from assay.files import read_parquet
from assay.train.cluster import train_on_ray
from assay.train.config import TrainConfig
if __name__ == "__main__":
    train_on_ray(read_parquet(Path(sys.argv[1])), TrainConfig.model_validate_json(sys.argv[2]), Path(sys.argv[3]), 2)
"""


@pytest.mark.slow
def test_two_workers_of_ray_train_the_same_model_as_one_process(tiny_decoder: Path, make_pairs: Callable[..., pl.DataFrame], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    config = TrainConfig.model_validate({"model": str(tiny_decoder), "max_length": 96, "max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "validation": 0.2})
    write_parquet(tmp_path / "pairs.parquet", make_pairs(60))
    alone = train(make_pairs(60), config, tmp_path / "one")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "pairs.parquet"), config.model_dump_json(), str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=180, capture_output=True)
    assert read_manifest(tmp_path / "two")["processes"] == 2
    both = load_file(tmp_path / "two" / "checkpoint" / "model.safetensors")
    for name, weight in load_file(alone / "model.safetensors").items():
        torch.testing.assert_close(both[name], weight, rtol=0, atol=1e-4)
    assert not (tmp_path / "two" / "rows.parquet").exists()
