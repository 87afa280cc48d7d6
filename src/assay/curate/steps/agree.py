"""Agreement: keep the rows that a scorer which never saw them already ranks right.

What such a scorer ranks the other way round is more often mislabelled, or in conflict with the rest, than hard: the
two-stage filter of Skywork-Reward (arXiv 2410.18451, section 3). By default a reward model is trained and cross-fitted: the prompts are dealt into
folds, and each fold is judged by a model trained on the others. With ``train_on: others`` (and ``only``) one model is trained on
the sources that are not judged, as the paper does for its adversarial safety pairs. With ``scorers`` nothing is trained: any scorers judge (a checkpoint,
`rule:length`), or ``columns`` that hold the scores of one that ran elsewhere.

Of the rows that a judge ranks wrong, more are right than wrong where it errs more often than the labels do. With ``margin: auto`` a row goes only if, at margins of its size, the judge is more
often right than the labels of its source, which its agreement with them tells (``least_margin``).

The step's account estimates by source how many labels are wrong: the share ranked wrong among the fifth of the rows the judge is surest of, where a
fit judge hardly errs by itself; with a weak judge it is an upper bound. Where ``votes`` names columns with annotators' votes, it says how often they differed.

The step adds the columns agree_chosen, agree_rejected, agree_mean and agree_margin to every judged row (of a flipped row, as it stands after the flip),
so that a later ``select`` can rank by them. Of several scorers each is divided by the spread of its margins and they are averaged.
"""

from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from assay.curate.step import Context, StepConfig, verdicts
from assay.errors import AssayError
from assay.evaluate.intervals import wilson
from assay.train.config import TrainConfig

SUREST = 0.2
"""Share of the rows, by size of the margin, on which noise is estimated."""
LEAST = 100
"""Rows that a source must have for a margin of its own."""


class Config(StepConfig):
    """Keep the rows a scorer that never saw them ranks right."""

    kind: Literal["agree"] = "agree"
    train_on: Literal["folds", "others"] = "folds"
    """`folds`: cross-fitted among the judged rows. `others`: one model, trained on all rows that are not judged (needs `only`)."""
    folds: int = Field(2, ge=2, le=20)
    """Number of folds; each is judged by a model trained on the other folds."""
    scorers: list[str] = []
    """Scorers that judge instead of trained models: checkpoint folders, hub ids, `rule:length`."""
    columns: tuple[str, str] | None = None
    """Two columns that hold the scores of chosen and rejected already; nothing is trained or run."""
    need: Literal["all", "majority", "any"] = "majority"
    """How many of several scorers must rank a row right (more than half for `majority`)."""
    margin: float | Literal["auto"] = 0.0
    """A row is ranked right if reward(chosen) - reward(rejected) is above this. `auto`: found for each source, so that only rows go on which the judge is more often right than the label."""
    action: Literal["drop", "flip", "keep"] = "drop"
    """What becomes of a row that is ranked wrong: it goes, or (beyond `flip_below`) its answers change places, or it only gets the columns."""
    flip_below: float = 0.0
    """With `action: flip`, only rows with a margin below minus this are flipped; those in between are dropped."""
    votes: tuple[str, str] | None = None
    """Two columns with the number of annotators for chosen and for rejected."""
    fit: TrainConfig = TrainConfig()
    """How the judging models are trained."""

    @model_validator(mode="after")
    def _one_judge(self) -> Self:
        if self.scorers and self.columns:
            raise ValueError("give either `scorers` or `columns`")
        return self


def judge(rows: pl.DataFrame, config: Config, context: Context) -> pl.LazyFrame:
    """Score every row with a judge that did not see its prompt; drop or flip what it ranks wrong."""
    scored = _scored(rows.sort("row"), config, context)
    count = max(1, len(config.scorers))
    needed = {"all": count, "any": 1, "majority": count // 2 + 1}[config.need]
    difference = pl.col("chosen_score") - pl.col("rejected_score")
    right = pl.col("ranked_right") >= needed
    wrong_enough = pl.lit(config.action == "flip") & ~right & (difference < -config.flip_below)
    marked = scored.with_columns(difference=difference, right=right, turn=wrong_enough)
    by_source = _sources(rows).join(marked.select("row", "difference", "least"), on="row")
    context.notes["noise"] = noise(by_source)
    if config.margin == "auto":
        context.notes["margins"] = {source: least if np.isfinite(least) else None for source, least in by_source.group_by("source").agg(pl.col("least").first()).sort("source").iter_rows()}
    if config.votes:
        context.notes["annotators_differ"] = _votes(rows, config.votes, context)
    who = "a model trained on the others says" if not (config.scorers or config.columns) else "the judge says" if count == 1 else f"{{}} of {count} judges agree,"
    said = pl.format(f"{who} margin {{}}", *(["ranked_right"] if "{}" in who else []), pl.col("difference").round(3))
    return verdicts(
        marked,
        keep=pl.col("right") | pl.col("turn") | pl.lit(config.action == "keep"),
        reason=said,
        score=pl.col("difference"),
        because_of=pl.col("judged_by"),
        flip=pl.col("turn"),
        close=pl.when(pl.col("least").is_finite()).then((pl.col("difference") - pl.col("least")).abs()),
        more={
            "agree_chosen": pl.when("turn").then("rejected_score").otherwise("chosen_score"),
            "agree_rejected": pl.when("turn").then("chosen_score").otherwise("rejected_score"),
            "agree_mean": (pl.col("chosen_score") + pl.col("rejected_score")) / 2,
            "agree_margin": pl.when("turn").then(-difference).otherwise(difference),
        },
    )


def _scored(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    """row, chosen_score, rejected_score, ranked_right (by how many judges), least (the margin that a row must exceed), judged_by."""
    if config.columns:
        by_columns = context.numeric(context.numeric(rows, config.columns[0], "agree"), config.columns[1], "agree")
        chosen, rejected = config.columns
        turned = pl.col("flipped").fill_null(False) if "flipped" in rows.columns else pl.lit(False)
        table = by_columns.select(
            "row", chosen_score=pl.when(turned).then(rejected).otherwise(chosen), rejected_score=pl.when(turned).then(chosen).otherwise(rejected), judged_by=pl.lit(f"{chosen} and {rejected}")
        )
        return _one(table.drop_nulls(), rows, config)
    if config.scorers:
        if context.score is None:
            raise AssayError('step `agree` runs scorers: pip install "assay[train]"')
        pairs = context.texts(rows)
        each = []
        for spec in config.scorers:
            context.say(f"agree: {spec} judges {rows.height:,} pairs")
            each.append(rows.select("row").hstack(context.score(spec, pairs)).with_columns(judged_by=pl.lit(spec)))
        ranked = [_one(table, rows, config) for table in each]
        return ranked[0] if len(ranked) == 1 else _several(ranked, config)
    return _one(_trained(rows, config, context), rows, config)


def _one(table: pl.DataFrame, rows: pl.DataFrame, config: Config) -> pl.DataFrame:
    difference = pl.col("chosen_score") - pl.col("rejected_score")
    if not table.select(difference.is_finite().all()).item():
        raise AssayError("step `agree`: the judge gave scores that are not finite; if it was trained here its training diverged: lower curate.agree.fit.learning_rate")
    if config.margin == "auto":
        by_source = table.join(_sources(rows), on="row", maintain_order="left").with_columns(margin=difference)
        found = {source: least_margin(part["margin"].to_numpy()) for (source,), part in by_source.group_by("source")}
        table = table.with_columns(least=by_source["source"].replace_strict(found, return_dtype=pl.Float64))
    else:
        table = table.with_columns(least=pl.lit(config.margin, pl.Float64))
    return table.with_columns(ranked_right=(difference > pl.col("least")).cast(pl.Int64))


def _sources(rows: pl.DataFrame) -> pl.DataFrame:
    """row, source, as the account names it."""
    return rows.select("row", pl.col("source").fill_null("(none)"))


def least_margin(margins: NDArray[np.floating]) -> float:
    """The margin at or below which a row's label is worth less than the judge's word; minus infinity if there is none.

    Of the labels a share e is wrong (estimated as in ``noise``), whatever the margin. A judge that is right with probability q agrees with a label with probability g = q(1 - e) + (1 - q)e, so it is more
    often right than the labels (q > 1 - e) where g > (1 - e)² + e². g is measured on tenths of the rows, by the size of the margin; the judge is believed from the first tenth on from which all lie above.

    Args:
        margins: shape [n], reward(chosen) - reward(rejected) by a judge that has not seen the rows. Of fewer than 100 nothing is concluded.
    """
    if len(margins) < LEAST:
        return -np.inf
    order = np.argsort(np.abs(margins), kind="stable")
    right = margins[order] >= 0
    surest = right[-round(SUREST * len(right)) :]
    wrong = 1 - surest.mean()
    if wilson(int((~surest).sum()), len(surest))[1] >= 0.5:  # who guesses, the judge or the labels, cannot be told
        return -np.inf
    tenths = np.array_split(np.arange(len(right)), 10)
    doubtful = [i for i, tenth in enumerate(tenths) if right[tenth].mean() <= (1 - wrong) ** 2 + wrong**2]
    believed = doubtful[-1] + 1 if doubtful else 0
    return -np.inf if believed == len(tenths) else -float(np.abs(margins[order[tenths[believed][0]]]))


def _several(each: list[pl.DataFrame], config: Config) -> pl.DataFrame:
    """Judges on one scale: every one's scores divided by the spread of its margins."""
    scaled = []
    for one in each:
        spread: Any = (one["chosen_score"] - one["rejected_score"]).std() or 1.0
        scaled.append(one.with_columns(pl.col("chosen_score", "rejected_score", "least") / spread))
    sums = {c: sum((t[c] for t in scaled[1:]), start=scaled[0][c]) for c in ("chosen_score", "rejected_score", "ranked_right", "least")}
    mean = each[0].select("row").with_columns(**{c: s if c == "ranked_right" else s / len(each) for c, s in sums.items()})
    return mean.with_columns(judged_by=pl.lit(", ".join(config.scorers)))


def _trained(rows: pl.DataFrame, config: Config, context: Context) -> pl.DataFrame:
    if context.fit is None:
        raise AssayError('step `agree` trains a reward model: pip install "assay[train]"')
    if config.train_on == "others":
        everything, judged = context.texts(context.alive), context.texts(rows)
        seen = everything.join(judged.select("row"), on="row", how="anti").join(judged.select("prompt_id"), on="prompt_id", how="anti")
        if seen.height == 0:
            raise AssayError("step `agree`: `train_on: others` needs rows of sources that are not judged; name the judged ones in `only`")
        context.say(f"agree: a model trained on {seen.height:,} other pairs judges {rows.height:,}")
        return _by_model(seen, judged, "others", config, context)
    dealt = context.texts(rows).with_columns(fold=pl.col("prompt_id").str.slice(0, 8).str.to_integer(base=16) % config.folds)
    parts = []
    for fold in range(config.folds):
        judged, seen = dealt.filter(pl.col("fold") == fold).drop("fold"), dealt.filter(pl.col("fold") != fold).drop("fold")
        if judged.height and not seen.height:
            raise AssayError(f"step `agree`: all {rows.height:,} rows have the same prompt fold; there is nothing to train on")
        if judged.height:
            context.say(f"agree: fold {fold + 1} of {config.folds}, {seen.height:,} pairs train, {judged.height:,} are judged")
            parts.append(_by_model(seen, judged, f"fold-{fold + 1}", config, context))
    return pl.concat(parts).sort("row")


def _by_model(seen: pl.DataFrame, judged: pl.DataFrame, name: str, config: Config, context: Context) -> pl.DataFrame:
    assert context.fit
    scores = context.fit(seen.drop("row"), judged.drop("row"), config.fit, context.workdir / name)
    return judged.select("row").hstack(scores).with_columns(judged_by=pl.lit(f"{config.fit.model} ({name})"))


def noise(judged: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """By source: rows, the share ranked wrong, and the estimated share of wrong labels with its 95% interval (Wilson)."""
    found = {}
    for (source,), part in judged.sort("source").group_by("source", maintain_order=True):
        surest = part.sort(pl.col("difference").abs(), "row", descending=[True, False]).head(max(1, round(SUREST * part.height)))
        wrong = int((surest["difference"] < 0).sum())
        low, high = wilson(wrong, surest.height)
        found[str(source)] = {"rows": part.height, "ranked_wrong": int((part["difference"] < 0).sum()) / part.height, "noise": wrong / surest.height, "interval": [low, high]}
    return found


def _votes(rows: pl.DataFrame, columns: tuple[str, str], context: Context) -> dict[str, dict[str, Any]]:
    """By source: rows with votes, the share on which the annotators were not of one mind, and the mean share of the minority."""
    voted = context.numeric(context.numeric(rows, columns[0], "agree"), columns[1], "agree").drop_nulls(list(columns))
    total = pl.col(columns[0]) + pl.col(columns[1])
    minority = pl.min_horizontal(*columns) / total
    table = voted.filter(total > 0).group_by(pl.col("source").fill_null("(none)")).agg(rows=pl.len(), not_of_one_mind=(minority > 0).mean(), minority=minority.mean()).sort("source")
    return {row.pop("source"): row for row in table.iter_rows(named=True)}
