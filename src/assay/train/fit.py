"""Training a model only to judge other rows with it: what the curation step ``agree`` calls."""

import shutil
from pathlib import Path

import polars as pl

from assay.curate.step import Fit
from assay.files import MANIFEST, fingerprint, is_done, read_parquet, write_json, write_parquet
from assay.model.checkpoint import load
from assay.model.reward_model import best_device, precision_of
from assay.screen import Quiet, Screen, training_progress
from assay.train.config import TrainConfig
from assay.train.measure import score_sides
from assay.train.train import train as train_model


def fitter(screen: Screen | None = None) -> Fit:
    """A ``Fit`` for ``assay.curate.runner.curate`` that trains real models; ``screen`` shows how far each is."""
    shown = screen or Quiet()

    def fit(train: pl.DataFrame, judge: pl.DataFrame, config: TrainConfig, workdir: Path) -> pl.DataFrame:
        print_ = fingerprint(train.select(pl.col(r"^(id|copy|weight|margin)$")).rows(), judge.select("id", "copy").rows(), config.model_dump())
        if not is_done(workdir, print_):
            with shown.bar(f"  judging model {workdir.name}", config.max_steps) as tick:
                checkpoint = train_model(train, config, workdir / "training", progress=training_progress(tick))
            reward_model, _ = load(checkpoint)
            reward_model.model.to(best_device())
            precision = precision_of(config.precision, reward_model.device)
            chosen, rejected = score_sides(reward_model, judge, precision, config.tokens_per_batch)
            scores = pl.DataFrame({"chosen_score": chosen, "rejected_score": rejected}).cast(pl.Float64)
            write_parquet(workdir / "scores.parquet", scores)
            write_json(workdir / MANIFEST, {"fingerprint": print_})
            shutil.rmtree(workdir / "training")
        return read_parquet(workdir / "scores.parquet")

    return fit
