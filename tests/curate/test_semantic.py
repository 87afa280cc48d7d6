"""Semantic duplicates and clusters: the search against the whole matrix, planted paraphrases, and models of one's own."""

import builtins
import random
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate import embeddings
from assay.curate.embeddings import clusters, embed
from assay.curate.runner import curate
from assay.curate.steps import select, semantic_duplicates
from assay.errors import AssayError, MissingExtra
from assay.pairs.schema import from_rows
from conftest import pair, turn
from curate.conftest import Rows, Run, hashes, judged, pooled

Config = semantic_duplicates.Config

pytest.importorskip("model2vec")
pytest.importorskip("wordllama")

EGGS = ["How do I boil an egg?", "How can I boil eggs?", "What is the way to boil an egg?"]
OTHERS = ["What is the capital of France?", "Write a function that sorts a list in Python.", "Who wrote the play Hamlet?", "Explain how a bicycle stays upright."]


def table(*prompts: str, **more: Any) -> Rows:
    return [pair(prompt, f"yes {i}", f"no {i}", tag=str(i), **more) for i, prompt in enumerate(prompts)]


# the search

VECTORS = st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([0.0, 0.3, 0.8, 0.99])))


def vectors_of(n: int, seed: int, kinds: int) -> embeddings.Vectors:
    """Unit vectors around a few directions, and a zero."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(kinds, 8))[rng.integers(0, kinds, n)] + rng.normal(size=(n, 8)) * rng.choice([0, 0.05, 0.5], (n, 1))
    found[: n // 20] = 0
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.where(length > 0, length, 1)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(VECTORS, st.sampled_from([1, 3, 7, 4_096]))
def test_all_pairs_are_found_whatever_the_block(drawn: tuple[int, int, int, float], block: int) -> None:
    n, seed, kinds, cosine = drawn
    vectors = vectors_of(n, seed, kinds)
    whole = vectors @ vectors.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic_duplicates, "BLOCK", block)
        found = semantic_duplicates.near(vectors, cosine)
    assert dict(found.schema) == {"a": pl.Int64, "b": pl.Int64, "cosine": pl.Float64}
    similar = {(a, b): value for a, b, value in found.iter_rows()}
    assert len(similar) == found.height
    sure = {(a, b) for a in range(n) for b in range(a + 1, n) if whole[a, b] >= cosine + 1e-5}
    maybe = {(a, b) for a in range(n) for b in range(a + 1, n) if whole[a, b] >= cosine - 1e-5}
    assert sure <= set(similar) <= maybe
    assert all(abs(value - whole[edge]) < 1e-5 for edge, value in similar.items())


VALUES = st.sampled_from([float("-inf"), 0.0, 1.0, 2.0])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14), st.floats(0.9, 1.0)), max_size=40), st.lists(VALUES, min_size=15, max_size=15))
def test_a_row_goes_only_for_a_better_twin_that_stays(drawn: list[tuple[int, int, float]], values: list[float]) -> None:
    edges = {(min(a, b), max(a, b)): cosine for a, b, cosine in drawn if a != b}
    frame = pl.DataFrame([(*edge, cosine) for edge, cosine in edges.items()], schema={"a": pl.Int64, "b": pl.Int64, "cosine": pl.Float64}, orient="row")
    gone = semantic_duplicates._stars(frame, np.array(values))
    rows = {row for row, _, _ in gone}
    assert len(rows) == len(gone)
    for row, kept, cosine in gone:
        assert kept not in rows
        assert edges[min(row, kept), max(row, kept)] == cosine
        assert (values[kept], -kept) > (values[row], -row)
    assert all(a in rows or b in rows for a, b in edges)


# the step


def test_paraphrases_go_and_the_best_stays(run: Run) -> None:
    rows = [{**row, "score": score} for row, score in zip(table(*EGGS, *OTHERS), [1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0], strict=True)]
    found = run(rows, Config(cosine=0.85, best="score"))
    assert found.kept == {"1", "3", "4", "5", "6"}
    assert {tag: found.twin(tag) for tag in found.gone} == {"0": "1", "2": "1"}
    for tag, line in found.gone.items():
        cosine = float(embed([EGGS[int(tag)]])[0] @ embed([EGGS[1]])[0])
        assert abs(line["score"] - cosine) < 2e-3
        assert line["reason"] == f"says the same as a row that stays, cosine {round(line['score'], 3)}"
        assert found.verdicts()[tag]["close"] == line["score"] - 0.85


def test_by_default_little_goes(run: Run) -> None:
    assert run(table(EGGS[1], EGGS[2], *OTHERS), Config()).gone == {}
    assert len(run(table("How can I boil eggs?", "How do I boil eggs?", *OTHERS), Config()).gone) == 1


@pytest.mark.parametrize("scores", [[None, None, None], [1.0, 1.0, 1.0], [float("nan"), None, None]])
def test_among_equals_the_smallest_id_stays(run: Run, scores: list[float | None]) -> None:
    rows = [{**row, "score": score} for row, score in zip(table("How can I boil eggs?", "How can I boil eggs", "How can I boil eggs?!"), scores, strict=True)]
    smallest = min(from_rows(rows).iter_rows(named=True), key=lambda row: row["id"])["tag"]
    assert run(rows, Config(cosine=0.95, best="score")).kept == {smallest}


def test_without_drop_rows_are_only_marked(run: Run) -> None:
    dropped, marked = run(table(*EGGS, *OTHERS), Config(cosine=0.85)), None
    lines = dropped.verdicts()
    marked = run(table(*EGGS, *OTHERS), Config(cosine=0.85, drop=False))
    assert marked.gone == {}
    assert {tag: {**line, "keep": False} for tag, line in marked.verdicts().items()} == lines
    assert len(lines) == 2


def test_differences_do_not_add_up_along_a_chain(run: Run) -> None:
    """Ends of a chain that are not twins of the row in the middle stay both, if the row in the middle goes."""
    a, b, c = embed(EGGS)
    ab, ac, bc = float(a @ b), float(a @ c), float(b @ c)
    assert ab > 0.9 > bc
    assert ac > 0.9
    middle_best = [{**row, "score": float(i == 0)} for i, row in enumerate(table(*EGGS))]
    assert run(middle_best, Config(cosine=0.9, best="score")).kept == {"0"}
    ends = [{**row, "score": float(i != 0)} for i, row in enumerate(table(*EGGS))]
    assert run(ends, Config(cosine=0.9, best="score")).kept == {"1", "2"}


def test_pairs_are_compared_with_their_answers(run: Run) -> None:
    long = "It takes about nine minutes in boiling water, then cool it under the tap and peel it."
    rows = [
        pair(EGGS[0], long, "Eggs come from hens and are sold by the dozen.", tag="0"),
        pair(EGGS[1], long.replace("nine", "ten"), "eggs come from hens; they are sold by the dozen", tag="1"),
        pair(EGGS[1], "The French Revolution began in 1789 with the storming of the Bastille.", "Python is a programming language with lists.", tag="2"),
    ]
    found = run(rows, Config(text="pair", cosine=0.9))
    assert "2" in found.kept
    assert len(found.gone) == 1


def test_empty_prompts_are_no_twins(run: Run) -> None:
    rows = [*table("", "", " "), {**pair("", "yes", "no", tag="none"), "prompt": [turn("system", "be brief")]}]
    assert run(rows, Config(cosine=0.5)).gone == {}
    assert run([rows[0]], Config()).gone == {}


def test_many_rows_in_other_orders_shards_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    words = ["boil", "egg", "pan", "capital", "France", "sort", "list", "Python", "play", "write", "bike", "poem", "river", "tax", "doctor"]
    rows = [pair(" ".join(rng.choices(words, k=rng.randint(2, 5))), "yes", f"no {i}", score=float(rng.randint(0, 2))) for i in range(120)]
    steps = [Config(cosine=0.9, best="score"), select.Config(by="score", others=0.5, clusters=5)]
    expected = hashes(rows, steps)
    rng.shuffle(rows)
    assert hashes(rows, steps, shards=7) == expected
    monkeypatch.setattr(semantic_duplicates, "BLOCK", 17)
    blocked = hashes(rows, steps)
    for output in ("kept.parquet", "dropped.parquet"):  # the last digits of a cosine are those of the block it was computed in
        assert blocked[output] == expected[output]


@pytest.mark.parametrize("seed", range(3))
def test_no_row_goes_but_for_a_twin_that_stays(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    words = ["boil", "egg", "pan", "capital", "France", "sort", "list", "Python", "play", "write"]
    rows = [pair(" ".join(rng.choices(words, k=rng.randint(2, 6))), "yes", f"no {i}", score=float(rng.randint(0, 3))) for i in range(150)]
    said = judged(rows, Config(cosine=0.9, best="score"), tmp_path)
    vectors = embed([p[0]["content"] for p in said["prompt"]])
    stays = {row["id"]: (i, row["score"]) for i, row in enumerate(said.iter_rows(named=True)) if row["keep"] is None}
    gone = [(i, row) for i, row in enumerate(said.iter_rows(named=True)) if row["keep"] is False]
    assert len(gone) > 20
    for i, row in gone:
        at, score = stays[row["because_of"]]
        assert float(vectors[i] @ vectors[at]) >= 0.9 - 2e-3
        assert score >= row["score"]
    among = vectors[[i for i, _ in stays.values()]]
    assert np.triu(among @ among.T, 1).max() < 0.9 + 2e-3


def test_the_same_text_has_a_cosine_of_one(run: Run) -> None:
    """However it is rounded on its way to disk."""
    for prompt in [*EGGS, *OTHERS]:
        found = run([pair(prompt, f"yes {i}", "no", tag=str(i)) for i in range(2)], Config(cosine=1.0))
        assert len(found.gone) == 1
        assert [line["score"] for line in found.gone.values()] == pytest.approx([1.0], abs=1e-6)


# models


@pytest.mark.parametrize("name", ["statik", "sentence-transformers", "sentence-transformers:", "bert:x", ""])
def test_an_unknown_embedding(run: Run, name: str) -> None:
    with pytest.raises(AssayError, match=f"unknown embedding `{name}`. Known: static, static:FOLDER, sentence-transformers:NAME"):
        run(table(*OTHERS), Config(embedding=name))


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[str]:
    """A static model of five words, saved by model2vec: `egg` and `ovum` mean the same."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "egg": 2, "ovum": 3, "stone": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.normalizer = Whitespace(), Lowercase()
    vectors = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0.01, 0], [0, 0, 1]], np.float32)
    StaticModel(vectors=vectors, tokenizer=tokenizer).save_pretrained(str(tmp_path / "model"))
    yield f"static:{tmp_path / 'model'}"
    embeddings._encoder.cache_clear()


def test_a_model_that_model2vec_saved(run: Run, saved: str) -> None:
    assert embed(["egg", "ovum", "stone", ""], saved).shape == (4, 3)
    found = run(table("egg", "Ovum", "stone"), Config(embedding=saved))
    assert len(found.gone) == 1
    assert "2" in found.kept


def test_a_folder_without_a_model(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="nowhere: no such folder; expected one that model2vec saved"):
        run(table(*OTHERS), Config(embedding=f"static:{tmp_path / 'nowhere'}"))


def test_an_empty_folder_is_no_model(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssayError):
        run(table(*OTHERS), Config(embedding=f"static:{tmp_path / 'empty'}"))


@pytest.fixture
def fresh() -> Iterator[None]:
    """Models are looked for anew."""
    embeddings._encoder.cache_clear()
    yield
    embeddings._encoder.cache_clear()


def without(name: str, patch: pytest.MonkeyPatch) -> None:
    """As if a package were not installed."""
    found = builtins.__import__

    def gone(asked: str, *rest: Any, **more: Any) -> Any:
        if asked.split(".")[0] == name:
            raise ImportError(asked)
        return found(asked, *rest, **more)

    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        patch.delitem(sys.modules, module)
    patch.setattr(builtins, "__import__", gone)


@pytest.mark.parametrize(("package", "embedding", "message"), [
    ("model2vec", "static", r'looking at meaning needs the optional packages of Assay: pip install "assay\[audit\]"'),
    ("sentence_transformers", "sentence-transformers:x", r'embedding with sentence-transformers:x needs .*pip install "assay\[embed\]"'),
])  # fmt: skip
def test_a_package_that_is_missing(package: str, embedding: str, message: str, fresh: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    without(package, monkeypatch)
    with pytest.raises(MissingExtra, match=message):
        run(table(*OTHERS), Config(embedding=embedding))


def test_the_package_of_the_vectors_is_missing(fresh: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(embeddings.metadata, "files", files)
    with pytest.raises(MissingExtra, match=r'pip install "assay\[audit\]"'):
        run(table(*OTHERS), Config())


def test_the_package_of_the_vectors_is_another(fresh: None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings.metadata, "files", lambda name: [])
    with pytest.raises(AssayError, match=r"lacks its weights; install wordllama==0\.4\.0\.post1"):
        run(table(*OTHERS), Config())


def test_vectors_are_of_length_one_and_of_nothing_zero() -> None:
    vectors = embed(["an egg", "", " \n", "今天北京的天气怎么样", "x" * 10_000, "an egg"])
    lengths = np.linalg.norm(vectors, axis=1)
    assert vectors.shape == (6, 256)
    assert vectors.dtype == np.float32
    assert lengths[1] == 0
    assert np.allclose(lengths[[0, 3, 4]], 1, atol=1e-5)
    assert (vectors[0] == vectors[5]).all()
    assert np.allclose(embed(["an egg"])[0], vectors[0])


# clusters


def topics() -> Rows:
    kinds = {
        "egg": ["boil an egg", "fry an egg", "poach eggs", "an omelette of eggs", "scrambled eggs"],
        "tax": ["income tax rates", "paying taxes", "file a tax return", "tax deductions", "value added tax"],
        "python": ["sort a list in python", "python dictionaries", "a python class", "python list comprehension", "debug python code"],
    }
    return [pair(f"{prompt}, number {i}", "yes", "no", kind=kind) for kind, prompts in kinds.items() for i, prompt in enumerate(prompts * 4)]


def clustered(rows: Rows, k: int, folder: Path, **more: Any) -> pl.DataFrame:
    context = pooled(rows, folder, **more)
    found = clusters(context.alive, k, "static", context)
    assert dict(found.schema) == {"row": pl.UInt32, "cluster": pl.UInt32}
    assert found["row"].to_list() == list(range(len(rows)))
    return context.texts(context.alive).join(found, on="row")


@pytest.mark.parametrize("k", [2, 3, 10, 60, 100])
def test_every_row_is_in_one_of_k_clusters(k: int, tmp_path: Path) -> None:
    found = clustered(topics(), k, tmp_path)
    assert found["cluster"].max() < min(k, 60)
    assert found["cluster"].n_unique() >= min(k, 2)


def test_clusters_do_not_depend_on_the_order_of_rows_or_shards(tmp_path: Path) -> None:
    rows = topics()
    one = clustered(rows, 6, tmp_path / "a").select("id", "cluster")
    other = clustered(rows[::-1], 6, tmp_path / "b", shards=5).select("id", "cluster")
    assert one.equals(other)


def test_clusters_are_of_one_kind_mostly(tmp_path: Path) -> None:
    found = clustered(topics(), 6, tmp_path)
    purest = found.group_by("cluster", "kind").len().group_by("cluster").agg(pl.col("len").max())["len"].sum()
    assert purest >= 0.9 * found.height


def test_a_choice_is_spread_over_clusters(tmp_path: Path) -> None:
    rows = [{**row, "score": 10.0 if row["kind"] == "egg" else 1.0} for row in topics()]
    plain = curate(from_rows(rows), [select.Config(by="score", others=0.2)], tmp_path / "a").kept()
    spread = curate(from_rows(rows), [select.Config(by="score", others=0.2, clusters=6)], tmp_path / "b").kept()
    assert set(plain["kind"]) == {"egg"}
    assert set(spread["kind"]) == {"egg", "tax", "python"}
    assert spread.height == plain.height == 12


def test_clusters_of_rows_that_are_all_the_same(tmp_path: Path) -> None:
    found = clustered([pair("the same", "yes", "no", n=i) for i in range(9)], 3, tmp_path)
    assert set(found["cluster"]) <= {0, 1, 2}
    empty = clustered([pair("", "yes", "no", n=i) for i in range(9)], 3, tmp_path / "empty")
    assert set(empty["cluster"]) <= {0, 1, 2}


def test_what_the_embedding_does_not_look_at_must_be_the_same(run: Run) -> None:
    passage = "The council met in the old hall and spoke of the bridge for a long time. " * 40
    rows = [pair(passage + question, "yes", "no", tag=question) for question in ("Who opposed the plan?", "Write a poem of it.", "WHO opposed  the plan")]
    for text in ("prompt", "pair"):
        assert len(run(rows, semantic_duplicates.Config(cosine=0.95, text=text)).kept) == 2
