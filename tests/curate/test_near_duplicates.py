"""Near duplicates against the slow twin that compares every text with every other as sets of word n-grams."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assay.curate import runner
from assay.curate.kernels import minhash
from assay.curate.kernels.text import words
from assay.curate.runner import curate
from assay.curate.steps import near_duplicates
from assay.errors import AssayError
from assay.pairs.schema import answer_text, from_rows
from conftest import pair, turn
from curate.conftest import Outcome, Rows, Run, hashes, judged, pooled

Config = near_duplicates.Config

WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "re", "sta", "tre", "vor", "wen", "zil") for b in ("", "an", "bel", "cor", "dim", "el", "fus", "gar")]


def shingles(text: str, config: Config) -> set[tuple[str, ...]]:
    said = words(text)
    width = config.shingle if len(said) >= max(config.shingle, config.short, 2) else min(2, len(said))
    return {tuple(said[i : i + width]) for i in range(len(said) - width + 1)} if said else set()


def jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def texts_of(row: dict[str, Any], config: Config) -> list[str]:
    prompt = "\n".join(m["content"] for m in row["prompt"] if m["role"] == "user")
    return [prompt] if config.text == "prompt" else [prompt, answer_text(row["chosen"]), answer_text(row["rejected"])]


def slow(rows: list[dict[str, Any]], config: Config) -> dict[tuple[int, int], float]:
    """The similarity of all pairs of rows that have a word."""
    sets = [[shingles(text, config) for text in texts_of(row, config)] for row in rows]
    some = [i for i, each in enumerate(sets) if any(each)]
    return {(a, b): min(map(jaccard, sets[a], sets[b])) for a, b in itertools.combinations(some, 2)}


def edited(text: str, rng: random.Random, edits: int) -> str:
    """The text with some words replaced, left out or put in, and written another way."""
    said = text.split(" ")
    for _ in range(edits):
        at = rng.randrange(len(said))
        said[at : at + rng.choice([0, 1, 1])] = rng.choice([[], [rng.choice(WORDS)]])
        said = said or [rng.choice(WORDS)]
    return rng.choice([" ", "\n", ", "]).join(rng.choice([w, w.upper()]) for w in said)


def generated(seed: int, groups: int = 40, least: int = 1, most: int = 90) -> Rows:
    """Groups of rows that are edits of one another, of texts of all lengths."""
    rng = random.Random(seed)
    rows = []
    for _ in range(groups):
        base = [" ".join(rng.choices(WORDS, k=rng.randint(least, most))) for _ in range(3)]
        for _ in range(rng.choice([1, 2, 3, 6])):
            rows.append(pair(*(edited(text, rng, rng.choice([0, 0, 1, 1, 2, 4])) for text in base), tag=str(len(rows)), score=float(rng.randint(0, 3))))
    return rows


def components(nodes: int, edges: list[tuple[int, int]]) -> list[set[int]]:
    group = {i: {i} for i in range(nodes)}
    for a, b in edges:
        if group[a] is not group[b]:
            group[a] |= group[b]
            for other in group[b]:
                group[other] = group[a]
    return [g for g in {id(g): g for g in group.values()}.values() if len(g) > 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("config", [Config(), Config(jaccard=0.6, shingle=2, permutations=256), Config(jaccard=0.5, shingle=5, short=8), Config(text="pair"), Config(text="pair", jaccard=0.5, shingle=1)], ids=str)
def test_what_goes_is_what_the_slow_twin_says(seed: int, config: Config, tmp_path: Path) -> None:
    table = judged(generated(seed), config, tmp_path)
    rows = list(table.iter_rows(named=True))
    true = slow(rows, config)
    twins = [edge for edge, similarity in true.items() if similarity >= config.jaccard]
    must = {i for group in components(len(rows), twins) for i in group} - {min(g) for g in components(len(rows), twins)}
    gone = {i for i, row in enumerate(rows) if row["keep"] is False}
    assert len(must) > 5
    assert gone <= {i for edge in twins for i in edge}
    assert len(gone & must) >= 0.98 * len(must)
    assert not gone - must
    by_id = {row["id"]: i for i, row in enumerate(rows)}
    for i in gone:
        kept = by_id[rows[i]["because_of"]]
        assert kept not in gone
        similarity = rows[i]["score_v"]
        assert similarity in {true[tuple(sorted((i, j)))] for j in range(len(rows)) if j != i and tuple(sorted((i, j))) in true}
        assert similarity >= config.jaccard
        assert rows[i]["close"] == similarity - config.jaccard


@pytest.mark.parametrize("text", ["prompt", "pair"])
def test_the_similarities_found_are_the_true_ones(text: str, tmp_path: Path) -> None:
    config = Config(text=text, jaccard=0.5)
    context = pooled(generated(9), tmp_path)
    rows = list(context.texts(context.alive).iter_rows(named=True))
    columns = ["prompt", "chosen", "rejected"][: 1 if text == "prompt" else 3]
    found = near_duplicates._checked(np.array(list(slow(rows, config))), context.alive, columns, config, context)
    assert {(a, b): s for a, b, s in found.iter_rows()} == {edge: s for edge, s in slow(rows, config).items() if s >= config.jaccard - near_duplicates.NEAR_MISS}


SENTENCE = "the quick brown fox jumps over the lazy dog while seven other animals look on and wonder what the hurry is all about today"


def changed(*places: int) -> str:
    """The sentence with words exchanged: one in the middle changes three of its 22 shingles, the first one."""
    said = SENTENCE.split()
    for place in places:
        said[place] = f"changed{place}"
    return " ".join(said)


def table(*prompts: str, **more: Any) -> Rows:
    return [pair(prompt, f"yes {i}", f"no {i}", tag=str(i), **more) for i, prompt in enumerate(prompts)]


def test_the_best_stays_and_every_row_that_goes_names_it(run: Run) -> None:
    rows = [{**row, "score": score} for row, score in zip(table(SENTENCE, changed(0), changed(-1), "something else"), [1.0, 5.0, None, 9.0], strict=True)]
    found = run(rows, Config(best="score"))
    assert found.kept == {"1", "3"}
    assert {tag: found.twin(tag) for tag in found.gone} == {"0": "1", "2": "1"}
    assert found.reason("0").startswith("near duplicate, one of 3: Jaccard 0.9")
    assert " with " not in found.reason("0") or found.tags[found.reason("0").split(" with ")[1]] == "2"
    nearest = found.reason("2").split(" with ")
    assert found.tags[nearest[1]] == "0"


@pytest.mark.parametrize("scores", [[None, None, None], [2.0, 2.0, 2.0], [float("nan"), None, None]])
def test_among_equals_the_smallest_id_stays(run: Run, scores: list[float | None]) -> None:
    rows = [{**row, "score": score} for row, score in zip(table(SENTENCE, changed(0), changed(-1)), scores, strict=True)]
    smallest = min(from_rows(rows).iter_rows(named=True), key=lambda row: row["id"])["tag"]
    assert run(rows, Config(best="score")).kept == {smallest}
    assert run(rows, Config()).kept == {smallest}


def chain(length: int) -> list[str]:
    """Texts of 42 words, each a word further along: a Jaccard of 39/41 with the next, of 38/42 with the one after, of less than 0.9 with all others."""
    said = [f"w{i}" for i in range(42 + length)]
    return [" ".join(said[i : i + 42]) for i in range(length)]


def test_a_group_is_a_chain_and_the_reason_names_the_nearest(run: Run) -> None:
    prompts = chain(8)
    rows = [{**row, "score": float(i == 0)} for i, row in enumerate(table(*prompts))]
    found = run(rows, Config(best="score", jaccard=0.9))
    assert found.kept == {"0"}
    assert {found.twin(tag) for tag in found.gone} == {"0"}
    assert {line["score"] for line in found.gone.values()} == {39 / 41}
    for tag in "1234567":
        said, _, nearest = found.reason(tag).partition(" with ")
        assert said == "near duplicate, one of 8: Jaccard 0.951"
        assert abs(int(found.tags[nearest] if nearest else "0") - int(tag)) == 1


def test_a_broken_chain_is_two_groups(run: Run) -> None:
    found = run(table(*chain(20)[:3], *chain(20)[12:15]), Config(jaccard=0.9))
    assert len(found.kept) == 2
    assert {found.reason(tag).split(":")[0] for tag in found.gone} == {"near duplicate, one of 3"}


def test_a_near_miss_is_told_and_stays(run: Run) -> None:
    """One word in the middle changes 3 of 22 shingles: 19 / 25 = 0.76."""
    found = run(table(SENTENCE, changed(10), "and now for something completely different"), Config())
    assert found.gone == {}
    said = found.verdicts()
    assert set(said) == {"0", "1"}
    for tag, other in ("01", "10"):
        line = said[tag]
        assert (line["keep"], line["score"], line["reason"]) == (True, 19 / 25, "not quite a near duplicate: Jaccard 0.76")
        assert found.tags[line["because_of"]] == other
        assert line["close"] == 19 / 25 - 0.8
    assert set(run(table(SENTENCE, changed(10)), Config(jaccard=0.76)).kept) != {"0", "1"}
    assert run(table(SENTENCE, changed(8, 14)), Config()).verdicts() == {}


def test_notes_hold_the_signer_the_bands_and_the_curve(run: Run) -> None:
    (note,) = run(table(SENTENCE, changed(0)), Config()).notes
    assert note == {"signer": minhash.SIGNER, "bands": 32, "rows_a_band": 4, "caught_at_jaccard": minhash.s_curve(32, 4), "candidates": 1}
    assert note["caught_at_jaccard"]["0.8"] > 0.99
    assert note["signer"].startswith("rensa")


def test_order_shards_and_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = generated(3, groups=20)
    steps = [Config(best="score"), Config(text="pair", jaccard=0.5, shingle=2)]
    expected = hashes(rows, steps)
    random.Random(1).shuffle(rows)
    assert hashes(rows, steps) == hashes(rows, steps, shards=7) == expected
    monkeypatch.setattr(runner, "SMALL", 0)
    assert hashes(rows, steps, workers=2, shards=3) == expected


@pytest.mark.parametrize("text", ["prompt", "pair"])
def test_buckets_change_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, steps = generated(5), [Config(text=text, jaccard=0.5)]
    expected = hashes(rows, steps, shards=2)
    for bucket in (1, 3):
        monkeypatch.setattr(near_duplicates, "BUCKET", bucket)
        assert hashes(rows, steps, shards=2) == expected


@pytest.mark.parametrize("count", [2, 3, 100])
def test_identical_texts_are_one_group(run: Run, count: int) -> None:
    """A band shared by more than WINDOW texts chains them."""
    found = run(table(*[SENTENCE] * count), Config())
    assert len(found.kept) == 1
    assert {(found.reason(tag).split(" with")[0], found.gone[tag]["score"]) for tag in found.gone} == {(f"near duplicate, one of {count}: Jaccard 1.0", 1.0)}


def test_a_band_that_many_texts_share(run: Run) -> None:
    """Two hundred texts that differ in their last word only: all bands but a few are theirs together."""
    found = run(table(*(f"{SENTENCE} w{i}" for i in range(200)), "something else"), Config())
    assert len(found.kept) == 2
    assert found.notes[0]["candidates"] < 200 * 199 / 2


def test_rows_without_a_word_are_never_alike(run: Run) -> None:
    rows = [*table("", "", "?!", " \n", "..."), {**pair("", "yes", "no", tag="none"), "prompt": []}]
    assert run(rows, Config()).gone == {}
    same = [pair("", "?", "!", tag=str(i), n=i) for i in range(2)]
    assert run(same, Config(text="pair")).gone == {}


def test_pairs_with_an_empty_part_are_alike_by_the_others(run: Run) -> None:
    rows = [pair("", SENTENCE, "no way", tag="0"), pair("??", changed(0), "no, way", tag="1"), pair("why", SENTENCE, "no way", tag="2")]
    found = run(rows, Config(text="pair"))
    assert len(found.gone) == 1
    assert "2" in found.kept


@pytest.mark.parametrize(("prompts", "same"), [
    (["hi", "Hi!"], True), (["hi", "ho"], False), (["hello there", "HELLO, there"], True), (["hello there", "there hello"], False), (["yes yes yes", "yes yes"], True), (["a b c", "a b"], False),
])  # fmt: skip
def test_very_short_prompts(run: Run, prompts: list[str], same: bool) -> None:
    assert bool(run(table(*prompts), Config()).gone) == same


CHINESE = "今天北京的天气怎么样我想知道明天会不会下雨因为我要和朋友一起去公园散步"


def test_chinese_counts_by_character(run: Run) -> None:
    found = run(table(CHINESE, f"{CHINESE}。", CHINESE[:-1] + "家", "请告诉我法国的首都是哪里", CHINESE[::-1]), Config())
    assert len(found.kept & set("012")) == 1
    assert found.kept >= {"3", "4"}


def test_users_and_assistants_alone_are_read(run: Run) -> None:
    def asked(tag: str, *prompt: dict[str, str]) -> dict[str, Any]:
        return {**pair("", f"yes {tag}", "no", tag=tag), "prompt": list(prompt)}

    rows = [asked("0", turn("user", SENTENCE)), asked("1", turn("system", "be brief " * 20), turn("user", SENTENCE)), asked("2", turn("system", SENTENCE), turn("user", "go on"))]
    found = run(rows, Config())
    assert len(found.gone) == 1
    assert "2" in found.kept


def test_pairs_must_be_alike_in_every_part(run: Run) -> None:
    rows = [
        pair(SENTENCE, changed(0), changed(1), tag="0"),
        pair(changed(-1), changed(0), changed(1), tag="1"),
        pair(SENTENCE, "another answer altogether", changed(1), tag="2"),
        pair(SENTENCE, changed(0), "another answer altogether", tag="3"),
    ]
    assert len(run(rows, Config(text="pair")).kept & set("01")) == 1
    assert run(rows, Config(text="pair")).kept >= {"2", "3"}
    assert len(run(rows, Config()).kept) == 1


def test_short_pairs_that_are_alike_are_found(tmp_path: Path) -> None:
    """Parts of a few words: each is compared by its word pairs, whatever they have together."""
    config = Config(text="pair", jaccard=0.6)
    must = found = 0
    for seed in range(20, 24):
        rows = list(judged(generated(seed, groups=60, least=4, most=12), config, tmp_path / str(seed)).iter_rows(named=True))
        twins = [edge for edge, similarity in slow(rows, config).items() if similarity >= config.jaccard]
        must += sum(len(group) - 1 for group in components(len(rows), twins))
        found += sum(row["keep"] is False for row in rows)
    assert must > 40
    assert found >= 0.98 * must


@pytest.mark.parametrize("more", range(4))
def test_pairs_whose_parts_together_pass_the_length_of_short_are_found(run: Run, more: int) -> None:
    """19 words together and 19 + more: prompts that share 9 of at most 12 word pairs, the same answers."""
    prompt = "one two three four five six seven eight nine ten"
    rows = [pair(text, "a b c d e", "f g h i", tag=str(i)) for i, text in enumerate([prompt, " ".join([prompt, "x", "y", "z"][: 1 + more])])]
    assert len(run(rows, Config(text="pair", jaccard=0.75)).gone) == 1


def test_only_some_sources_are_compared(run: Run) -> None:
    rows = [{**row, "source": source} for row, source in zip(table(SENTENCE, SENTENCE, SENTENCE), "aab", strict=True)]
    found = run(rows, Config(only=["a"]))
    assert len(found.kept) == 2
    assert "2" in found.kept


def test_a_best_that_is_not_there(run: Run) -> None:
    with pytest.raises(AssayError, match="step `near_duplicates`: the rows have no column `scor`. Did you mean `score`"):
        run(table(SENTENCE, SENTENCE, score=1.0), Config(best="scor"))


def test_a_slip_in_best_is_told_even_if_nothing_is_alike(run: Run) -> None:
    with pytest.raises(AssayError, match="step `near_duplicates`: the rows have no column `scor`. Did you mean `score`"):
        run(table(SENTENCE, "something else", score=1.0), Config(best="scor"))


def test_flipped_and_kept_rows_are_met_again_by_a_later_step(tmp_path: Path) -> None:
    done = curate(from_rows(generated(7)), [Config(), Config()], tmp_path)
    first, second = done.manifest["accounts"]
    assert first["dropped"] > 10
    assert second["dropped"] == 0
    assert Outcome(done).kept


def test_the_verdicts_are_one_a_row(tmp_path: Path) -> None:
    context = pooled(generated(2), tmp_path)
    said = near_duplicates.judge(context.alive, Config(jaccard=0.7), context).collect()
    assert said["row"].is_unique().all()
    assert said.filter("keep")["close"].max() < 0
    assert said.filter("keep")["close"].min() >= -near_duplicates.NEAR_MISS - 1e-9
    assert said.filter(~pl.col("keep"))["close"].min() >= 0


@pytest.mark.parametrize("texts", [("What is 7 + 8?", "What is 7 * 8?", "What is 7 - 8?", "What is 7-8 ?"), ("Reverse a string in C++", "Reverse a string in C#", "Reverse a string in C", "reverse a string in  C")])
def test_short_texts_with_other_signs_are_no_twins(texts: tuple[str, ...], run: Run) -> None:
    found: Outcome = run([pair(text, "yes", "no", tag=text) for text in texts], Config())
    assert len(found.kept) == 3
    assert len(found.kept & set(texts[2:])) == 1


def test_signs_of_form_make_no_difference(run: Run) -> None:
    texts = ("A well-known **bold** claim of many words", "A well known bold claim of many words", "# A well-known bold claim of many words")
    assert len(run([pair(text, "yes", "no", tag=text) for text in texts], Config()).kept) == 1
