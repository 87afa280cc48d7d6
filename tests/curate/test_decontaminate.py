"""Decontamination against a slow twin, known benchmarks in a data root, and the self-test with planted prompts."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.curate import ledger, selftest
from assay.curate.embeddings import embed
from assay.curate.kernels.text import words
from assay.curate.runner import curate
from assay.curate.selftest import PLANTS, Recall, rows_of, self_test
from assay.curate.steps import decontaminate, markers
from assay.errors import AssayError
from assay.evaluate.intervals import wilson
from assay.files import read_json
from assay.pairs.schema import from_rows
from conftest import pair, turn
from curate.conftest import Rows, Run, hashes, judged, tagged

Config = decontaminate.Config

WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "re", "sta", "tre", "vor", "wen", "zil") for b in ("", "an", "bel", "cor", "dim", "el", "fus", "gar")]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def bench(folder: Path, *prompts: str) -> dict[str, str]:
    return {"bench": str(jsonl(folder / "bench.jsonl", [{"prompt": prompt} for prompt in prompts]))}


def asks(*prompts: str) -> Rows:
    return tagged(*((prompt, "yes", "no") for prompt in prompts))


def text(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))


# against the slow twin


def slow(prompt: str, references: list[str], config: Config) -> bool:
    """Whether a prompt goes."""
    said = tuple(words(prompt))

    def grams(of: tuple[str, ...], n: int) -> set[tuple[str, ...]]:
        return {of[i : i + n] for i in range(len(of) - n + 1)}

    for reference in references:
        theirs = tuple(words(reference))
        if len(theirs) < config.min_words:
            continue
        if said == theirs:
            return True
        if len(theirs) >= config.ngram:
            shared = grams(said, config.ngram) & grams(theirs, config.ngram)
            if shared and len(shared) / len(grams(theirs, config.ngram)) >= config.coverage:
                return True
        elif config.short is not None and len(theirs) >= config.short and theirs in grams(said, len(theirs)):
            return True
    return False


FEW = st.lists(st.sampled_from(["a", "b", "C.", "\n", "é", "今天"]), max_size=12).map(" ".join)
CONFIGS = st.builds(dict, ngram=st.integers(2, 6), short=st.none() | st.integers(1, 6), min_words=st.integers(1, 5), coverage=st.sampled_from([0.0, 0.3, 0.5, 1.0]))


@settings(deadline=None, max_examples=25)
@given(st.lists(FEW, min_size=1, max_size=6), st.lists(FEW, min_size=1, max_size=6), CONFIGS)
@example(["a b a b a C. é é"], ["a b a b a a a a a", "C. é"], {"ngram": 4, "short": 2, "min_words": 2, "coverage": 0.5})
def test_what_goes_is_what_the_slow_twin_says(prompts: list[str], references: list[str], fields: dict[str, Any]) -> None:
    if not any(reference.strip() for reference in references):
        references = [*references, "x"]
    with tempfile.TemporaryDirectory() as name:
        config = Config(against=bench(Path(name), *references), **fields)
        said = judged(asks(*prompts), config, Path(name) / "c")
    gone = {prompt[0]["content"]: keep is False for prompt, keep in said.select("prompt", "keep").iter_rows()}
    assert gone == {prompt: slow(prompt, references, config) for prompt in prompts}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("coverage", [0.0, 0.4])
def test_generated_prompts(seed: int, coverage: float, tmp_path: Path) -> None:
    rng = random.Random(seed)
    references = [text(rng, 1, 40) for _ in range(80)]
    prompts = [text(rng, 1, 60) for _ in range(60)]
    for reference in references:
        said = reference.split()
        part = said[rng.randint(0, len(said) - 1) :]
        prompts += [reference, f"{text(rng, 1, 9)} {reference.upper()} {text(rng, 1, 9)}", f"{text(rng, 0, 9)} {' '.join(part)} {text(rng, 1, 9)}", f"{reference} {rng.choice(references)}"]
    config = Config(against=bench(tmp_path, *references), coverage=coverage)
    said = judged(asks(*prompts), config, tmp_path / "c", shards=3)
    gone = {row["prompt"][0]["content"] for row in said.filter(~said["keep"]).iter_rows(named=True)}
    assert gone == {prompt for prompt in prompts if slow(prompt, references, config)}
    assert len(gone) > 150


@pytest.mark.parametrize("short", [None, 5])
@pytest.mark.parametrize("between", [" ", " \n" * 50, " ---------------- ", " ... " * 20], ids=["a space", "lines", "dashes", "dots"])
def test_a_whole_prompt_is_found_however_it_is_spaced(run: Run, tmp_path: Path, between: str, short: int | None) -> None:
    for prompt in ("Who painted the ceiling", "Who painted the old ceiling of the church"):
        found = run(asks(between.join(prompt.split())), Config(against=bench(tmp_path, prompt), short=short))
        assert found.gone["0"]["reason"] == "prompt is in the benchmark"


@pytest.mark.parametrize("short", [None, 5])
def test_a_whole_prompt_shorter_than_a_long_ngram_is_found(run: Run, tmp_path: Path, short: int | None) -> None:
    prompt = text(random.Random(1), 45, 45)
    assert len(prompt) > 200
    found = run(asks(prompt, f"{prompt}!"), Config(against=bench(tmp_path, prompt), ngram=50, short=short))
    assert {found.reason(tag) for tag in "01"} == {"prompt is in the benchmark"}


def test_a_little_of_one_prompt_does_not_hide_the_whole_of_another(run: Run, tmp_path: Path) -> None:
    rng = random.Random(2)
    long, short = text(rng, 60, 60), text(rng, 8, 8)
    little = " ".join(long.split()[:13])
    config = Config(against=bench(tmp_path, long, short), coverage=0.5)
    assert run(asks(f"{little} and {short} too"), config).kept == set()
    assert run(asks(f"{little} and something else"), config).kept == {"0"}


@pytest.mark.parametrize(("short", "gone"), [(1, "01234"), (4, "01234"), (5, "0123"), (6, "012"), (8, "01"), (12, "0"), (13, ""), (20, ""), (None, "")])
def test_the_tier_of_short_prompts(run: Run, tmp_path: Path, short: int | None, gone: str) -> None:
    rng = random.Random(3)
    prompts = [text(rng, n, n) for n in (12, 8, 6, 5, 4, 3)]
    found = run(asks(*(f"now then: {prompt}, and then?" for prompt in prompts)), Config(against=bench(tmp_path, *prompts), short=short))
    assert set(found.gone) == set(gone)
    assert {found.reason(tag) for tag in gone} == {f"holds a whole benchmark prompt: \"{prompts[int(tag)]}\", from word 2" for tag in gone}


def test_short_is_five_by_default() -> None:
    assert Config(against={"x": "x"}).short == 5


def test_a_verdict_shows_the_words_and_where_they_are_on_both_sides(run: Run, tmp_path: Path) -> None:
    rng = random.Random(4)
    reference = text(rng, 30, 30)
    part = reference.split()[10:25]
    prompt = f"one two three {' '.join(part).upper()} four five"
    found = run(asks(prompt), Config(against=bench(tmp_path, "another one that is here", reference)))
    line = found.gone["0"]
    assert (line["because_of"], line["score"]) == ("bench:2", 3 / 18)
    assert line["reason"] == f"shares 17% of a benchmark prompt's 13-grams: \"{' '.join(part)}\", from word 3"
    assert found.verdicts()["0"]["close"] == 3 / 18
    said = words(prompt)
    assert said[3 : 3 + len(part)] == part


# benchmarks by name


HUB = {
    "allenai/reward-bench": ["data/filtered-00000-of-00001.parquet", "data/raw-00000-of-00001.parquet"],
    "allenai/reward-bench-2": ["data/test-00000-of-00001.parquet"],
    "THU-KEG/RM-Bench": ["total_dataset.json"],
    "ScalerLab/JudgeBench": ["data/claude-00000-of-00001.parquet", "data/gpt-00000-of-00001.parquet"],
    "lmarena-ai/PPE-Human-Preference-V1": ["data/test-00000-of-00001.parquet"],
    "lmarena-ai/PPE-MMLU-Pro-Best-of-K": ["data/train-00000-of-00001.parquet"],
    "lmarena-ai/PPE-MATH-Best-of-K": ["data/train-00000-of-00001.parquet"],
    "lmarena-ai/PPE-GPQA-Best-of-K": ["data/train-00000-of-00001.parquet"],
    "lmarena-ai/PPE-IFEval-Best-of-K": ["data/train-00000-of-00001.parquet"],
    "lmarena-ai/PPE-MBPP-Plus-Best-of-K": ["data/train-00000-of-00001.parquet"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of every known benchmark, laid out as on the hub; each file has a prompt that names it."""
    for name, files in HUB.items():
        for file in files:
            path = tmp_path / "root" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            column = "question" if "JudgeBench" in name else "prompt"
            rows = [{column: asked_by(name, file), "n": 1}, {column: "hi", "n": 2}]
            if file.endswith(".json"):
                path.write_text(json.dumps(rows))
            else:
                pl.DataFrame(rows).write_parquet(path)
    return tmp_path / "root"


def asked_by(name: str, file: str) -> str:
    return f"What is asked by {name.replace('/', ' ').replace('-', ' ')} in {Path(file).name.split('-')[0].split('_')[0]}?"


@pytest.mark.parametrize("name", sorted(decontaminate.BENCHMARKS))
def test_known_benchmarks_go_by_name(name: str, root: Path, run: Run) -> None:
    wanted = {(dataset, split) for dataset, split in decontaminate.BENCHMARKS[name]}
    prompts = {asked_by(dataset, file): any(dataset == d and (file.split("/")[-1].startswith(split) or "RM-Bench" in d) for d, split in wanted) for dataset, files in HUB.items() for file in files}
    found = run(asks(*prompts), Config(against={"it": name}), data_root=root)
    assert set(found.gone) == {str(i) for i, there in enumerate(prompts.values()) if there}
    assert {line["because_of"].split(":")[0] for line in found.gone.values()} == {"it"}
    assert found.notes[0]["references"]["prompts"] == {"it": sum(prompts.values()) + 1}


def test_both_parts_of_judgebench_are_looked_for(root: Path) -> None:
    found = decontaminate.references(Config(against={"judge": "judgebench"}), root)
    assert sum("JudgeBench" in prompt for prompt in found["text"]) == 2
    assert {prompt.split(" in ")[1] for prompt in found["text"] if " in " in prompt} == {"gpt?", "claude?"}


def test_every_known_benchmark_has_a_data_set() -> None:
    assert set(decontaminate.BENCHMARKS) == {"rewardbench", "rewardbench2", "rm-bench", "judgebench", "ppe", "ppe-preference", "ppe-correctness"}
    assert {dataset for parts in decontaminate.BENCHMARKS.values() for dataset, _ in parts} == set(HUB)


def test_several_benchmarks_a_file_among_them(root: Path, run: Run, tmp_path: Path) -> None:
    rmb = jsonl(tmp_path / "rmb.jsonl", [{"conversation_input": "no"}, {"prompt": [turn("user", "Where do the swallows go in winter")]}])
    first = {name: asked_by(name, files[0]) for name, files in HUB.items()}
    rows = asks(first["allenai/reward-bench"], first["THU-KEG/RM-Bench"], "So where do the swallows go in winter?", "Something else that nobody asks")
    found = run(rows, Config(against={"rmb": str(rmb), "rewardbench": "rewardbench", "bench": "rm-bench"}), data_root=root)
    assert {tag: line["because_of"] for tag, line in found.gone.items()} == {"0": "rewardbench:1", "1": "bench:1", "2": "rmb:2"}


@pytest.mark.parametrize("split", ["filtered", "raw"])
def test_the_split_of_a_data_set_by_its_id(split: str, root: Path) -> None:
    found = decontaminate.references(Config(against={"x": "allenai/reward-bench"}, split=split), root)
    assert [prompt for prompt in found["text"] if prompt != "hi"] == [asked_by("allenai/reward-bench", f"{split}-0")]


def test_references_are_kept_under_the_hash_of_their_content(tmp_path: Path) -> None:
    rows = from_rows(asks("Who painted the ceiling", "else"))
    notes = []
    for i, prompts in enumerate([("Who painted the ceiling", "and what for?"), ("and what for?", "Who painted the ceiling"), ("Who painted the ceiling", "and what for!")]):
        done = curate(rows, [Config(against=bench(tmp_path, *prompts))], tmp_path / str(i))
        (account,) = done.manifest["accounts"]
        note = account["notes"]["references"]
        assert note["prompts"] == {"bench": 2}
        kept = list((done.folder / "steps" / "01-decontaminate" / "references").iterdir())
        assert [path.name for path in kept] == [f"{note['content']}.parquet"]
        assert set(pl.read_parquet(kept[0])["text"]) == set(prompts)
        assert read_json(done.folder / "steps" / "01-decontaminate" / "manifest.json")["notes"]["references"] == note
        notes.append(note["content"])
    assert len(set(notes)) == 3


def test_order_shards_and_processes_change_nothing(tmp_path: Path) -> None:
    rng = random.Random(5)
    references = [text(rng, 3, 30) for _ in range(30)]
    rows = asks(*(f"{text(rng, 0, 5)} {r} {text(rng, 0, 5)}" for r in references), *(text(rng, 3, 30) for _ in range(30)))
    config = Config(against=bench(tmp_path, *references), cosine=0.8)
    expected = hashes(rows, [config])
    rng.shuffle(rows)
    assert hashes(rows, [config], shards=9) == expected


# meaning


def test_cosine_marks_and_never_drops(run: Run, tmp_path: Path) -> None:
    against = bench(tmp_path, "How do I boil an egg?", "Explain how a bicycle stays upright.")
    rows = asks("What is the way to boil an egg?", "How do I boil an egg", "What is the capital of France?")
    found = run(rows, Config(against=against, cosine=0.9))
    assert found.kept == {"0", "2"}
    said = found.verdicts()
    assert set(said) == {"0", "1"}
    cosine = float(embed(["What is the way to boil an egg?"])[0] @ embed(["How do I boil an egg?"])[0])
    line = said["0"]
    assert (line["keep"], line["because_of"], line["reason"]) == (True, "bench:1", f"near a benchmark prompt in meaning, cosine {round(line['score'], 3)}: \"How do I boil an egg?\"")
    assert abs(line["score"] - cosine) < 2e-3
    assert said["1"]["reason"] == "prompt is in the benchmark"
    assert set(run(rows, Config(against=against)).verdicts()) == {"1"}


def test_the_nearest_in_meaning_is_the_one_of_the_whole_matrix(tmp_path: Path) -> None:
    rng = random.Random(6)
    kinds = ["boil", "egg", "pan", "capital", "France", "sort", "list", "Python", "play", "write"]
    references = sorted({" ".join(rng.choices(kinds, k=4)) for _ in range(40)})
    prompts = sorted({" ".join(rng.choices(kinds, k=3)) for _ in range(60)})
    said = judged(asks(*prompts), Config(against=bench(tmp_path, *references), cosine=0.7, min_words=20), tmp_path / "c")
    whole = embed([p[0]["content"] for p in said["prompt"]]) @ embed(references).T
    for near, row in zip(whole, said.iter_rows(named=True), strict=True):
        best = float(near.max())
        if abs(best - 0.7) > 2e-3:
            assert (row["keep"] is True) == (best >= 0.7)
        if row["keep"]:
            assert abs(row["score"] - best) < 2e-3
            at = int(row["because_of"].split(":")[1]) - 1
            assert near[at] > best - 2e-3
            assert np.isclose(row["score"], near[at], atol=2e-3)


# the self-test


def own(n: int, rng: random.Random) -> pl.DataFrame:
    return from_rows([pair(f"own {i} {text(rng, 5, 40)}", f"yes {i}", "no", source="ab"[i % 2], score=float(i)) for i in range(n)])


@pytest.mark.parametrize(("rows", "prompts", "planted"), [(200, 20, 20), (80, 40, 10), (8, 5, 1), (15, 5, 1)])
def test_plants_are_found(rows: int, prompts: int, planted: int, tmp_path: Path) -> None:
    rng = random.Random(7)
    against = bench(tmp_path, *(f"{text(rng, 13, 40).capitalize()}, {text(rng, 4, 9)}: {text(rng, 2, 5)}?" for _ in range(prompts)))
    found = {r.kind: r for r in self_test(own(rows, rng), [markers.Config(), Config(against=against, only=["a"])], tmp_path / "work")}
    assert list(found) == ["as they are", *PLANTS]
    assert found["as they are"] == Recall("as they are", rows, 0, 0, wilson(0, rows))
    for kind in PLANTS:
        assert found[kind].planted == planted
        assert found[kind].interval == wilson(found[kind].dropped, planted)
        assert found[kind].dropped + found[kind].marked <= planted
    for kind in ("verbatim", "re-wrapped", "embedded"):
        assert found[kind].dropped == planted
    assert rows_of(list(found.values()))[1] == {"kind": "verbatim", "planted": planted, "dropped": planted, "marked": 0, "interval": list(wilson(planted, planted))}


def test_rows_that_are_contaminated_already_carry_nothing(tmp_path: Path) -> None:
    rng = random.Random(8)
    references = [text(rng, 13, 30) for _ in range(12)]
    there = from_rows([pair(prompt, "yes", "no", source="a", score=0.0) for prompt in references[:5]])
    rows = pl.concat([own(60, rng), there])
    found = {r.kind: r for r in self_test(rows, [Config(against=bench(tmp_path, *references))], tmp_path / "work")}
    assert (found["as they are"].planted, found["as they are"].dropped) == (65, 5)
    assert all(found[kind].planted == 60 // 8 for kind in PLANTS)
    assert found["verbatim"].dropped == 60 // 8


def test_short_prompts_are_found_verbatim_and_rewrapped(tmp_path: Path) -> None:
    rng = random.Random(9)
    against = bench(tmp_path, *(f"{text(rng, 4, 12)}?" for _ in range(30)))
    found = {r.kind: r for r in self_test(own(300, rng), [Config(against=against)], tmp_path / "work")}
    assert [found[kind].dropped for kind in ("verbatim", "re-wrapped")] == [30, 30]
    none = {r.kind: r for r in self_test(own(300, rng), [Config(against=against, short=None)], tmp_path / "none")}
    assert [none[kind].dropped for kind in ("verbatim", "re-wrapped", "embedded")] == [30, 30, 0]


def test_paraphrases_are_marked_by_meaning(tmp_path: Path) -> None:
    prompts = [f"Explain in simple sentences how {thing} were invented. Describe who invented them, and discuss the consequences." for thing in ("bicycles", "telescopes", "printing presses", "steam engines", "computers")]
    rows = own(80, random.Random(10))
    config = Config(against=bench(tmp_path, *prompts))
    plain = self_test(rows, [config], tmp_path / "a")[-1]
    meaning = self_test(rows, [config.model_copy(update={"cosine": 0.6})], tmp_path / "b")[-1]
    assert (plain.kind, plain.planted, plain.marked) == ("paraphrased", 5, 0)
    assert meaning.marked + meaning.dropped >= 4
    assert meaning.dropped == plain.dropped


def test_the_same_seed_plants_the_same(tmp_path: Path) -> None:
    rng = random.Random(11)
    rows, config = own(100, rng), Config(against=bench(tmp_path, *(text(rng, 6, 30) for _ in range(30))))
    one = self_test(rows, [config], tmp_path / "a", seed=3)
    assert self_test(rows.reverse(), [config], tmp_path / "b", seed=3) == one


def test_two_steps_are_tested_together(tmp_path: Path) -> None:
    rng = random.Random(12)
    files = [bench(tmp_path / name, *(text(rng, 13, 30) for _ in range(6))) for name in "ab"]
    found = {r.kind: r for r in self_test(own(200, rng), [Config(against=against) for against in files], tmp_path / "work")}
    assert (found["verbatim"].planted, found["verbatim"].dropped) == (12, 12)


def test_a_recipe_without_the_step(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="the recipe has no `decontaminate` step to be tested"):
        self_test(own(20, random.Random(0)), [markers.Config()], tmp_path / "work")


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_too_few_rows_to_plant_in(rows: int, tmp_path: Path) -> None:
    table = own(8, random.Random(0)).head(rows)
    with pytest.raises(AssayError, match=f"the self-test needs at least 8 clean rows to plant in, found {rows}"):
        self_test(table, [Config(against=bench(tmp_path, "Who painted the ceiling of the old church"))], tmp_path / "work")


def test_no_prompt_long_enough_to_plant(tmp_path: Path) -> None:
    with pytest.raises(AssayError) as told:
        self_test(own(40, random.Random(0)), [Config(against=bench(tmp_path, "hi", "hello there"))], tmp_path / "work")
    assert "8 clean rows" not in str(told.value)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("What is 7 + 8?", "prompt is in the benchmark"),
        ("what is\n7 + 8", "prompt is in the benchmark"),
        ("What is 7 - 8?", None),
        ("What is 7 8?", None),
        ("Tell me: what is 17 + 18 in words?", "holds a whole benchmark prompt"),
        ("Tell me: what is 17 - 18 in words?", None),
        ("Is C++ or C# the better language, and why is that so, and since when?", "holds a whole benchmark prompt"),
        ("Is C or C the better language, and why is that so, and since when?", None),
        ("Add the numbers 1 - 2 - 3 - 4 - 5 - 6 - 7 - 8 - 9 - 10", "prompt is in the benchmark"),
    ],
)
def test_short_prompts_must_have_the_same_signs(prompt: str, reason: str | None, tmp_path: Path) -> None:
    against = bench(tmp_path, "What is 7 + 8?", "what is 17 + 18 in words", "is C++ or C# the better language", "Add the numbers 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10")
    done = curate(from_rows([pair(prompt, "yes", "no")]), [Config(against=against)], tmp_path / "out")
    ledger = pl.read_parquet(tmp_path / "out" / "ledger.parquet")
    assert done.manifest["dropped"] == (reason is not None)
    assert (ledger["reason"][0] or "").startswith(reason or "")


def test_prompts_are_planted_by_the_words_the_step_counts(tmp_path: Path) -> None:
    """Three words with signs between them are three; a Chinese prompt has a word a character."""
    rng = random.Random(13)
    chinese = [f"今天北京的天气怎么样{c}我想知道明天会不会下雨" for c in "一二三四"]
    found = {r.kind: r for r in self_test(own(100, rng), [Config(against=bench(tmp_path, *chinese, "x + y = ?", "a - b - c"))], tmp_path / "work")}
    assert (found["verbatim"].planted, found["verbatim"].dropped) == (4, 4)


@pytest.mark.parametrize("column", ["flipped", "copy", "row_id", "prompt_id", "planted"])
def test_a_set_that_was_curated_before_can_be_tested(column: str, tmp_path: Path) -> None:
    rng = random.Random(14)
    rows = own(40, rng).with_columns(pl.lit("x").alias(column))
    found = self_test(rows, [Config(against=bench(tmp_path, text(rng, 13, 30)))], tmp_path / "work")
    assert [(r.kind, r.dropped) for r in found][1] == ("verbatim", 1)


@pytest.mark.parametrize("prompt", [[], [turn("system", "be brief")], [turn("user", "hi"), turn("assistant", "hello"), turn("user", "and now?")], [turn("system", "be brief"), turn("user", "hi")]])
def test_rows_with_prompts_of_any_form_are_planted_in(prompt: list[dict[str, str]], tmp_path: Path) -> None:
    rng = random.Random(15)
    rows = from_rows([{**pair("", f"yes {i}", "no"), "prompt": prompt} for i in range(24)])
    found = {r.kind: r for r in self_test(rows, [Config(against=bench(tmp_path, *(text(rng, 13, 30) for _ in range(3))))], tmp_path / "work")}
    assert [found[kind].dropped for kind in ("verbatim", "re-wrapped", "embedded")] == [3, 3, 3]


@pytest.mark.parametrize("plant", [selftest.verbatim, selftest.rewrapped])
def test_a_rewrapped_prompt_has_the_same_words(plant: Any) -> None:
    rng = random.Random(16)
    for _ in range(50):
        prompt = f"{text(rng, 1, 20).capitalize()}: {text(rng, 1, 20)}, «Straße», 3,5 {text(rng, 1, 9)}; {text(rng, 1, 3)}?"
        assert words(plant(prompt, "carrier", rng)) == words(prompt)


def test_a_prompt_of_two_benchmarks_counts_for_both(tmp_path: Path, run: Run) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in (f"only in benchmark {name} here", "what is the capital of France")))
    config = decontaminate.Config(against={name: str(tmp_path / f"{name}.jsonl") for name in ("b", "a")})
    found = run(tagged(("What is the capital of France?", "Paris", "Rome"), ("only in benchmark b here", "yes", "no"), ("another question altogether", "yes", "no")), config)
    assert {tag: row["because_of"] for tag, row in found.gone.items()} == {"0": "a:2 and b:2", "1": "b:1"}
    assert found.notes[0]["references"]["prompts"] == {"a": 2, "b": 2}
    (why,) = ledger.why(found.folder, found.gone["0"]["id"])
    assert why.benchmark_prompts == {"a:2 and b:2": "what is the capital of France"}


def test_the_published_rows_of_rmb_have_prompts(tmp_path: Path, run: Run) -> None:
    (tmp_path / "rmb.json").write_text(json.dumps([{"conversation_input": [{"role": "user", "content": "Name the largest planet of all"}], "chosen": {"answer": "Jupiter"}, "reject": {"answer": "Mars"}}]))
    found = run(tagged(("name the largest planet of all", "Jupiter", "Mars")), decontaminate.Config(against={"rmb": str(tmp_path / "rmb.json")}))
    assert set(found.gone) == {"0"}
