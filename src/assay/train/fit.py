"""Training a model only to judge other rows with it: what the curation step ``agree`` calls."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl

from assay.files import MANIFEST, fingerprint, is_done, read_parquet, write_json, write_parquet
from assay.model.checkpoint import load
from assay.model.reward_model import best_device, precision_of
from assay.train.config import TrainConfig
from assay.train.train import Progress, train
from assay.train.trainer import score_sides


def fitter(progress: Callable[[str], Progress] | None = None) -> Callable[[pl.DataFrame, pl.DataFrame, TrainConfig, Path], pl.DataFrame]:
    """A ``Fit`` for ``assay.curate.curate`` that trains real models; ``progress`` opens a progress line by name."""

    def fit(seen: pl.DataFrame, judged: pl.DataFrame, config: TrainConfig, workdir: Path) -> pl.DataFrame:
        print_ = fingerprint(seen.select("id", "copy").rows(), judged.select("id", "copy").rows(), config.model_dump())
        if not is_done(workdir, print_):
            checkpoint = train(seen, config, workdir / "training", progress=progress(workdir.name) if progress else None)
            reward_model, _ = load(checkpoint)
            reward_model.model.to(best_device())
            precision = precision_of(config.precision, reward_model.device)
            chosen, rejected = score_sides(reward_model, judged, precision, config.tokens_per_batch)
            scores = pl.DataFrame({"chosen_score": chosen, "rejected_score": rejected}).cast(pl.Float64)
            write_parquet(workdir / "scores.parquet", scores)
            write_json(workdir / MANIFEST, {"fingerprint": print_})
            shutil.rmtree(workdir / "training")
        return read_parquet(workdir / "scores.parquet")

    return fit
