"""A recipe of two trainings, on ratings and then on pairs: the second goes on from the first; and the shipped recipes that do so, on made copies of their data."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from assay.errors import AssayError
from assay.files import read_json
from assay.model import contract
from assay.model.reward_model import from_backbone
from assay.pipeline import run
from assay.recipes.recipe import Recipe, load_recipe

PROMPTS = 24
TIED = 6
PAIRS = 30
RATINGS = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def helpsteer_rows() -> list[dict[str, Any]]:
    """Two rated answers to each of PROMPTS prompts, of which TIED have answers of equal helpfulness; every third prompt is of the category b."""
    rng = random.Random(0)
    rows = []
    for i in range(PROMPTS):
        question = f"question {i}: {' '.join(rng.choices(['old', 'new', 'red', 'blue'], k=6))}?"
        for said, helpful in (("yes", 4), ("no", 4 if i < TIED else rng.randint(0, 3))):
            others = {name: rng.randint(0, 4) for name in RATINGS[1:]}
            rows.append({"prompt": question, "response": f"{said} {question}", "helpfulness": helpful, **others, "category": "b" if i % 3 == 0 else "a"})
    return rows


def strength_rows() -> list[dict[str, Any]]:
    rng = random.Random(1)
    return [{"prompt": f"which {i}?", "response_1": "yes, this one", "response_2": "no, that one", "preference_strength": -rng.randint(1, 3)} for i in range(PAIRS)] + [
        {"prompt": "neither?", "response_1": "yes", "response_2": "no", "preference_strength": 0}
    ]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with a file of ratings and one of pairs."""
    (tmp_path / "ratings.jsonl").write_text(lines(helpsteer_rows()))
    (tmp_path / "pairs.jsonl").write_text(lines(strength_rows()))
    return tmp_path


def recipe(backbone: Path, *, first: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **more: Any) -> Recipe:
    usual = {"max_length": 96, "max_steps": 3, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0.25}
    return Recipe.model_validate(
        {
            "name": "two",
            "sources": [{"path": "ratings.jsonl"}, {"path": "pairs.jsonl", "name": "pairs"}],
            "first": {**usual, "model": str(backbone), "attributes": ["helpfulness"], "only": ["ratings"], **(first or {})},
            "train": {**usual, "only": ["pairs"], "loss": "scaled_bt", **(train or {})},
            **more,
        }
    )


def head(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["classifier.weight"]


def rows_of(manifest: dict[str, Any]) -> int:
    count: int = manifest["pairs"] + manifest["held_out"]
    return count


def test_rated_rows_that_cannot_be_read_are_counted_and_kept(tiny_encoder: Path, base: Path) -> None:
    bad = {"prompt": "unrated?", "response": "yes"}
    (base / "ratings.jsonl").write_text(lines([*helpsteer_rows(), bad]))
    done = run(recipe(tiny_encoder), base, base / "runs")
    (row,) = [json.loads(line) for line in (done.folder / "read" / "ratings.aside.jsonl").read_text().splitlines()]
    assert (row["row"], row["reason"]) == (2 * PROMPTS + 1, "not rated: helpfulness")


def test_the_second_training_starts_from_the_head_of_the_first(tiny_encoder: Path, base: Path) -> None:
    done = run(recipe(tiny_encoder, train={"learning_rate": 1e-12}), base, base / "runs")
    folder = done.folder / "train" / "curated"
    first, last = load_file(folder / "first" / "checkpoint" / "model.safetensors"), load_file(folder / "checkpoint" / "model.safetensors")
    assert set(first) == set(last)
    for name, weight in first.items():
        torch.testing.assert_close(last[name], weight, rtol=0, atol=1e-8)
    assert not torch.allclose(head(folder / "first" / "checkpoint"), from_backbone(str(tiny_encoder), 96, 0).model.classifier.weight, atol=1e-4)
    assert contract.read(folder / "first" / "checkpoint").attributes == ["helpfulness"]
    assert contract.read(folder / "checkpoint").attributes == ["reward"]
    assert [c.score for c in contract.read(folder / "checkpoint").canaries] == pytest.approx([c.score for c in contract.read(folder / "first" / "checkpoint").canaries], abs=1e-6)


def test_the_second_training_moves_on_and_a_finished_run_is_only_opened(tiny_encoder: Path, base: Path) -> None:
    done = run(recipe(tiny_encoder), base, base / "runs")
    folder = done.folder / "train" / "curated"
    assert not torch.allclose(head(folder / "checkpoint"), head(folder / "first" / "checkpoint"), atol=1e-4)
    assert done.trainings["curated"]["config"]["model"] == str((folder / "first" / "checkpoint").resolve())
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file())
    assert run(recipe(tiny_encoder), base, base / "runs").trainings == done.trainings
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()) == before


def test_each_training_takes_the_sources_it_names(tiny_encoder: Path, base: Path) -> None:
    done = run(recipe(tiny_encoder), base, base / "runs")
    assert done.reading["pairs"] == PROMPTS - TIED + PAIRS
    assert rows_of(read_json(done.folder / "train" / "curated" / "first" / "checkpoint" / "manifest.json")) == 2 * PROMPTS
    assert rows_of(done.trainings["curated"]) == PAIRS
    both = run(recipe(tiny_encoder, train={"only": None}), base, base / "runs")
    assert rows_of(both.trainings["curated"]) == PROMPTS - TIED + PAIRS


@pytest.mark.parametrize(("section", "only"), [("first", "rating"), ("train", "pair")])
def test_a_source_that_is_not_there_is_named_with_the_nearest(tiny_encoder: Path, base: Path, section: str, only: str) -> None:
    with pytest.raises(AssayError, match=f"there are no rows of the source {only}. Did you mean `{only}s`\\? Sources: pairs, ratings"):
        run(recipe(tiny_encoder, **{section: {"only": [only]}}), base, base / "runs")


def test_prompts_that_curation_drops_are_dropped_from_the_ratings_too(tiny_encoder: Path, base: Path) -> None:
    (base / "pairs.jsonl").write_text(lines([{**row, "category": "a"} for row in strength_rows()]))
    done = run(recipe(tiny_encoder, curate=[{"kind": "filter", "column": "category", "values": ["a"]}]), base, base / "runs")
    paired_of_b = sum(i % 3 == 0 for i in range(TIED, PROMPTS))
    assert done.curation["dropped"] == paired_of_b
    first = read_json(done.folder / "train" / "curated" / "first" / "checkpoint" / "manifest.json")
    assert rows_of(first) == 2 * (PROMPTS - paired_of_b)
    assert rows_of(done.trainings["curated"]) == PAIRS


def test_a_head_of_several_outputs_does_not_become_one_reward(tiny_encoder: Path, base: Path) -> None:
    with pytest.raises(AssayError, match="the saved head has another number of labels than the 1 asked for"):
        run(recipe(tiny_encoder, first={"attributes": ["helpfulness", "verbosity"]}), base, base / "runs")


def test_ratings_that_the_source_has_not_are_named(tiny_encoder: Path, base: Path) -> None:
    with pytest.raises(AssayError, match=r"no row has a rating `helpfullness`\. Did you mean `helpfulness`\?"):
        run(recipe(tiny_encoder, first={"attributes": ["helpfullness"]}), base, base / "runs")
    with pytest.raises(AssayError, match=r"pairs\.jsonl: no row has a rating `helpfulness`"):
        run(recipe(tiny_encoder, first={"only": None}), base, base / "runs")


@pytest.fixture(params=["jsonl", "parquet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A data root with a small copy of HelpSteer2, its validation part and RewardBench."""
    helpsteer, bench = tmp_path / "hub" / "nvidia" / "HelpSteer2", tmp_path / "hub" / "allenai" / "reward-bench"
    for folder in (helpsteer, bench):
        folder.mkdir(parents=True)
    rows = helpsteer_rows()
    for name, some in (("train", rows), ("validation", rows[:10])):
        if request.param == "jsonl":
            (helpsteer / f"{name}.jsonl").write_text(lines(some))
        else:
            (helpsteer / "data").mkdir(exist_ok=True)
            pl.DataFrame(some).write_parquet(helpsteer / "data" / f"{name}-00000-of-00001.parquet")
    subsets = ["alpacaeval-easy", "hep-python", "refusals-dangerous", "llmbar-natural"]
    (bench / "filtered.jsonl").write_text(lines([{"prompt": f"bench {i}", "chosen": "yes indeed", "rejected": "no", "subset": subsets[i % 4], "id": i} for i in range(8)]))
    return tmp_path / "hub"


SMALL = ["max_length=96", "batch_size=8", "max_steps=3", "learning_rate=1e-3", "validation=0.3"]


def test_helpsteer2_runs_unchanged_but_for_the_backbone(hub: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    given, base = load_recipe("helpsteer2", [f"train.{change}" for change in (f"model={tiny_encoder}", *SMALL)])
    done = run(given, base, tmp_path / "runs", data_root=hub)
    assert done.reading["rows_read"] == 2 * PROMPTS
    assert done.reading["pairs"] == PROMPTS - TIED
    assert done.reading["reasons"] == {"answers are rated equal": 2 * TIED}
    trained = done.trainings["curated"]
    assert rows_of(trained) == 2 * PROMPTS
    assert set(trained["ratings"]) == {"loss", *(f"r2_{name}" for name in RATINGS)}
    said = contract.read(done.folder / "train" / "curated" / "checkpoint")
    assert said.attributes == RATINGS
    assert said.merge == {"helpfulness": 0.65, "correctness": 0.80, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.40}
    assert set(done.results["curated"]["suites"]["rewardbench"]["sections"]) == {"Chat", "Chat Hard", "Safety", "Reasoning"}


def test_helpsteer2_preference_runs_with_its_preferences_named_by_a_path(hub: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "preference.jsonl").write_text(lines(strength_rows()))
    changes = [f"first.model={tiny_encoder}", f"sources.1.path={tmp_path / 'preference.jsonl'}", *(f"{part}.{change}" for part in ("first", "train") for change in SMALL)]
    given, base = load_recipe("helpsteer2-preference", changes)
    done = run(given, base, tmp_path / "runs", data_root=hub)
    first = read_json(done.folder / "train" / "curated" / "first" / "checkpoint" / "manifest.json")
    assert rows_of(first) == 2 * PROMPTS
    assert first["config"]["attributes"] == ["helpfulness"]
    assert rows_of(done.trainings["curated"]) == PAIRS
    assert done.trainings["curated"]["config"]["loss"]["kind"] == "scaled_bt"
    assert done.reading["reasons"] == {"answers are rated equal": 2 * TIED, "neither answer is preferred": 1}
    pairs = pl.read_parquet(done.folder / "read" / "pairs.parquet")
    assert set(pairs.filter(pl.col("source") == "preference")["margin"]) == {1.0, 2.0, 3.0}
    assert set(done.results["curated"]["suites"]["rewardbench"]["sections"]) == {"Chat", "Chat Hard", "Safety", "Reasoning"}


def test_the_recipes_state_the_published_figures_and_what_is_open() -> None:
    ratings, _ = load_recipe("helpsteer2")
    preference, _ = load_recipe("helpsteer2-preference")
    assert ratings.published["pairs_with_different_helpfulness"] == 7_221
    assert ratings.sources[0].rule == "all"
    assert isinstance(ratings.train.merge, dict)
    assert sum(ratings.train.merge.values()) == pytest.approx(2.05)
    assert preference.first is not None
    assert (preference.first.attributes, preference.first.only, preference.train.only) == (["helpfulness"], ["ratings"], ["preference"])
    assert preference.published["rewardbench"]["overall"] == 93.7
    assert len(ratings.open) >= 3
    assert len(preference.open) >= 2
