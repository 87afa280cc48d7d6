"""Agreement: keep the rows that a reward model trained on other rows already ranks right.

What a model that never saw a row ranks the other way round is more often mislabelled, or in conflict with the rest, than hard: the
two-stage filter of Skywork-Reward (arXiv 2410.18451, section 3). By default the model is cross-fitted: the prompts are dealt into
folds, and each fold is judged by a model trained on the others. With ``train_on: others`` (and ``only``) one model is trained on
the sources that are not judged, as the paper does for its adversarial safety pairs. The step adds the columns agree_chosen,
agree_rejected, agree_mean and agree_margin to every judged row (of a flipped row, as it stands after the flip), so that a later ``select`` can rank by them.
"""

from typing import Literal

import polars as pl
from pydantic import Field

from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError
from assay.train.config import TrainConfig


class Config(StepConfig):
    """Keep the rows a model trained on others ranks right."""

    kind: Literal["agree"] = "agree"
    train_on: Literal["folds", "others"] = "folds"
    """`folds`: cross-fitted among the judged rows. `others`: one model, trained on all rows that are not judged (needs `only`)."""
    folds: int = Field(2, ge=2, le=20)
    """Number of folds; each is judged by a model trained on the other folds."""
    margin: float = 0.0
    """A row is ranked right if reward(chosen) - reward(rejected) is above this."""
    action: Literal["drop", "flip"] = "drop"
    """What becomes of a row that is ranked wrong: it goes, or (beyond `flip_below`) its answers change places."""
    flip_below: float = 0.0
    """With `action: flip`, only rows with a margin below minus this are flipped; those in between are dropped."""
    fit: TrainConfig = TrainConfig()
    """How the judging models are trained."""


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """Score every row with a model that did not see its prompt; drop or flip what it ranks wrong."""
    if context.fit is None:
        raise AssayError('step `agree` trains a reward model: pip install "assay[train]"')
    scored = _by_others(rows, config, context) if config.train_on == "others" else _by_folds(rows, config, context)
    difference = pl.col("chosen_score") - pl.col("rejected_score")
    if not scored.select(difference.is_finite().all()).item():
        raise AssayError("step `agree`: the judging model gave scores that are not finite, its training diverged; lower curate.agree.fit.learning_rate")
    right = difference > config.margin
    wrong_enough = pl.lit(config.action == "flip") & ~right & (difference < -config.flip_below)
    marked = scored.with_columns(difference=difference, right=right, turn=wrong_enough).with_columns(
        agree_chosen=pl.when("turn").then("rejected_score").otherwise("chosen_score"),
        agree_rejected=pl.when("turn").then("chosen_score").otherwise("rejected_score"),
        agree_mean=(pl.col("chosen_score") + pl.col("rejected_score")) / 2,
        agree_margin=pl.when("turn").then(-difference).otherwise(difference),
    )
    return verdicts(
        marked,
        keep=pl.col("right") | pl.col("turn"),
        reason=pl.format("a model trained on the others says margin {}", pl.col("difference").round(3)),
        score=pl.col("difference"),
        because_of=pl.col("judged_by"),
        flip=pl.col("turn"),
        more=["agree_chosen", "agree_rejected", "agree_mean", "agree_margin"],
    )


def _by_others(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    assert context.fit
    others = context.pool.join(rows.select("id", "copy"), on=["id", "copy"], how="anti").sort("id", "copy")
    seen = others.join(rows.select("prompt_id"), on="prompt_id", how="anti")
    if seen.height == 0:
        raise AssayError("step `agree`: `train_on: others` needs rows of sources that are not judged; name the judged ones in `only`")
    context.say(f"agree: a model trained on {seen.height:,} other pairs judges {rows.height:,}")
    return _scored(seen, rows.sort("id", "copy"), "others", config, context)


def _by_folds(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    dealt = rows.sort("id", "copy").with_columns(
        fold=pl.col("prompt_id").str.slice(0, 8).str.to_integer(base=16) % config.folds
    )
    parts = []
    for fold in range(config.folds):
        judged, seen = dealt.filter(pl.col("fold") == fold), dealt.filter(pl.col("fold") != fold)
        if judged.height and not seen.height:
            raise AssayError(f"step `agree`: all {rows.height:,} rows have the same prompt fold; there is nothing to train on")
        if judged.height:
            context.say(f"agree: fold {fold + 1} of {config.folds}, {seen.height:,} pairs train, {judged.height:,} are judged")
            parts.append(_scored(seen, judged, f"fold-{fold + 1}", config, context))
    return pl.concat(parts)


def _scored(seen: pl.DataFrame, judged: pl.DataFrame, name: str, config: Config, context: Context) -> pl.DataFrame:
    assert context.fit
    scores = context.fit(seen, judged, config.fit, context.workdir / name)
    return judged.select("id", "copy").hstack(scores).with_columns(judged_by=pl.lit(f"{config.fit.model} ({name})"))
