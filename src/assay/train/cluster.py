"""Training in the workers of a Ray cluster (Ray Train), each of which takes its part of every step; the result is that of one process."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import polars as pl

from assay.errors import AssayError, MissingExtra
from assay.files import first_line, read_parquet, write_parquet
from assay.train.config import TrainConfig


def train_on_ray(rows: pl.DataFrame, config: TrainConfig, folder: Path, workers: int) -> Path:
    """As ``assay.train``, in ``workers`` processes of a Ray cluster, each with a GPU where there are any. ``folder`` must lie where all machines see it.

    Raises:
        MissingExtra: Ray is not installed.
        AssayError: a worker failed.
    """
    try:
        import ray
        import torch
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise MissingExtra("training on a Ray cluster", "ray") from None
    folder = folder.resolve()
    write_parquet(folder / "rows.parquet", rows)
    gpus = torch.cuda.is_available()
    ours = not ray.is_initialized()
    if ours:
        ray.init(num_cpus=None if gpus else max(workers + 1, os.cpu_count() or 1), log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"rows": str(folder / "rows.parquet"), "config": config.model_dump_json(), "folder": str(folder)},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(storage_path=str(folder / "ray"), name="train"),
        )
        trainer.fit()
    except Exception as error:
        raise AssayError(f"training on Ray failed: {first_line(error)}; the logs are in {folder / 'ray'}") from None
    finally:
        if ours:
            ray.shutdown()
        (folder / "rows.parquet").unlink(missing_ok=True)
    return folder / "checkpoint"


def _worker(given: dict[str, Any]) -> None:
    from assay.train.train import train

    train(read_parquet(Path(given["rows"])), TrainConfig.model_validate(json.loads(given["config"])), Path(given["folder"]))
