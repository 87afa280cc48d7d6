"""Perplexity: the columns from given losses, and bands of exactly the rows a plain sort gives."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.curate.runner import curate
from assay.curate.steps import agree, perplexity
from assay.errors import AssayError
from assay.pairs.schema import from_rows
from conftest import pair

from .conftest import Outcome, Rows

SIDES = ("chosen", "rejected", "chosen_alone", "rejected_alone")


def planted(n: int = 60, seed: int = 0) -> Rows:
    """Rows that carry their losses; every seventh has none for its chosen answer."""
    rng = random.Random(seed)
    losses = [{side: float("nan") if side == "chosen" and i % 7 == 3 else rng.uniform(0.5, 4) for side in SIDES} for i in range(n)]
    return [
        pair(f"question {i}", f"yes {i}", f"no {i}", tag=str(i), source="aab"[i % 3], category="xyzz"[i % 4], **{f"l_{side}": loss[side] for side in SIDES})
        for i, loss in enumerate(losses)
    ]


class Model:
    """A ``Likelihood`` that reads the losses from the rows."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, model: str, pairs: pl.DataFrame, max_tokens: int, workdir: Path) -> pl.DataFrame:
        self.calls.append((model, pairs.height, max_tokens))
        return pairs.select(**{side: pl.col(f"l_{side}") for side in SIDES})


def done(rows: Rows, config: perplexity.Config, folder: Path, **more: Any) -> Outcome:
    return Outcome(curate(from_rows(rows), [config], folder, likelihood=Model(), **more))


def test_the_columns_follow_their_formulas(tmp_path: Path) -> None:
    rows = planted()
    model = Model()
    kept = curate(from_rows(rows), [perplexity.Config(model="m", max_tokens=99)], tmp_path / "c", likelihood=model).kept()
    assert model.calls == [("m", 60, 99)]
    assert kept.height == 60
    said = {row["tag"]: row for row in kept.iter_rows(named=True)}
    for row in rows:
        c, r, ca, ra = (row[f"l_{side}"] for side in SIDES)
        want = {
            "perplexity_chosen": math.exp(c), "perplexity_rejected": math.exp(r), "perplexity": math.sqrt(math.exp(c) * math.exp(r)), "perplexity_gap": math.log(math.exp(r)) - math.log(math.exp(c)),
            "ifd_chosen": math.exp(c) / math.exp(ca), "ifd_rejected": math.exp(r) / math.exp(ra), "ifd_loss_chosen": c / ca, "ifd_loss_rejected": r / ra,
        }  # fmt: skip
        assert set(want) == set(perplexity.COLUMNS)
        for name, value in want.items():
            assert said[row["tag"]][name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


Key = Callable[[dict[str, Any]], Any]
PER: dict[str, Key] = {"source": lambda r: r["source"], "category": lambda r: r["category"], "all": lambda r: 0}


def by(row: dict[str, Any], name: str) -> float | None:
    c, r, ca, ra = (row[f"l_{side}"] for side in SIDES)
    value = {"perplexity_chosen": math.exp(c), "ifd_chosen": math.exp(c - ca), "perplexity_gap": r - c, "ifd_loss_rejected": r / ra}[name]
    return None if math.isnan(value) else value


def slow_band(rows: Rows, config: perplexity.Config) -> set[str]:
    """The band by a plain sort of each group; rows without a value come last."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(PER[config.per](row), []).append(row)
    kept: set[str] = set()
    for group in groups.values():
        values = {r["tag"]: by(r, config.by) for r in group}
        sign = -1 if config.band == "highest" else 1
        valued = sorted((t for t, v in values.items() if v is not None), key=lambda t: sign * (values[t] or 0))
        order = valued + [t for t, v in values.items() if v is None]
        quota = math.floor(len(order) * config.share + 0.5 + 1e-9)
        first = (len(order) - quota) // 2 if config.band == "middle" else 0
        kept.update(order[first : first + quota])
    return kept


@pytest.mark.parametrize("band", ["lowest", "middle", "highest"])
@pytest.mark.parametrize("per", list(PER))
@pytest.mark.parametrize(("share", "name"), [(0.2, "perplexity_chosen"), (0.5, "ifd_chosen"), (0.33, "perplexity_gap"), (0.05, "ifd_loss_rejected")])
def test_bands_are_those_of_a_plain_sort(band: Any, per: Any, share: float, name: Any, tmp_path: Path) -> None:
    config = perplexity.Config(band=band, per=per, share=share, by=name)
    rows = planted()
    assert done(rows, config, tmp_path / "c").kept == slow_band(rows, config)


@pytest.mark.parametrize(("n", "share", "stay"), [(10, 0.25, 3), (10, 0.24, 2), (10, 1.0, 10), (3, 0.1, 0), (5, 0.3, 2), (7, 0.5, 4)])
@pytest.mark.parametrize("band", ["lowest", "middle", "highest", "random"])
def test_the_share_is_rounded_half_up(n: int, share: float, stay: int, band: Any, tmp_path: Path) -> None:
    assert len(done(planted(n), perplexity.Config(band=band, per="all", share=share), tmp_path / "c").kept) == stay


def test_all_keeps_all_whatever_the_share(tmp_path: Path) -> None:
    outcome = done(planted(), perplexity.Config(band="all", share=0.1), tmp_path / "c")
    assert not outcome.gone


@pytest.mark.parametrize("per", list(PER))
def test_random_depends_on_the_seed_and_the_ids_alone(per: Any, tmp_path: Path) -> None:
    rows = planted(90)
    quota = {key: int(0.3 * len(group) + 0.5) for key, group in ((k, [r for r in rows if PER[per](r) == k]) for k in {PER[per](r) for r in rows})}
    kept = [done(given, perplexity.Config(band="random", per=per, share=0.3, seed=seed), tmp_path / f"c{i}", shards=1 + i).kept for i, (given, seed) in enumerate([(rows, 0), (rows[::-1], 0), (rows, 1), (planted(90, seed=9), 0)])]
    assert kept[0] == kept[1]
    assert kept[0] != kept[2]
    assert kept[0] == kept[3], "other losses draw other rows"
    for key, stay in quota.items():
        assert len({t for t in kept[0] if PER[per](rows[int(t)]) == key}) == stay


def test_random_is_no_band_of_the_values(tmp_path: Path) -> None:
    rows = [{**row, "l_chosen": i / 100} for i, row in enumerate(planted(200))]
    kept = done(rows, perplexity.Config(band="random", per="all", share=0.5), tmp_path / "c").kept
    ranks = [int(t) for t in kept]
    assert abs(sum(ranks) / len(ranks) - 99.5) < 20
    assert 30 < sum(r < 100 for r in ranks) < 70


def test_the_reason_and_the_score(tmp_path: Path) -> None:
    rows = [{**row, "l_chosen": float(i)} for i, row in enumerate(planted(4))]
    outcome = done(rows, perplexity.Config(model="m", band="lowest", share=0.5, per="all"), tmp_path / "c")
    assert outcome.kept == {"0", "1"}
    assert outcome.reason("3") == "perplexity_chosen 20.086, rank 4 of 4 in all"
    assert outcome.gone["3"]["score"] == pytest.approx(math.exp(3))
    assert outcome.gone["3"]["because_of"] == "m"


def test_a_row_without_a_value_is_named_so(tmp_path: Path) -> None:
    """A reason that is null tells a user nothing."""
    rows = [{**row, "l_chosen": float("nan") if i == 0 else 1.0 + i} for i, row in enumerate(planted(4))]
    outcome = done(rows, perplexity.Config(band="lowest", share=0.5, per="all"), tmp_path / "c")
    assert "0" in outcome.gone
    assert outcome.reason("0")


def test_without_a_model_the_message_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r'step `perplexity` runs a language model: pip install "assay\[train\]"'):
        curate(from_rows(planted(4)), [perplexity.Config()], tmp_path / "c")


def test_a_flip_turns_what_was_said_of_the_sides(tmp_path: Path) -> None:
    rows = planted(12)
    rows = [{**row, "good": 1.0, "bad": 2.0 * (i % 2), "agree_margin": 55.5, "source": "ab"[i > 5]} for i, row in enumerate(rows)]
    done = curate(from_rows(rows), [perplexity.Config(), agree.Config(columns=("good", "bad"), action="flip", only=["a"])], tmp_path / "c", likelihood=Model())
    plain = curate(from_rows(rows), [perplexity.Config()], tmp_path / "d", likelihood=Model()).kept()
    both = done.kept().join(plain, left_on=["row_id", "row_copy"], right_on=["row_id", "row_copy"], suffix="_before")
    turned = both.filter(pl.col("flipped").fill_null(False))
    assert turned.height == 3
    for table, (one, other), sign in ((turned, ("chosen", "rejected"), -1), (both.filter(~pl.col("flipped").fill_null(False)), ("chosen", "chosen"), 1)):
        assert table[f"perplexity_{one}"].equals(table[f"perplexity_{other}_before"])
        assert table["perplexity_gap"].equals(sign * table["perplexity_gap_before"])
        assert table["perplexity"].equals(table["perplexity_before"])
    assert set(both.filter(pl.col("source") == "b")["agree_margin"]) == {55.5}  # what a step does not judge keeps what it came with
