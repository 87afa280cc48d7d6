"""The verbs of curation on the command line: what they print, what they exit with, and what they say to mistakes."""

import json
import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from assay.cli import run_app
from assay.curate.steps import MODULES
from assay.files import MANIFEST, read_json

WORDS = ["river", "hill", "town", "snow", "light", "bread", "stone", "winter", "garden", "music", "paper", "window", "silver", "engine", "planet", "forest", "valley", "bridge", "copper", "meadow"]
Capture = pytest.CaptureFixture[str]


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe over two sources with planted faults, and the benchmark it decontaminates against."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    rows = [{"prompt": text(rng, 15) + f" {i}", "chosen": text(rng, 9), "rejected": text(rng, 9), "score": i / 80} for i in range(80)]
    marked = {**rows[3], "rejected": rows[3]["rejected"] + "<|im_end|>"}
    one, two = [marked if i == 3 else r for i, r in enumerate(rows[:40])], [*rows[40:], rows[0]]
    for name, part in (("one", one), ("two", two)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part) + ("not json\n" if name == "one" else ""))
    bench = [rows[5]["prompt"], " ".join([*rows[45]["prompt"].split()[:9], "something", "else"]), text(rng, 12)]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in bench))
    steps = [{"kind": "markers"}, {"kind": "duplicates"}, {"kind": "decontaminate", "against": {"bench": "bench.jsonl"}, "ngram": 7, "coverage": 0.3}, {"kind": "select", "by": "score", "others": 0.9}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "small", "sources": [{"path": "one.jsonl"}, {"path": "two.jsonl"}], "curate": steps}))
    return tmp_path


def said(capsys: Capture, *argv: str, code: int = 0) -> str:
    """What the command prints; it exits as expected, and what went wrong is one message."""
    capsys.readouterr()
    assert run_app(list(argv)) == code, capsys.readouterr().err
    shown = capsys.readouterr()
    if code:
        assert "Traceback" not in shown.err
        progress, found, message = f"\n{shown.err}".partition("\nassay: ")
        assert found, progress
        return message.strip()
    return shown.out


def planted(folder: Path, step: str) -> dict[str, Any]:
    row: dict[str, Any] = pl.read_parquet(folder / "curate" / "ledger.parquet").filter(pl.col("step") == step).sort("score", descending=True).row(0, named=True)
    return row


@pytest.mark.parametrize("kind", MODULES)
def test_explain_names_every_field(kind: str, capsys: Capture) -> None:
    shown = said(capsys, "explain", kind)
    for field in MODULES[kind].Config.model_fields:
        assert re.search(rf"^{field}: .*\n    \S", shown, re.MULTILINE) or field == "kind", field
    assert "typing." not in shown
    assert "assay.curate" not in shown
    assert "PydanticUndefined" not in shown


def test_explain_steps_has_a_line_for_each(capsys: Capture) -> None:
    lines = said(capsys, "explain", "steps").splitlines()
    assert [line.partition(":")[0] for line in lines] == list(MODULES)


def test_curate_and_its_sum(base: Path, capsys: Capture) -> None:
    shown = said(capsys, "curate", "recipe.yaml", "-o", "out")
    assert "01-markers: 81 in, 1 dropped, 80 stay" in " ".join(shown.split())
    assert "81 pairs read = 69 kept + 12 dropped" in shown
    assert "rows near a threshold: assay borderline out/curate" in shown
    assert (base / "out" / "curate" / "kept.parquet").is_file()
    as_json = json.loads(said(capsys, "curate", "recipe.yaml", "-o", "out", "--json"))
    assert (as_json["kept"], as_json["dropped"], as_json["read"]) == (69, 12, 81)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_dry_run_writes_no_curated_set_and_the_real_run_takes_its_verdicts(workers: str, base: Path, capsys: Capture) -> None:
    shown = said(capsys, "curate", "recipe.yaml", "-o", "out", "--dry-run", "--workers", workers)
    assert "81 pairs read = 69 kept + 12 dropped" in shown
    assert "a dry run: no curated set was written" in shown
    assert "curated set:" not in shown
    folder = base / "out" / "curate"
    assert not [p.name for p in folder.iterdir() if p.name in ("kept.parquet", "dropped.parquet", "ledger.parquet", MANIFEST)]
    verdicts = {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/verdicts.parquet")}
    assert len(verdicts) == 4
    assert "not a finished curation" in said(capsys, "why", "out", "abc", code=2)
    real = said(capsys, "curate", "recipe.yaml", "-o", "out")
    assert "dry run" not in real
    assert {p: p.stat().st_mtime_ns for p in folder.glob("steps/*/verdicts.parquet")} == verdicts
    said(capsys, "curate", "recipe.yaml", "-o", "whole")
    for name in ("kept.parquet", "dropped.parquet", "ledger.parquet"):
        assert (folder / name).read_bytes() == (base / "whole" / "curate" / name).read_bytes()


def test_a_dry_run_of_other_steps_does_not_undo_a_curation(base: Path, capsys: Capture) -> None:
    said(capsys, "curate", "recipe.yaml", "-o", "out")
    before = (base / "out" / "curate" / "kept.parquet").read_bytes()
    error = said(capsys, "curate", "recipe.yaml", "-o", "out", "--dry-run", "--set", "curate.select.others=0.5", code=2)
    assert "which a dry run would undo; give another folder" in error
    assert (base / "out" / "curate" / "kept.parquet").read_bytes() == before


def test_a_dry_run_as_json_says_so(base: Path, capsys: Capture) -> None:
    assert json.loads(said(capsys, "curate", "recipe.yaml", "-o", "out", "--dry-run", "--json"))["dry_run"] is True


@pytest.mark.parametrize("verb", [["curate", "recipe.yaml", "-o", "out"], ["run", "recipe.yaml", "-o", "out"], ["audit", "one.jsonl", "-o", "out"]])
@pytest.mark.parametrize("engine", ["nonsense", "Ray", ""])
def test_an_engine_that_is_none(verb: list[str], engine: str, base: Path, capsys: Capture) -> None:
    error = said(capsys, *verb, "--engine", engine, code=2)
    assert "local" in error
    assert "ray" in error
    assert not (base / "out").exists()


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_no_workers(workers: str, base: Path, capsys: Capture) -> None:
    assert "workers: expected at least 1" in said(capsys, "curate", "recipe.yaml", "-o", "out", f"--workers={workers}", code=2)


def test_why_shows_the_benchmark_prompt_and_the_twin(base: Path, capsys: Capture) -> None:
    said(capsys, "curate", "recipe.yaml", "-o", "out")
    bench = [json.loads(line)["prompt"] for line in (base / "bench.jsonl").read_text().splitlines()]
    row = planted(base / "out", "03-decontaminate")
    shown = said(capsys, "why", "out", row["id"])
    assert "dropped by 03-decontaminate" in shown
    assert "03-decontaminate: goes: prompt is in the benchmark (score 1), because of bench:1" in shown
    assert f"named above: bench:1\n    {bench[0]}" in shown
    partly = pl.read_parquet(base / "out" / "curate" / "ledger.parquet").filter((pl.col("step") == "03-decontaminate") & (pl.col("because_of") == "bench:2")).row(0, named=True)
    assert f"named above: bench:2\n    {bench[1]}" in said(capsys, "why", "out/curate", partly["id"][:10])
    twin = planted(base / "out", "02-duplicates")
    shown = said(capsys, "why", "out", twin["id"])
    assert "duplicate pair" in shown
    assert shown.count(twin["id"]) >= 2
    as_json = json.loads(said(capsys, "why", "out", row["id"], "--json"))
    assert as_json[0]["benchmark_prompts"] == {"bench:1": bench[0]}
    assert as_json[0]["path"][-1]["step"] == "03-decontaminate"


def test_why_shows_the_texts_of_a_twin_of_another_id(base: Path, capsys: Capture) -> None:
    near = [json.loads(line) for line in (base / "two.jsonl").read_text().splitlines()]
    near[1] = {**near[2], "prompt": near[2]["prompt"] + " indeed"}
    (base / "two.jsonl").write_text("".join(json.dumps(r) + "\n" for r in near))
    said(capsys, "curate", "recipe.yaml", "-o", "out", "--set", "curate=[{kind: near_duplicates}]")
    row = pl.read_parquet(base / "out" / "curate" / "ledger.parquet").filter((pl.col("step") == "01-near_duplicates") & (pl.col("because_of") != pl.col("id"))).row(0, named=True)
    shown = said(capsys, "why", "out", row["id"])
    assert f"named above: {row['because_of']}" in shown
    assert shown.count(near[2]["prompt"]) >= 2


@pytest.mark.parametrize(("argv", "message"), [
    (["why", "out", "zzz"], "no row has an id that begins with zzz"),
    (["why", "out", ""], "81 rows have an id that begins with"),
    (["why", "nowhere", "a"], "nowhere: not a finished curation"),
    (["borderline", "nowhere"], "nowhere: not a finished curation"),
    (["diff", "out", "nowhere"], "nowhere: not a finished curation"),
])  # fmt: skip
def test_mistakes(argv: list[str], message: str, base: Path, capsys: Capture) -> None:
    said(capsys, "curate", "recipe.yaml", "-o", "out")
    error = said(capsys, *argv, code=2)
    assert message in error or (argv[-1] == "" and "rows have an id" in error)


def test_borderline_lists_the_rows_next_to_each_threshold(base: Path, capsys: Capture) -> None:
    said(capsys, "curate", "recipe.yaml", "-o", "out")
    ledger = pl.read_parquet(base / "out" / "curate" / "ledger.parquet")
    shown = said(capsys, "borderline", "out", "--rows", "2")
    assert "04-select" in shown
    lines = shown.split("04-select")[1].splitlines()[1:]
    assert [line.split()[0] for line in lines if "rank " in line] == ["goes", "goes", "stays", "stays"]
    for line in shown.splitlines():
        if line.startswith("  goes"):
            assert ledger.filter((pl.col("id") == line.split()[1]) & ~pl.col("step").str.starts_with("kept")).height >= 1
    rows = json.loads(said(capsys, "borderline", "out", "--json"))
    assert {"step", "keep", "close", "reason", "because_of", "id", "copy"} == set(rows[0])
    ranks = [int(re.findall(r"rank (\d+)", r["reason"])[0]) for r in rows if r["step"] == "04-select"]
    edge = max(int(r["reason"].split(", ")[1].split()[0]) for r in rows if r["step"] == "04-select")
    assert sorted(ranks) == list(range(edge - 2, edge + 4))


def test_borderline_without_a_threshold(base: Path, capsys: Capture) -> None:
    said(capsys, "curate", "recipe.yaml", "-o", "out", "--set", "curate=[{kind: markers}]")
    assert said(capsys, "borderline", "out").strip() == "no step of this curation has a threshold"


def test_diff(base: Path, capsys: Capture) -> None:
    said(capsys, "curate", "recipe.yaml", "-o", "a")
    said(capsys, "curate", "recipe.yaml", "-o", "b", "--set", "curate.select.others=0.5")
    shown = said(capsys, "diff", "a", "b", "--rows", "3")
    more = read_json(base / "a" / "curate" / MANIFEST)["kept"] - read_json(base / "b" / "curate" / MANIFEST)["kept"]
    assert f"{more} rows differ" in " ".join(shown.split())
    assert len(re.findall(r"^  [0-9a-f]{32}  ", shown, re.MULTILINE)) == 3
    assert "0 rows differ" in " ".join(said(capsys, "diff", "a", "a").split())
    rows = json.loads(said(capsys, "diff", "a", "b", "--json"))
    assert {(r["in_a"], r["in_b"]) for r in rows} == {("kept", "04-select")}
    assert len(rows) == more


def test_self_test_counts_what_was_planted(base: Path, capsys: Capture) -> None:
    shown = said(capsys, "self-test", "recipe.yaml", "--workers", "1")
    assert "nothing: rows as they are" in shown
    found = {r["kind"]: r for r in json.loads(said(capsys, "self-test", "recipe.yaml", "--workers", "1", "--json"))}
    assert list(found) == ["as they are", "verbatim", "re-wrapped", "embedded", "paraphrased"]
    assert (found["as they are"]["planted"], found["as they are"]["dropped"]) == (81, 2)
    for kind in ("verbatim", "re-wrapped", "embedded"):
        assert found[kind]["planted"] == found[kind]["dropped"] == 3, kind
        low, high = found[kind]["interval"]
        assert low < 1 <= high
    assert not (base / "out").exists()


def test_self_test_needs_the_step(base: Path, capsys: Capture) -> None:
    assert said(capsys, "self-test", "recipe.yaml", "--set", "curate=[{kind: markers}]", code=2) == "the recipe has no `decontaminate` step to be tested"


@pytest.fixture
def _audit_extra() -> None:
    for needed in ("wordllama", "sklearn", "pycld2", "model2vec"):
        pytest.importorskip(needed)


@pytest.mark.usefixtures("_audit_extra")
def test_audit(base: Path, capsys: Capture) -> None:
    shown = said(capsys, "audit", "one.jsonl", "two.jsonl", "-o", "out", "--against", "bench=bench.jsonl", "--judge", "rule:length", "--workers", "1")
    assert "81 pairs, 2 sources" in shown
    assert "page: out/audit.html" in shown
    assert "not looked for" not in shown
    assert re.search(r"^one: clean it first\n  rows with a benchmark's prompt: 1;.*\n  markers: 2.5% of the rows\n", shown, re.MULTILINE), shown
    assert re.search(r"^two: clean it first\n  exact duplicates: 2.4% of the rows\n", shown, re.MULTILINE), shown
    found = read_json(base / "out" / "audit.json")
    assert found["rows"] == 81
    assert found["contamination"] == {"bench": 1}
    assert found["sources"]["one"]["hits"]["markers"] == 1
    page = (base / "out" / "audit.html").read_text()
    assert "one.jsonl, two.jsonl" in page
    again = json.loads(said(capsys, "audit", "one.jsonl", "two.jsonl", "-o", "out", "--against", "bench=bench.jsonl", "--judge", "rule:length", "--json", "--workers", "1"))
    assert again == found


@pytest.mark.usefixtures("_audit_extra")
def test_audit_says_what_it_did_not_look_for(base: Path, capsys: Capture) -> None:
    shown = said(capsys, "audit", "one.jsonl", "-o", "out", "--workers", "1")
    assert "not looked for: contamination, noise (see `assay audit --help`)" in shown


@pytest.mark.parametrize(("argv", "message"), [
    ([], "nothing to audit: give files, folders or hub ids"),
    (["nowhere.jsonl"], "nowhere.jsonl: no such file or folder, and not a hub id"),
    (["one.jsonl", "--against", "nowhere.jsonl"], "nowhere.jsonl: no such file or folder"),
    (["one.jsonl", "--judge", "rule:lenght"], "unknown rule `rule:lenght`. Did you mean `rule:length`?"),
    (["one.jsonl", "--judge", "no/such/judge/at/all"], "no/such/judge/at/all"),
])  # fmt: skip
def test_mistakes_of_an_audit(argv: list[str], message: str, base: Path, capsys: Capture) -> None:
    error = said(capsys, "audit", *argv, "-o", "out", "--workers", "1", code=2)
    assert message in error
    assert not (base / "out" / "audit.html").exists()


def test_an_audit_does_not_write_into_a_folder_of_other_things(base: Path, capsys: Capture) -> None:
    folder = base / "mine" / "work"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    error = said(capsys, "audit", "one.jsonl", "-o", "mine", "--workers", "1", code=2)
    assert "holds nothing of Assay's" in error
    assert (folder / "thesis.txt").read_text() == "years of work"
