"""The one scoring pass: every text once over all suites, kept scores, reasons and cut texts; and that order, company and batches don't move a checkpoint's score."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from assay.errors import AssayError
from assay.evaluate import scoring
from assay.evaluate.evaluate import evaluate
from assay.evaluate.scoring import default_cache, key_of, score_suites
from assay.evaluate.suite import Item, Suite
from assay.pairs.messages import Messages
from assay.pairs.schema import Message, answer_text, prompt_id
from assay.score.checkpoint import CheckpointScorer
from assay.score.scorer import Scores
from assay.train.config import TrainConfig
from assay.train.train import train
from conftest import turn


class Counting:
    """Scores an answer by its length, and remembers what it was asked; ``fails`` have no score, ``cut`` are called truncated."""

    spec = "counting"
    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, fingerprint: str | None = "one", fails: Sequence[str] = (), cut: Sequence[str] = (), dies_at: int | None = None) -> None:
        self.fingerprint, self.fails, self.cut, self.dies_at = fingerprint, fails, cut, dies_at
        self.asked: list[str] = []
        self.calls = 0

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        texts = [answer_text(c[-1:]) for c in conversations]
        self.asked += texts
        values = np.array([[np.nan if t in self.fails else float(len(t))] for t in texts], dtype=np.float32)
        return Scores(values, np.array([t in self.cut for t in texts]), {i: "the judge said nothing" for i, t in enumerate(texts) if t in self.fails})


def item(prompt: str | Messages, *answers: str, subset: str = "all") -> Item:
    asked = [turn("user", prompt)] if isinstance(prompt, str) else prompt
    gold = (1.0, *(0.0 for _ in answers[1:]))
    return Item(f"{prompt_id(asked)[:6]} {answers[0]}", subset, asked, [[turn("assistant", a)] for a in answers], gold, prompt_id(asked))


def suite(*items: Item, name: str = "s", rule: str = "best-of-n") -> Suite:
    return Suite(name, rule, list(items))


def test_the_same_text_is_scored_once_over_all_suites() -> None:
    scorer = Counting(fingerprint=None)
    one = suite(item("p", "aa", "b"), item("p", "aa", "ccc", "b"))
    two = suite(item("p", "b", "aa"), item("q", "aa", "b"), name="t")
    first, second = score_suites(scorer, [one, two])
    assert sorted(scorer.asked) == ["aa", "aa", "b", "b", "ccc"]
    assert scorer.calls == 1
    assert np.array_equal(first.rewards, [[2, 1, np.nan], [2, 3, 1]], equal_nan=True)
    assert np.array_equal(second.rewards, [[1, 2], [2, 1]])


def test_the_identity_of_a_text_is_its_roles_and_contents() -> None:
    said = [turn("user", "a"), turn("assistant", "b")]
    assert key_of(said) == key_of([{**m, "more": "x"} for m in said])
    others = [[turn("system", ""), *said], [turn("user", "ab"), turn("assistant", "")], [turn("user", "a"), turn("user", "b")], [turn("user", "a "), turn("assistant", "b")], [turn("user", 'a"'), turn("assistant", "b")]]
    assert len({key_of(c) for c in [said, *others]}) == 6
    assert key_of([turn("user", "\ud800")]) != key_of([turn("user", "?")])


def test_a_second_suite_costs_only_what_is_new(tmp_path: Path) -> None:
    first, again, other = Counting(), Counting(), Counting("two")
    one, two = suite(item("p", "aa", "b")), suite(item("p", "b", "cccc"), item("p", "aa", "b"))
    score_suites(first, [one], tmp_path)
    kept = score_suites(again, [two], tmp_path)[0]
    assert (first.asked, again.asked) == (["aa", "b"], ["cccc"])
    assert np.array_equal(kept.rewards, [[1, 4], [2, 1]])
    third = Counting()
    assert np.array_equal(score_suites(third, [two, suite(item("p", "aa", "b"), name="t")], tmp_path)[0].rewards, kept.rewards)
    assert third.calls == 0
    score_suites(other, [two], tmp_path)
    assert sorted(other.asked) == ["aa", "b", "cccc"]


def test_a_scorer_without_a_fingerprint_keeps_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        scorer = Counting(fingerprint=None)
        score_suites(scorer, [suite(item("p", "aa", "b"))], tmp_path)
        assert scorer.calls == 1
    assert list(tmp_path.iterdir()) == []


def test_the_verb_keeps_scores_in_the_cache_folder_unless_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "scores"
    evaluate(Counting(), [suite(item("p", "aa", "b"))], cache=False)
    assert list(tmp_path.iterdir()) == []
    first = evaluate(Counting(), [suite(item("p", "aa", "b"))])
    scorer = Counting()
    assert evaluate(scorer, [suite(item("p", "aa", "b"))]) == first
    assert scorer.calls == 0


def test_a_judge_of_pairs_is_asked_nothing_before_all_suites_are_pairs() -> None:
    class Judge(Counting):
        def compare(self, asked: object, tick: object) -> None:
            pytest.fail("asked")

    with pytest.raises(AssayError, match="t: a judge of pairs compares two answers, but items here have up to 3"):
        score_suites(Judge(), [suite(item("p", "aa", "b")), suite(item("p", "aa", "b", "c"), name="t")])


def damaged(content: bytes) -> dict[str, bytes]:
    """Ways in which a file of scores is broken."""
    middle = len(content) // 2
    return {"empty": b"", "no parquet": b"hello", "cut short": content[:middle], "without its end": content[:-4], "without its beginning": content[20:], "zeros": bytes(len(content))}


@pytest.mark.parametrize("kind", list(damaged(b"")))
def test_a_damaged_file_of_scores_is_named(tmp_path: Path, kind: str) -> None:
    one = suite(*(item(f"p{i}", "a" * i, "b") for i in range(2, 50)))
    score_suites(Counting(), [one], tmp_path)
    (file,) = (tmp_path / "one").glob("*.parquet")
    file.write_bytes(damaged(file.read_bytes())[kind])
    with pytest.raises(AssayError) as error:
        score_suites(Counting(), [one], tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'one'}: the kept scores cannot be read (")
    assert str(error.value).endswith("delete the folder")


def test_a_flipped_bit_never_becomes_another_score(tmp_path: Path) -> None:
    one = suite(*(item(f"p{i}", "a" * i, "b") for i in range(2, 50)))
    (right,) = score_suites(Counting(), [one], tmp_path)
    (file,) = (tmp_path / "one").glob("*.parquet")
    content = file.read_bytes()
    noticed = 0
    for at in range(0, len(content), 7):
        file.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            (found,) = score_suites(Counting(), [one], tmp_path)
        except AssayError:
            noticed += 1
            continue
        np.testing.assert_array_equal(found.outputs, right.outputs)
        for more in set((tmp_path / "one").glob("*.parquet")) - {file}:
            more.unlink()
    assert noticed > 100


@pytest.mark.parametrize("frame", [pl.DataFrame({"x": [1]}), pl.DataFrame({"key": ["a"], "values": ["b"], "truncated": [False]})])
def test_a_file_of_scores_with_other_columns_is_named(tmp_path: Path, frame: pl.DataFrame) -> None:
    one = suite(item("p", "aa", "b"))
    (tmp_path / "one").mkdir()
    frame.with_columns(pl.lit(key_of(one.items[0].prompt + one.items[0].answers[0])).alias("key")).write_parquet(tmp_path / "one" / "odd.parquet")
    with pytest.raises(AssayError, match="the kept scores cannot be read"):
        score_suites(Counting(), [one], tmp_path)


def test_a_scorer_that_dies_leaves_the_chunks_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 4)
    one = suite(*(item(f"p{i}", "a" * (i + 1), "b") for i in range(5)))
    dying, going_on = Counting(dies_at=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        score_suites(dying, [one], tmp_path)
    found = score_suites(going_on, [one], tmp_path)[0]
    assert (len(dying.asked), len(going_on.asked), going_on.calls) == (4, 6, 2)
    assert np.array_equal(found.rewards, [[i + 1, 1] for i in range(5)])


def test_the_tick_counts_what_is_already_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)
    score_suites(Counting(), [suite(item("p", "aa", "b"))], tmp_path)
    seen: list[tuple[int, int]] = []
    score_suites(Counting(), [suite(item("p", "aa", "b", "c", "d", "e"))], tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(4, 5), (5, 5)]


def test_answers_without_a_score_are_counted_named_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    one = suite(item("p", "good", "bad"), item("q", "good", "worse"), item("r", "fine", "x"), rule="pairs")
    scorer = Counting(fails=("good",))
    result = evaluate(scorer, [one], tmp_path / "out")["suites"]["s"]
    assert result["without_score"] == 2
    assert result["reasons"] == {"the judge said nothing": 2}
    assert result["overall"]["value"] == pytest.approx(1 / 3)
    assert result["ties"] == 0
    assert "2 answers got no score and count as wrong (2: the judge said nothing)" in result["warnings"]
    table = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert table["reason"].to_list() == ["the judge said nothing", "the judge said nothing", None]
    again = Counting()
    assert evaluate(again, [one])["suites"]["s"]["without_score"] == 0
    assert again.asked == ["good", "good"]


def test_the_commonest_reason_is_the_one_in_the_warning() -> None:
    class Two(Counting):
        def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
            scores = super().score(conversations)
            return Scores(scores.values, scores.truncated, {i: "rare" if n == 0 else "common" for n, i in enumerate(scores.reasons)})

    result = evaluate(Two(None, fails=("a", "bb", "ccc")), [suite(item("p", "a", "bb"), item("q", "ccc", "dddd"))])["suites"]["s"]
    assert result["reasons"] == {"common": 2, "rare": 1}
    assert any(warning == "3 answers got no score and count as wrong (2: common)" for warning in result["warnings"])


def test_cut_texts_are_counted_and_named_also_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    one = suite(item("p", "long", "x"), item("q", "y", "long"), item("r", "long", "long"), item("t", "z", "zz"))
    for scorer in (Counting(cut=("long",)), Counting()):
        result = evaluate(scorer, [one], tmp_path / "out")["suites"]["s"]
        assert result["truncated"] == 3
        assert result["truncated_items"] == [one.items[i].id for i in (0, 1, 2)]
        assert "in 3 of 4 items a text was longer than the scorer reads" in result["warnings"]
    assert pl.read_parquet(tmp_path / "out" / "items.parquet")["truncated"].to_list() == [[True, False], [False, True], [True, True], [False, False]]


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_decoder: Path, make_pairs: Callable[..., pl.DataFrame]) -> Path:
    """A checkpoint of each kind, trained for a few steps."""
    backbone = tiny_encoder if request.param == "encoder" else tiny_decoder
    config = TrainConfig(model=str(backbone), max_length=160, max_steps=40, batch_size=8, learning_rate=3e-3, precision="fp32")
    return train(make_pairs(40), config, tmp_path_factory.mktemp(f"scored-{request.param}"))


def varied() -> list[Item]:
    """Pairs, a group of 4 and of 20 answers, an empty system prompt, several turns, other scripts, an empty answer, and texts that are cut."""
    system = [turn("system", ""), turn("user", "red?")]
    several = [turn("system", "be kind"), turn("user", "one"), turn("assistant", "two"), turn("user", "three")]
    return [
        item("red?", "yes red", "no"),
        item("four", *(f"{w} {i}" for i, w in enumerate(["yes", "no", "perhaps not at all", "y"]))),
        item("twenty answers", *(f"answer {'long ' * (i % 7)}{i}" for i in range(20))),
        item(system, "yes red", "no"),
        item(several, "four", "five and six"),
        item("日本語の質問?", "はい、そうです 🎉", "いいえ"),
        item("naïve café \u0301", "ÀÉÎ", ""),
        item("x " * 60, "yes " * 40, "no"),
        *(item(f"filler {i}", "yes " * (i % 5 + 1), "no " * (i % 3 + 1)) for i in range(12)),
    ]


def one_at_a_time(scorer: CheckpointScorer, items: Sequence[Item]) -> list[list[float]]:
    """The plain way: every conversation by itself."""
    return [[float(scorer.score([one.prompt + answer]).values[0, 0]) for answer in one.answers] for one in items]


def by_item(folder: Path, items: Sequence[Item], tokens: int = 4_096) -> dict[str, list[float]]:
    """The scores of items, scored together."""
    found = score_suites(CheckpointScorer(str(folder), "fp32", tokens), [suite(*items)])[0].rewards
    return {one.id: found[i, : len(one.answers)].tolist() for i, one in enumerate(items)}


def same(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> None:
    for name, scores in ours.items():
        assert scores == pytest.approx(theirs[name], abs=1e-5), name


def test_together_and_one_at_a_time_are_the_same(trained: Path) -> None:
    items = varied()
    plain = one_at_a_time(CheckpointScorer(str(trained), "fp32"), items)
    together = by_item(trained, items)
    same(together, {one.id: scores for one, scores in zip(items, plain, strict=True)})
    assert np.std([score for scores in together.values() for score in scores]) > 0.1


@pytest.mark.parametrize("tokens", [1, 100, 700, 100_000])
def test_tokens_per_batch_moves_no_score(trained: Path, tokens: int) -> None:
    same(by_item(trained, varied(), tokens), by_item(trained, varied()))


def test_order_moves_no_score(trained: Path) -> None:
    items = varied()
    expected = by_item(trained, items)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(items))
        same(by_item(trained, [items[i] for i in order]), expected)


def test_company_moves_no_score(trained: Path) -> None:
    items = varied()
    expected = by_item(trained, items)
    for few in (items[:1], items[1:2], items[2:3], items[3:6], items[::2]):
        same(by_item(trained, few), expected)
    more = [item("twenty answers", *(f"another {i} " * (i % 4 + 1) for i in range(30))), item("red?", "yes red indeed", "never")]
    crowded = by_item(trained, items + more)
    same({one.id: crowded[one.id] for one in items}, expected)


def test_order_of_the_answers_of_a_group_moves_no_score(trained: Path) -> None:
    texts = [f"answer {'long ' * (i % 7)}{i}" for i in range(20)]
    forward = by_item(trained, [item("twenty answers", *texts)])
    backward = by_item(trained, [item("twenty answers", *texts[::-1])])
    assert next(iter(forward.values())) == pytest.approx(next(iter(backward.values()))[::-1], abs=1e-5)


def test_what_is_kept_is_what_was_scored(trained: Path, tmp_path: Path) -> None:
    scorer, items = CheckpointScorer(str(trained), "fp32"), varied()
    fresh = score_suites(scorer, [suite(*items)], tmp_path)[0]
    kept = score_suites(scorer, [suite(*items)], tmp_path)[0]
    assert np.array_equal(fresh.outputs, kept.outputs, equal_nan=True)
    assert np.array_equal(fresh.truncated, kept.truncated)
    assert fresh.truncated.any(axis=1).tolist() == [one.prompt[-1]["content"].startswith("x x") for one in items]


def test_the_fingerprint_tells_precision_and_checkpoint_apart(trained: Path, tiny_encoder: Path, make_pairs: Callable[..., pl.DataFrame], tmp_path: Path) -> None:
    config = TrainConfig(model=str(tiny_encoder), max_length=160, max_steps=2, batch_size=8, learning_rate=3e-3, precision="fp32")
    other = train(make_pairs(40), config, tmp_path)
    prints = {CheckpointScorer(str(folder), precision).fingerprint for folder in (trained, other) for precision in ("fp32", "bf16")}
    assert len(prints) == 4
    assert CheckpointScorer(str(trained), "fp32", 64).fingerprint == CheckpointScorer(str(trained), "fp32").fingerprint


def test_a_model_that_drifted_shares_no_scores_with_the_one_it_was(trained: Path, tmp_path: Path) -> None:
    items, turned = varied(), [turned_copy(trained, tmp_path / name, by) for name, by in (("negated", -1.0), ("half", 0.5))]
    clean = score_suites(CheckpointScorer(str(trained), "fp32"), [suite(*items)], tmp_path / "kept")[0].rewards
    for folder, by in zip(turned, (-1.0, 0.5), strict=True):
        with pytest.warns(UserWarning, match="a canary differs by"):
            scorer = CheckpointScorer(str(folder), "fp32", allow_drift=100.0)
        found = score_suites(scorer, [suite(*items)], tmp_path / "kept")[0].rewards
        np.testing.assert_allclose(found, by * clean, atol=1e-4)
    allowed = CheckpointScorer(str(trained), "fp32", allow_drift=100.0)
    assert allowed.fingerprint == CheckpointScorer(str(trained), "fp32").fingerprint
    np.testing.assert_array_equal(score_suites(allowed, [suite(*items)], tmp_path / "kept")[0].rewards, clean)


def turned_copy(folder: Path, other: Path, by: float) -> Path:
    """The checkpoint with its head multiplied, its contract left as it was."""
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    head = {name: by * weight for name, weight in weights.items() if name.startswith(("score.", "classifier."))}
    assert head
    save_file({**weights, **head}, other / "model.safetensors", {"format": "pt"})
    return other
