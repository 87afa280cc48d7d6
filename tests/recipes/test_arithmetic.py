"""The recipe `skywork` on a generated pool of the paper's shape keeps what the paper's rules keep; `skywork-audited` finds what is planted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.curate.runner import Curated
from assay.pipeline import curate_stage, read_stage
from assay.recipes.recipe import load_recipe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "skywork_pool.py"
MAGPIE = ["magpie_ultra", "magpie_pro_llama3.1", "magpie_pro", "magpie_air"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fiftieth of the pool, with defects."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    subprocess.run([sys.executable, str(SCRIPT), str(folder), "--scale", "0.02", "--defects"], check=True, capture_output=True)
    return folder


def curated(pool: Path, name: str, out: Path, *sets: str) -> Curated:
    """A recipe on the pool, the judge's scores from columns."""
    recipe, base = load_recipe(name, list(sets))
    pairs = read_stage(recipe.sources, base, out / "read", data_root=pool)
    return curate_stage(recipe, base, out / "curate", pairs, data_root=pool)


def by_source(account: dict[str, Any]) -> dict[str, int]:
    return {s: n for s, n in account["kept_by_source"].items() if n}


def test_the_published_rules_keep_the_published_counts(pool: Path, tmp_path: Path) -> None:
    expected = json.loads((pool / "expected.json").read_text())
    accounts = curated(pool, "skywork", tmp_path, "curate.agree.columns=[judge_chosen, judge_rejected]").manifest["accounts"]
    for account, step in zip(accounts, ("filter", "select", "agree", "decontaminate"), strict=True):
        assert account["step"].endswith(step)
        assert by_source(account) == {s: n for s, n in expected[step]["by_source"].items() if n}
    kept = pl.read_parquet(tmp_path / "curate" / "steps" / "02-select" / "verdicts.parquet").filter("keep").select("id", "copy")
    rows = pl.concat([pl.read_parquet(f, columns=["id", "copy", "category"]) for f in (tmp_path / "curate" / "pool").glob("0000?.parquet")])
    by_category = dict(rows.join(kept, on=["id", "copy"]).group_by("category").len().iter_rows())
    assert by_category == {c: n for c, n in expected["select"]["magpie_by_category"].items() if n}


def test_open_points_are_switches(pool: Path, tmp_path: Path) -> None:
    judged = "curate.agree.columns=[judge_chosen, judge_rejected]"
    usual = curated(pool, "skywork", tmp_path / "a", judged).manifest
    each = curated(pool, "skywork", tmp_path / "b", judged, "curate.select.pool_others=false").manifest
    of_pair = curated(pool, "skywork", tmp_path / "c", judged, "curate.select.by=score_of_pair").manifest
    assert usual["sha256"] != each["sha256"]
    assert usual["sha256"] != of_pair["sha256"]


def test_the_audited_recipe_finds_what_is_planted(pool: Path, tmp_path: Path) -> None:
    planted = json.loads((pool / "expected.json").read_text())["planted"]
    done = curated(
        pool, "skywork-audited", tmp_path,
        "curate.agree={kind: agree, only: [wildguard], columns: [judge_chosen, judge_rejected]}",
        "curate.decontaminate={kind: decontaminate, against: {rewardbench: rewardbench}, ngram: 7}",
        "curate.shortcuts.sample=1000",
    )  # fmt: skip
    accounts = {a["step"].split("-", 1)[1]: a for a in done.manifest["accounts"]}
    assert accounts["contradictions"]["dropped"] == 2 * planted["contradictions"]
    assert accounts["near_duplicates"]["dropped"] >= 0.98 * planted["near_duplicates"]
    assert accounts["near_duplicates"]["dropped"] <= planted["near_duplicates"]
    assert 0.9 * planted["markers"] <= accounts["shortcuts"]["dropped"] <= planted["markers"]
    tells = accounts["shortcuts"]["notes"]["magpie_ultra"]["tells"]
    assert any("im_start" in tell["name"] and tell["side"] == "rejected" and tell["purity"] == 1.0 for tell in tells)
    assert all(source == "magpie_ultra" for source, n in accounts["shortcuts"]["dropped_by_source"].items() if n)
