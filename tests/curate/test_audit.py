"""The audit: planted faults come back as verdicts with figures and rows, nothing is removed, and nothing is done twice."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay.curate import audit as auditing
from assay.curate.audit import audit
from assay.curate.steps import MODULES
from assay.files import sha256_file, write_parquet
from assay.pairs.schema import from_rows
from assay.score.sides import sides
from conftest import pair

WORDS = ["river", "hill", "town", "snow", "light", "bread", "stone", "winter", "garden", "music", "paper", "window", "silver", "engine", "planet", "forest", "valley", "bridge", "copper", "meadow", "lantern", "harbor"]

N = 240
LEAKED, COPIES, OPPOSED, BENCH = 60, 10, 10, 12


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def made(source: str, rng: random.Random) -> list[dict[str, Any]]:
    return [pair(f"{text(rng, 16)} {source} {i}?", text(rng, rng.randint(8, 12)), text(rng, rng.randint(8, 12)), source=source, category="xy"[i % 2]) for i in range(N)]


def planted(folder: Path) -> tuple[Path, Path]:
    """Pairs of three sources, and a benchmark some of whose prompts are in one."""
    rng = random.Random(0)
    clean, leaky, torn = (made(s, rng) for s in ("clean", "leaky", "torn"))
    leaky[:LEAKED] = [{**r, "rejected": [{"role": "assistant", "content": r["rejected"][0]["content"] + "<|im_end|>"}]} for r in leaky[:LEAKED]]
    leaky += [dict(r) for r in leaky[100 : 100 + COPIES]]
    torn += [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in torn[:OPPOSED]]
    prompts = [r["prompt"][0]["content"] for r in torn[50 : 50 + BENCH]]
    bench = folder / "bench.parquet"
    pl.DataFrame({"prompt": [*prompts, *(text(rng, 20) for _ in range(8))]}).write_parquet(bench)
    pairs = folder / "pairs.parquet"
    write_parquet(pairs, from_rows(clean + leaky + torn))
    return pairs, bench


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    for needed in ("wordllama", "sklearn", "pycld2", "model2vec"):
        pytest.importorskip(needed)
    folder = tmp_path_factory.mktemp("audit")
    pairs, bench = planted(folder)
    return folder, audit(pairs, folder / "work", against={"bench": str(bench)})


def test_every_source_gets_its_verdict(looked: tuple[Path, dict[str, Any]]) -> None:
    sources = looked[1]["sources"]
    assert list(sources) == ["clean", "leaky", "torn"]
    assert sources["clean"]["verdict"] == "fit for training", sources["clean"]["problems"]
    assert sources["clean"]["problems"] == []
    assert sources["leaky"]["verdict"] == "do not train on it as it is"
    assert sources["torn"]["verdict"] == "clean it first"
    assert [s["weight"] for s in sources.values()] == [0, 3, 2]
    said = " ".join(sources["torn"]["problems"])
    assert f"a benchmark's prompt: {BENCH};" in said
    assert f"contradictions: {2 * OPPOSED / (N + OPPOSED):.1%} of the rows" in said
    assert f"markers: {LEAKED / (N + COPIES):.1%} of the rows" in " ".join(sources["leaky"]["problems"])


def test_the_hits_are_the_planted_rows(looked: tuple[Path, dict[str, Any]]) -> None:
    result = looked[1]
    sources = result["sources"]
    assert {s: d["rows"] for s, d in sources.items()} == {"clean": N, "leaky": N + COPIES, "torn": N + OPPOSED}
    hits = {s: {d: n for d, n in v["hits"].items() if n} for s, v in sources.items()}
    assert hits["clean"] == {}
    assert hits["leaky"]["markers"] == hits["leaky"]["shortcuts"] == LEAKED
    assert hits["leaky"]["exact duplicates"] == COPIES
    assert "near duplicates" not in hits["leaky"]  # what is counted as exact is not counted again
    assert hits["torn"]["contradictions"] == 2 * OPPOSED
    assert hits["torn"]["contamination"] == BENCH
    assert "markers" not in hits["torn"]
    assert result["found"]["markers"] == LEAKED
    assert result["contamination"] == {"bench": BENCH}
    assert result["notes"]["contamination"]["references"]["prompts"] == {"bench": BENCH + 8}


def test_figures_of_a_source(looked: tuple[Path, dict[str, Any]]) -> None:
    clean, leaky, torn = looked[1]["sources"].values()
    assert clean["prompts"] == N
    assert torn["prompts"] == N
    assert clean["categories"] == {"x": N // 2, "y": N // 2}
    assert clean["multi_turn"] == 0
    assert sum(clean["languages"].values()) <= 1 + 1e-9
    assert 0.4 < clean["length"]["chosen_longer"] < 0.6
    assert clean["noise"] is None
    assert leaky["shortcut"]["told"] > clean["shortcut"]["told"]
    assert any("im_end" in tell["name"] and tell["side"] == "rejected" for tell in leaky["shortcut"]["tells"])
    assert list(clean["prompt_chars"]) == ["5%", "50%", "95%"]


def test_examples_are_rows_of_the_source_that_were_found(looked: tuple[Path, dict[str, Any]]) -> None:
    folder, result = looked
    rows = {row["id"]: row for row in pl.read_parquet(folder / "pairs.parquet").iter_rows(named=True)}
    sources = result["sources"]
    assert sources["clean"]["examples"] == []
    for name in ("leaky", "torn"):
        examples = sources[name]["examples"]
        assert len(examples) == 5
        assert len({e["id"] for e in examples}) == 5
        for e in examples:
            row = rows[e["id"]]
            assert row["source"] == name
            assert e["prompt"] == row["prompt"][0]["content"]
            assert e["chosen"] == row["chosen"][0]["content"]
            assert e["rejected"] == row["rejected"][0]["content"]
            if e["detector"] in ("markers", "shortcuts"):
                assert "<|im_end|>" in e["rejected"]
            if e["detector"] in ("contradictions", "exact duplicates", "near duplicates"):
                other = rows[e["because_of"]]
                assert other["prompt"] == row["prompt"]
    assert {e["detector"] for e in sources["torn"]["examples"]} >= {"contamination", "contradictions"}
    assert {e["detector"] for e in sources["leaky"]["examples"]} >= {"markers", "exact duplicates"}


def test_what_was_not_looked_for_is_said(looked: tuple[Path, dict[str, Any]]) -> None:
    result = looked[1]
    assert result["not_looked_for"] == ["noise"]
    assert set(result["looked_for"]) == {"exact duplicates", "near duplicates", "contradictions", "markers", "shortcuts", "prompts that say the same", "contamination"}


def test_nothing_is_removed_and_nothing_done_twice(looked: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, result = looked
    before = sha256_file(folder / "pairs.parquet")
    files = {p: p.stat().st_mtime_ns for p in (folder / "work").rglob("*.parquet")}

    def never(*_: Any) -> pl.DataFrame:
        raise AssertionError("done twice")

    for module in MODULES.values():
        monkeypatch.setattr(module, "judge", never)
    monkeypatch.setattr(auditing, "_shape", never)
    assert audit(folder / "pairs.parquet", folder / "work", against={"bench": str(folder / "bench.parquet")}) == result
    assert sha256_file(folder / "pairs.parquet") == before
    assert {p: p.stat().st_mtime_ns for p in (folder / "work").rglob("*.parquet")} == files


@pytest.mark.usefixtures("looked")  # which skips without the packages
def test_a_judge_estimates_noise(tmp_path: Path) -> None:
    rng = random.Random(1)
    turned = set(rng.sample(range(N), N // 4))
    rows = []
    for i in range(N):
        long, short = text(rng, 24), text(rng, 6)
        rows.append(pair(f"{text(rng, 16)} {i}?", *((short, long) if i in turned else (long, short)), source="s"))
    write_parquet(tmp_path / "pairs.parquet", from_rows(rows))
    result = audit(tmp_path / "pairs.parquet", tmp_path / "work", judge="rule:length", score=sides)
    noise = result["sources"]["s"]["noise"]
    assert noise["interval"][0] <= 0.25 <= noise["interval"][1]
    assert result["not_looked_for"] == ["contamination"]
    assert any("of the labels look wrong to the judge" in p for p in result["sources"]["s"]["problems"])


Rows = list[dict[str, Any]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """An audit of rows by the cheapest detector alone."""
    from assay.curate.steps import markers

    for needed in ("pycld2",):
        pytest.importorskip(needed)
    monkeypatch.setattr(auditing, "detectors", lambda *_: {"markers": markers.Config(), "shortcuts": MODULES["shortcuts"].Config(action="drop")})

    def go(rows: Rows, folder: Path, **more: Any) -> dict[str, Any]:
        write_parquet(folder / "pairs.parquet", from_rows(rows))
        return audit(folder / "pairs.parquet", folder / "work", **more)

    return go


def test_other_rows_in_the_same_folder_are_audited_anew(quick: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rng = random.Random(0)
    first, second = made("one", rng)[:20], [{**r, "prompt": [{"role": "user", "content": "word " * 400}, *r["chosen"], *r["prompt"]]} for r in made("two", rng)]
    (tmp_path / "fresh").mkdir()
    fresh = quick(second, tmp_path / "fresh")
    quick(first, tmp_path)
    again = quick(second, tmp_path)
    assert again["sources"]["two"]["multi_turn"] == 1.0
    assert again["sources"] == fresh["sources"]


def test_a_small_source_is_noted(quick: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (source,) = quick(made("few", random.Random(0))[:30], tmp_path)["sources"].values()
    assert source["verdict"] == "fit for training, with a note"
    assert source["problems"] == ["only 30 rows: little can be said"]
    assert source["shortcut"] is None


def test_rows_without_a_source_are_audited_as_none(quick: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [{**r, "source": None} for r in made("x", random.Random(0))]
    rows[0] = {**rows[0], "chosen": [{"role": "assistant", "content": "yes<|im_end|>"}]}
    (item,) = quick(rows, tmp_path)["sources"].items()
    assert item[0] == "(none)"
    assert item[1]["rows"] == N
    assert item[1]["hits"]["markers"] == 1
    assert len(item[1]["examples"]) == 1
    assert item[1]["shortcut"]


def test_length_bias_and_few_prompts_speak_against_a_source(quick: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [pair(f"question {i % 5}", text(rng, 30), text(rng, 3), source="s") for i in range(N)]
    (source,) = quick(rows, tmp_path)["sources"].values()
    assert "the chosen answer is the longer in 100% of the rows" in source["problems"]
    assert "only 5 different prompts: hold out by prompt" in source["problems"]
    assert source["verdict"] == "do not train on it as it is"


@pytest.mark.parametrize(("judge", "trains"), [("minilm", True), ("owner/backbone", True), ("rule:length", False), ("perplexity:smollm2", False), ("mean(a,b)", False)])
def test_what_is_a_scorer_judges_as_it_is(judge: str, trains: bool) -> None:
    noise: Any = auditing.detectors(1_000, {}, judge)["noise"]
    assert noise.scorers == ([] if trains else [judge])
    assert (noise.fit.model == judge) == trains


def test_a_system_message_is_no_turn() -> None:
    system, asked = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}
    rows = [{**pair("x", "yes", "no"), "prompt": prompt} for prompt in ([system, asked], [asked], [asked, {"role": "assistant", "content": "?"}, asked])]
    frame = pl.DataFrame({"prompt": [row["prompt"] for row in rows]}).with_columns(row=pl.int_range(3, dtype=pl.UInt32))
    pytest.importorskip("pycld2")
    assert auditing._shape(frame)["turns"].to_list() == [1, 1, 2]
