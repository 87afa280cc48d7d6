"""From rows to token ids: what the trainer is given."""

import polars as pl

from assay.errors import AssayError
from assay.model.reward_model import RewardModel
from assay.pairs.schema import answer_text, prompt_id
from assay.train.batches import Example
from assay.train.config import TrainConfig
from assay.train.measure import margins_of, ratings_of


def split(rows: pl.DataFrame, share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(training part, held-out part): about ``share`` of the prompts are held out, no prompt is in both, order plays no part."""
    place = [int(prompt_id(p)[8:16], 16) / 2**32 for (p,) in rows.select("prompt").iter_rows()]
    held_out = pl.Series(place, dtype=pl.Float64) < share
    return rows.filter(~held_out), rows.filter(held_out)


def examples_of(reward_model: RewardModel, rows: pl.DataFrame, config: TrainConfig) -> tuple[list[Example], int]:
    """Pairs, or rated answers, as token ids; and how many of them were longer than the model reads.

    Raises:
        AssayError: the loss reads margins and no row has one.
    """
    return _ratings(reward_model, rows, config) if config.attributes else _pairs(reward_model, rows, config)


def _pairs(reward_model: RewardModel, pairs: pl.DataFrame, config: TrainConfig) -> tuple[list[Example], int]:
    if config.loss.kind in ("margin_bt", "scaled_bt") and pairs["margin"].null_count() == pairs.height:
        raise AssayError(f"train.loss is {config.loss.kind}, which reads the column `margin`, but no pair has one; use bradley_terry")
    rows = list(pairs.select("prompt", "chosen", "rejected").iter_rows())
    chosen, cut_chosen = reward_model.encode([p + c for p, c, _ in rows])
    rejected, cut_rejected = reward_model.encode([p + r for p, _, r in rows])
    made = [
        Example((c, r), weight, margin, lengths=(len(answer_text(row[1])), len(answer_text(row[2]))), prompt=prompt_id(row[0]), id=id_)
        for c, r, weight, margin, row, id_ in zip(chosen, rejected, _weights(pairs), margins_of(pairs, config), rows, pairs["id"], strict=True)
    ]
    return made, sum(a or b for a, b in zip(cut_chosen, cut_rejected, strict=True))


def _ratings(reward_model: RewardModel, answers: pl.DataFrame, config: TrainConfig) -> tuple[list[Example], int]:
    rows = list(answers.select("prompt", "response").iter_rows())
    ids, cut = reward_model.encode([p + r for p, r in rows])
    rated = ratings_of(answers, config.attributes).tolist()
    made = [
        Example((one,), weight, ratings=tuple(ratings), prompt=prompt_id(row[0]), id=id_)
        for one, weight, ratings, row, id_ in zip(ids, _weights(answers), rated, rows, answers["id"], strict=True)
    ]
    return made, sum(cut)


def _weights(rows: pl.DataFrame) -> list[float]:
    return rows["weight"].cast(pl.Float64).fill_null(1.0).to_list()
