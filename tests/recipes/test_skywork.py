"""The shipped recipe ``skywork`` on local copies of its hub data sets: the layouts are the real ones, the rows are made here."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.pipeline import run
from assay.recipes.recipe import load_recipe

WORDS = ["how", "many", "rivers", "cross", "old", "towns", "when", "winter", "snow", "melts", "over", "hills", "and", "fields", "near", "quiet", "lakes"]


def question(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=12)) + f" {rng.random()}?"


def magpie(rng: random.Random, category: str, level: float) -> dict[str, Any]:
    scores = [level + rng.random() / 100 for _ in range(5)]
    return {"uuid": str(rng.random()), "instruction": question(rng), "responses": [f"answer {i} {rng.random()}" for i in range(5)], "rewards_armorm": [{"score": s} for s in scores], "task_category": category}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder with a small copy of each data set."""
    rng = random.Random(0)
    harmful = [question(rng) for _ in range(40)]
    wildguard = [{"prompt": p, "adversarial": i % 2 == 0, "response": said, "response_refusal_label": label, "prompt_harm_label": "harmful", "subcategory": "x"} for i, p in enumerate(harmful) for said, label in ((f"no, I refuse {p}", "refusal"), (f"yes, sure {p}", "compliance"))]
    benchmark = [{"prompt": question(rng), "chosen": "yes indeed", "rejected": "no", "subset": s, "id": i} for i, s in enumerate(["alpacaeval-easy", "hep-python", "refusals-dangerous", "llmbar-natural"] * 3)]
    ultra = [{"instruction": question(rng), "response": f"good {rng.random()}", "response_base": f"bad {rng.random()}", "score": rng.random(), "score_base": rng.random(), "primary_tag": "Math"} for _ in range(20)]
    ultra += [{**ultra[0], "instruction": b["prompt"], "score": 9.0} for b in benchmark[:2]]
    helpsteer = [{"prompt": q, "response": f"{said} {q}", "helpfulness": h, "correctness": 3, "coherence": 3, "complexity": 1, "verbosity": 1} for q in (question(rng) for _ in range(30)) for said, h in (("yes", 4), ("no", rng.choice([1, 4])))]
    sets: dict[str, list[dict[str, Any]]] = {
        "nvidia/HelpSteer2": helpsteer,
        "NCSOFT/offsetbias": [{"instruction": question(rng), "output_1": "no", "output_2": "yes of course", "label": 2} for _ in range(20)],
        "allenai/wildguardmix": wildguard,
        "argilla/magpie-ultra-v0.1": ultra,
        "Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1": [magpie(rng, c, 0.20) for c in ["Math"] * 10 + ["Coding & Debugging"] * 10 + ["Planning"] * 10],
        "Magpie-Align/Magpie-Pro-DPO-100K-v0.1": [magpie(rng, c, 0.18) for c in ["Math"] * 10 + ["Editing"] * 10],
        "Magpie-Align/Magpie-Air-DPO-100K-v0.1": [magpie(rng, "Math", 0.19) for _ in range(10)],
        "allenai/reward-bench": benchmark,
    }
    for name, rows in sets.items():
        folder = tmp_path / "hub" / name
        folder.mkdir(parents=True)
        (folder / ("filtered.jsonl" if name == "allenai/reward-bench" else "train.jsonl")).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "hub"


def test_the_recipe_runs_unchanged_but_for_the_backbone(hub: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    changes = [f"train.model={tiny_encoder}", "train.max_length=128", "train.max_steps=3", "train.batch_size=8", f"curate.agree.fit.model={tiny_encoder}", "curate.agree.fit.max_length=128", "curate.agree.fit.max_steps=3", "curate.agree.fit.batch_size=8"]
    recipe, base = load_recipe("skywork", changes)
    done = run(recipe, base, tmp_path / "runs", data_root=hub)
    accounts = {a["step"]: a for a in done.curation["accounts"]}
    ledger = pl.read_parquet(done.folder / "curate" / "ledger.parquet")

    assert accounts["01-filter"]["dropped_by_source"] == {"wildguard": 20}

    selected = accounts["02-select"]
    assert selected["judged"] == 22 + 30 + 20 + 10
    math, code, others = 22 + 10 + 10 + 10, 10, 20
    assert selected["judged"] - selected["dropped"] == round(0.3 * math) + round(0.3 * code) + round(0.1 * others)
    assert ledger.filter((pl.col("source") == "magpie_air") & (pl.col("step") == "kept")).height == 0

    assert accounts["03-agree"]["judged"] == 20
    assert accounts["04-decontaminate"]["dropped_by_source"] == {"magpie_ultra": 2}
    kept = ledger.filter(pl.col("step") == "kept").group_by("source").len().rows()
    assert dict(kept)["offsetbias"] == 20
    assert set(done.results["curated"]["suites"]["rewardbench"]["sections"]) == {"Chat", "Chat Hard", "Safety", "Reasoning"}


def test_the_recipe_states_the_published_figures_and_what_is_open() -> None:
    recipe, _ = load_recipe("skywork")
    assert sum(recipe.published["pool"].values()) == 378_273
    assert sum(recipe.published["kept_v0.1"].values()) == 81_973
    assert recipe.published["kept_v0.1"]["magpie_ultra"] - recipe.published["kept_v0.2"]["magpie_ultra"] == 4_957
    assert len(recipe.open) >= 6
