"""Agreement without training: columns and scorers that judge, what becomes of rows ranked wrong, and the estimate of noise."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from assay.curate.runner import curate
from assay.curate.steps import agree, select
from assay.errors import AssayError
from assay.pairs.schema import from_rows
from assay.score.sides import sides
from assay.tables import note_lines
from conftest import pair

from .conftest import Outcome, Rows, Run

MORE = ("agree_chosen", "agree_rejected", "agree_mean", "agree_margin")
SCORES: list[tuple[float | None, float | None]] = [(2.0, 1.0), (1.0, 2.0), (0.5, 0.5), (0.0, 3.0), (1.25, 1.0), (None, 1.0), (1.0, float("nan"))]


def scored(scores: list[tuple[float | None, float | None]] = SCORES, **more: Any) -> Rows:
    """A row for each pair of scores, tagged with its number."""
    return [pair(f"question {i}", "yes", "no", tag=str(i), better=a, worse=b, **more) for i, (a, b) in enumerate(scores)]


def by_columns(**more: Any) -> agree.Config:
    return agree.Config(columns=("better", "worse"), **more)


def test_columns_judge_and_rows_without_a_score_pass_untouched(run: Run) -> None:
    done = run(scored(), by_columns())
    assert done.kept == {"0", "4", "5", "6"}
    assert set(done.gone) == {"1", "2", "3"}
    assert done.reason("3") == "the judge says margin -3.0"
    assert (done.gone["1"]["score"], done.gone["1"]["because_of"]) == (-1.0, "better and worse")
    assert [done.rows["4"][c] for c in MORE] == [1.25, 1.0, 1.125, 0.25]
    for unscored in "56":
        assert unscored not in done.verdicts()
        assert [done.rows[unscored][c] for c in MORE] == [None] * 4


def test_margin_is_what_a_row_must_exceed(run: Run) -> None:
    done = run(scored(), by_columns(margin=0.25))
    assert done.kept == {"0", "5", "6"}
    assert done.verdicts()["4"]["close"] == 0
    assert done.verdicts()["3"]["close"] == 3.25


def test_keep_only_adds_the_columns(run: Run) -> None:
    done = run(scored(), by_columns(action="keep"))
    assert not done.gone
    assert done.rows["3"]["agree_margin"] == -3
    assert not done.verdicts()["3"]["flip"]


@pytest.mark.parametrize(("below", "flipped", "dropped"), [(0.0, "13", "2"), (1.0, "3", "12"), (3.0, "", "123")])
def test_flip_turns_what_is_wrong_enough_and_drops_the_rest(below: float, flipped: str, dropped: str, run: Run) -> None:
    done = run(scored(), by_columns(action="flip", flip_below=below))
    assert set(done.gone) == set(dropped)
    ledger = done.ledger()
    assert {t for t, line in ledger.items() if line["step"] == "kept, flipped"} == set(flipped)
    for tag in flipped:
        row = done.rows[tag]
        assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("no", "yes")
        low, high = SCORES[int(tag)]
        assert high is not None
        assert low is not None
        assert [row[c] for c in MORE] == [high, low, (low + high) / 2, high - low]
    assert [done.rows["0"][c] for c in MORE] == [2, 1, 1.5, 1]


def test_the_columns_after_a_flip_serve_a_later_step(run: Run) -> None:
    best = select.Config(by="agree_margin", groups=[select.Group(name="all", categories=["x"], count=1)])
    done = run(scored(category="x"), by_columns(action="flip"), best)
    assert done.kept == {"3"}


def test_the_margin_of_a_flipped_row_is_no_longer_known_to_later_steps(run: Run) -> None:
    """As in the output, where it is null: a row that was turned round must not rank by what it said before."""
    rows = [{**row, "margin": 9.0 if row["tag"] == "3" else 1.0, "category": "x"} for row in scored()]
    best = select.Config(by="margin", groups=[select.Group(name="all", categories=["x"], count=1)])
    done = run(rows, by_columns(action="flip"), best)
    assert "3" not in done.kept


def test_columns_of_a_flipped_row_change_places_too(run: Run) -> None:
    """Judged a second time by the same two columns, a row that was turned is right now; it must not be turned back."""
    done = run(scored([(0.0, 3.0), (3.0, 0.0)]), by_columns(action="flip"), by_columns(action="flip"))
    assert done.rows["0"]["chosen"][0]["content"] == "no"


# scorers


def test_the_rule_length_judges(run: Run) -> None:
    rows = [pair("q0", "a long answer", "short", tag="long"), pair("q1", "short", "a long answer", tag="short"), pair("q2", "same", "size", tag="tie")]
    done = run(rows, agree.Config(scorers=["rule:length"]), score=sides)
    assert done.kept == {"long"}
    assert done.gone["short"]["because_of"] == "rule:length"
    assert done.gone["short"]["score"] == 5 - 13
    assert [done.rows["long"][c] for c in MORE] == [13, 5, 9, 8]


Judge = Callable[[str, pl.DataFrame], pl.DataFrame]


def panel(opinions: dict[str, dict[str, float]]) -> Judge:
    """A scorer that gives each row (by tag) the margin it is said to give."""

    def score(spec: str, pairs: pl.DataFrame) -> pl.DataFrame:
        margins = [opinions[spec][t] for t in pairs["tag"]]
        return pl.DataFrame({"chosen_score": margins, "rejected_score": [0.0] * len(margins)})

    return score


OPINIONS = {"one": {"0": 1.0, "1": 1.0, "2": -1.0, "3": -1.0}, "two": {"0": 9.0, "1": 9.0, "2": 9.0, "3": -9.0}, "three": {"0": 1.0, "1": -1.0, "2": -1.0, "3": -1.0}}


@pytest.mark.parametrize(("judges", "need", "kept"), [
    (["one", "two"], "all", "01"), (["one", "two"], "any", "012"), (["one", "two"], "majority", "01"),
    (["one", "two", "three"], "all", "0"), (["one", "two", "three"], "majority", "01"), (["one", "two", "three"], "any", "012"), (["three"], "majority", "0"),
])  # fmt: skip
def test_as_many_judges_as_needed_must_agree(judges: list[str], need: Any, kept: str, run: Run) -> None:
    rows = [pair(f"q{i}", "yes", "no", tag=str(i)) for i in range(4)]
    done = run(rows, agree.Config(scorers=judges, need=need), score=panel(OPINIONS))
    assert done.kept == set(kept)
    if len(judges) > 1:
        agreeing = sum(OPINIONS[j]["2"] > 0 for j in judges)
        assert done.verdicts()["2"]["reason"].startswith(f"{agreeing} of {len(judges)} judges agree, margin ")
        assert done.verdicts()["2"]["because_of"] == ", ".join(judges)


def test_several_judges_are_put_on_one_scale(run: Run) -> None:
    """Two judges that agree but for their unit count the same: the average is that of margins divided by their spread."""
    rows = [pair(f"q{i}", "yes", "no", tag=str(i)) for i in range(4)]
    small = {"0": 1.0, "1": 2.0, "2": 3.0, "3": 6.0}
    done = run(rows, agree.Config(scorers=["small", "large"]), score=panel({"small": small, "large": {t: 1_000 * v for t, v in small.items()}}))
    spread = pl.Series(list(small.values())).std()
    assert isinstance(spread, float)
    for tag, margin in small.items():
        assert done.rows[tag]["agree_margin"] == pytest.approx(margin / spread)


def test_a_judge_sees_the_rows_as_they_stand_and_each_once(run: Run) -> None:
    seen: list[tuple[str, str]] = []

    def score(spec: str, pairs: pl.DataFrame) -> pl.DataFrame:
        seen.extend((spec, row["chosen"][0]["content"]) for row in pairs.iter_rows(named=True))
        return sides("rule:length", pairs)

    run(scored([(0.0, 1.0)]), by_columns(action="flip"), agree.Config(scorers=["x"], action="keep"), score=score)
    assert seen == [("x", "no")]


def test_without_a_way_to_score_the_message_names_the_extra(run: Run) -> None:
    with pytest.raises(AssayError, match=r'step `agree` runs scorers: pip install "assay\[train\]"'):
        run(scored(), agree.Config(scorers=["rule:length"]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float, run: Run) -> None:
    with pytest.raises(AssayError, match="scores that are not finite"):
        run([pair("q", "yes", "no", tag="0")], agree.Config(scorers=["x"]), score=panel({"x": {"0": bad}}))


def test_both_kinds_of_judge_are_refused() -> None:
    with pytest.raises(ValidationError, match="give either `scorers` or `columns`"):
        agree.Config(scorers=["rule:length"], columns=("a", "b"))


def test_a_column_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(AssayError, match=r"step `agree`: the rows have no column `bettr`\. Did you mean `better`\?"):
        run(scored(), agree.Config(columns=("bettr", "worse")))


def test_columns_without_a_single_score_leave_all_rows(run: Run) -> None:
    done = run([{**row, "better": None} for row in scored()] + [pair("x", "yes", "no", tag="x", better=None, worse=1.0)], by_columns())
    assert not done.gone


# noise


def noisy(flips: dict[str, float], n: int = 1_000, seed: int = 0) -> Rows:
    """Rows of some sources in which a share of the labels is wrong, judged by scores that know the truth: surer ones are not likelier to be flipped."""
    rng = random.Random(seed)
    rows = []
    for source, share in flips.items():
        wrong = set(rng.sample(range(n), round(share * n)))
        for i in range(n):
            size = rng.random() + 0.01
            rows.append(pair(f"{source} {i}", "yes", "no", source=source, better=-size if i in wrong else size, worse=0.0))
    return rows


def test_noise_is_estimated_by_source(tmp_path: Path) -> None:
    planted = {"clean": 0.0, "fifth": 0.2, "half": 0.5}
    done = curate(from_rows(noisy(planted)), [by_columns(action="keep")], tmp_path / "c")
    noise = done.manifest["accounts"][0]["notes"]["noise"]
    assert list(noise) == sorted(planted)
    for source, share in planted.items():
        low, high = noise[source]["interval"]
        assert low <= share <= high
        assert noise[source]["ranked_wrong"] == pytest.approx(share)
        assert noise[source]["rows"] == 1_000
        assert high - low < 0.15
    assert noise["clean"]["noise"] == 0


def test_the_interval_of_noise_covers_the_planted_share() -> None:
    covered = 0
    for seed in range(60):
        table = pl.DataFrame([{"row": i, "source": "s", "difference": r["better"]} for i, r in enumerate(noisy({"s": 0.2}, 400, seed))])
        low, high = agree.noise(table)["s"]["interval"]
        covered += low <= 0.2 <= high
    assert covered >= 51  # 95% of 60 less four standard deviations


def test_noise_looks_at_the_surest_fifth_alone() -> None:
    """A weak judge errs where it is unsure, and that is no noise."""
    table = pl.DataFrame({"row": range(100), "source": ["s"] * 100, "difference": [-0.01] * 80 + [1.0] * 19 + [-1.0]})
    found = agree.noise(table)["s"]
    assert (found["ranked_wrong"], found["noise"]) == (0.81, 0.05)


def judged(n: int, noise: float, seed: int = 0, skill: float = 2.0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Margins against the labels of a judge that is right with the probability sigmoid(skill x size), and which labels are wrong."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 1.5, n))
    right = rng.random(n) < 1 / (1 + np.exp(-skill * size))
    wrong = rng.random(n) < noise
    return np.where(right != wrong, size, -size), wrong


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 0.4])
def test_least_margin_is_where_the_judge_becomes_more_often_right_than_the_labels(noise: float) -> None:
    true = np.log((1 - noise) / noise) / 2
    for seed in range(5):
        margins, wrong = judged(20_000, noise, seed)
        least = agree.least_margin(margins)
        assert least < 0
        sizes = np.sort(np.abs(margins))
        a_tenth = len(margins) // 10
        assert abs(int(np.searchsorted(sizes, -least)) - int(np.searchsorted(sizes, true))) <= 2 * a_tenth
        assert wrong[margins <= least].mean() > 0.6


def test_least_margin_leaves_right_labels_alone() -> None:
    margins, _ = judged(20_000, 0.0)
    assert (margins <= agree.least_margin(margins)).mean() < 0.005
    assert (margins <= 0).mean() > 0.15


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_a_judge_that_guesses_is_never_believed(noise: float) -> None:
    assert sum(np.isfinite(agree.least_margin(judged(2_000, noise, seed, skill=0.0)[0])) for seed in range(40)) <= 4  # 2.5% of 40 are expected


def test_least_margin_of_few_rows_or_of_labels_that_are_mostly_wrong() -> None:
    assert agree.least_margin(judged(99, 0.2)[0]) == -np.inf
    assert agree.least_margin(np.array([])) == -np.inf
    assert agree.least_margin(judged(1_000, 0.8)[0]) == -np.inf
    assert agree.least_margin(np.ones(1_000)) == -np.inf


def test_margin_auto_is_found_for_each_source(tmp_path: Path) -> None:
    rows, wrong = [], set()
    for source, noise, n in (("clean", 0.0, 2_000), ("few", 0.3, 60), ("noisy", 0.3, 2_000)):
        margins, turned = judged(n, noise, skill=3.0)
        rows += [pair(f"{source} {i}", "yes", "no", source=source, tag=f"{source} {i}", better=float(m), worse=0.0) for i, m in enumerate(margins)]
        wrong |= {f"{source} {i}" for i in np.flatnonzero(turned)}
    done = curate(from_rows(rows), [by_columns(margin="auto")], tmp_path / "c")
    notes = done.manifest["accounts"][0]["notes"]
    assert list(notes["margins"]) == ["clean", "few", "noisy"]
    assert notes["margins"]["few"] is None
    dropped = pl.read_parquet(tmp_path / "c" / "dropped.parquet")
    assert set(dropped["source"]) <= {"clean", "noisy"}
    assert (dropped["source"] == "clean").sum() < 20
    noisy_rows = dropped.filter(source="noisy")
    assert noisy_rows["tag"].is_in(wrong).mean() > 0.8
    assert noisy_rows.filter(pl.col("tag").is_in(wrong)).height > 0.7 * sum(t.startswith("noisy") for t in wrong)
    assert -0.3 < noisy_rows["better"].max() <= notes["margins"]["noisy"]
    assert any("few: the judge is nowhere more often right" in line for line in note_lines(notes))
    assert any(f"noisy: rows go from a margin of {notes['margins']['noisy']:+.2f}" in line for line in note_lines(notes))
    close = pl.read_parquet(tmp_path / "c" / "steps" / "01-agree" / "verdicts.parquet")["close"]
    assert close.is_null().sum() >= 60
    assert close.is_finite().all()


def test_margin_auto_of_several_judges(run: Run, tmp_path: Path) -> None:
    """Each has a margin of its own; two that say the same in other units drop what one does."""
    margins, _ = judged(1_000, 0.3, skill=3.0)
    rows = [pair(f"q {i}", "yes", "no", tag=str(i), better=float(m), worse=0.0) for i, m in enumerate(margins)]
    one = run(rows, by_columns(margin="auto"))
    unit = {"a": 1.0, "b": 100.0}

    def judge(spec: str, pairs: pl.DataFrame) -> pl.DataFrame:
        return pairs.select(chosen_score=pl.col("better") * unit[spec], rejected_score=pl.lit(0.0))

    both = curate(from_rows(rows), [agree.Config(scorers=["a", "b"], margin="auto")], tmp_path / "both", score=judge)
    assert set(both.kept()["tag"]) == one.kept
    assert 0 < len(one.gone) < 400


def test_votes_tell_how_often_annotators_differ(tmp_path: Path) -> None:
    votes: list[tuple[str | None, int | None, int | None]] = [("a", 3, 0), ("a", 2, 1), ("a", 1, 1), ("a", 0, 0), ("a", None, 2), ("b", 5, 0), (None, 3, 1)]
    rows = [pair(f"q{i}", "yes", "no", source=s, better=1.0, worse=0.0, up=a, down=b) for i, (s, a, b) in enumerate(votes)]
    done = curate(from_rows(rows), [by_columns(votes=("up", "down"))], tmp_path / "c")
    differ = done.manifest["accounts"][0]["notes"]["annotators_differ"]
    assert differ == {
        "(none)": {"rows": 1, "not_of_one_mind": 1.0, "minority": 0.25},
        "a": {"rows": 3, "not_of_one_mind": pytest.approx(2 / 3), "minority": pytest.approx((0 + 1 / 3 + 1 / 2) / 3)},
        "b": {"rows": 1, "not_of_one_mind": 0.0, "minority": 0.0},
    }


def test_only_some_sources_are_judged(run: Run) -> None:
    rows = scored(source="a") + [{**row, "tag": "b" + row["tag"], "prompt": [{"role": "user", "content": "b " + row["tag"]}], "source": "b"} for row in scored()]
    done: Outcome = run(rows, by_columns(only=["a"]))
    assert set(done.gone) == {"1", "2", "3"}
    assert list(done.notes[0]["noise"]) == ["a"]
