"""Bulk scoring: whoever scores the parts, and however often it was interrupted, the table is the same."""

import json
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from assay.cli import run_app
from assay.engine import start
from assay.score import bulk
from assay.score.bulk import loaded, score_file
from assay.score.scorer import Scores, load_scorer
from conftest import RAYS_OWN
from served import checkpoints


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PART", 7)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bulk") / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {i // 2}?", "chosen": "A number. " * (i % 9 + 1), "rejected": f"No {i}."}) + "\n" for i in range(40)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.filterwarnings(one) for one in RAYS_OWN])])
def test_other_processes_give_the_same_scores(rows: Path, engine: str) -> None:
    folder = str(checkpoints()["first"])
    here = load_scorer(folder, precision="fp32")
    expected, _ = score_file(here, str(rows))
    with start(engine, 2) as running:  # type: ignore[arg-type]
        found, aside = score_file(here, str(rows), engine=running, load=partial(loaded, folder, "fp32", None, 1))
    assert aside == 0
    assert found.drop("chosen_score", "rejected_score", "margin").equals(expected.drop("chosen_score", "rejected_score", "margin"))
    for column in ("chosen_score", "rejected_score", "margin"):
        assert found[column].to_list() == pytest.approx(expected[column].to_list(), abs=1e-5)


class Failing:
    """A scorer that stops after some calls, and remembers what it was asked."""

    attributes = ("reward",)

    def __init__(self, real: object, calls: int, spec: str = "failing") -> None:
        self.real, self.left, self.spec, self.asked = real, calls, spec, 0

    def score(self, conversations: list[list[dict[str, str]]]) -> Scores:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(conversations)
        return self.real.score(conversations)  # type: ignore[attr-defined,no-any-return]


def test_an_interrupted_run_goes_on(rows: Path, tmp_path: Path) -> None:
    real = load_scorer("rule:length")
    expected, _ = score_file(real, str(rows))
    with pytest.raises(KeyboardInterrupt):
        score_file(Failing(real, 4), str(rows), parts=tmp_path / "parts")
    rest = Failing(real, 99)
    found, _ = score_file(rest, str(rows), parts=tmp_path / "parts")
    assert found.equals(expected)
    assert rest.asked == 2 * (40 - 4 * 7)


@pytest.mark.parametrize("other", ["scorer", "data"])
def test_parts_of_another_run_are_not_taken(rows: Path, tmp_path: Path, other: str) -> None:
    real = load_scorer("rule:length")
    with pytest.raises(KeyboardInterrupt):
        score_file(Failing(real, 4), str(rows), parts=tmp_path / "parts")
    changed = tmp_path / "changed.jsonl"
    changed.write_text(rows.read_text().replace("What is 0?", "What is zero?"))
    rest = Failing(real, 99, "another" if other == "scorer" else "failing")
    score_file(rest, str(rows if other == "scorer" else changed), parts=tmp_path / "parts")
    assert rest.asked == 80


def test_the_command_leaves_no_parts(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.parquet"
    assert run_app(["score", "rule:length", str(rows), "-o", str(out)]) == 0
    assert "40 rows scored" in capsys.readouterr().out
    assert pl.read_parquet(out).height == 40
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
