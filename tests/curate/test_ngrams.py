"""The rolling-hash kernel against an obvious twin, and the normal form of texts."""

import hashlib
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate.kernels import ngrams
from assay.curate.kernels import tokens as tokens_module
from assay.curate.kernels.text import key, normal, prompt_text, spaced, words
from assay.curate.kernels.tokens import Hashes, Places, Tokens

WORD = st.sampled_from(["a", "b", "c"])
TEXT = st.lists(WORD, max_size=9).map(" ".join)
TEXTS = st.lists(TEXT, max_size=5)


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    said = text.split()
    return {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}


def twin(text: str, references: list[str], n: int) -> dict[int, float]:
    """For each reference text that shares an n-gram with ``text``: the share of its n-grams that are in ``text``."""
    mine = grams(text, n)
    theirs = {i: grams(reference, n) for i, reference in enumerate(references)}
    return {i: len(mine & g) / len(g) for i, g in theirs.items() if mine & g}


def longest_span(text: str, reference: str, n: int) -> str:
    """The first longest run of words of ``reference`` all of whose n-grams are in ``text``."""
    mine, said = grams(text, n), reference.split()
    runs = [said[i:j] for i in range(len(said)) for j in range(i + n, len(said) + 1) if grams(" ".join(said[i:j]), n) <= mine]
    return " ".join(max(runs, key=len))


def first_shared(text: str, reference: str, n: int) -> int:
    """The word of ``text`` at which its first n-gram begins that ``reference`` has."""
    said, theirs = text.split(), grams(reference, n)
    return next(i for i in range(len(said)) if tuple(said[i : i + n]) in theirs)


def check(texts: list[str], references: list[str], n: int) -> None:
    found = ngrams.overlaps(texts, ngrams.index(references, n))
    assert len(found) == len(texts)
    for text, hits in zip(texts, found, strict=True):
        expected = twin(text, references, n)
        assert {hit.reference: hit.coverage for hit in hits} == expected
        assert [hit.reference for hit in hits] == sorted(expected, key=lambda i: (-expected[i], i))
        for hit in hits:
            assert hit.span == longest_span(text, references[hit.reference], n)
            assert hit.at == first_shared(text, references[hit.reference], n)


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_agrees_with_sets_of_tuples(texts: list[str], references: list[str], n: int) -> None:
    check(texts, references, n)


COLLISIONS: dict[str, Callable[[Hashes], Hashes]] = {
    "all, at 0": np.zeros_like,
    "all, at the highest": lambda hashes: np.full_like(hashes, 2**64 - 1),
    "in two halves": lambda hashes: hashes & np.uint64(1),
    "in what the filter looks at": lambda hashes: hashes & np.uint64(2**38 - 1),
    "in what it does not look at": lambda hashes: hashes & ~np.uint64(2**38 - 1),
}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("collide", COLLISIONS.values(), ids=COLLISIONS)
def test_colliding_hashes_change_nothing(n: int, collide: Callable[[Hashes], Hashes], monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def colliding(tokens: Tokens, size: int) -> tuple[Hashes, Places]:
        called.append(size)
        found, place = tokens_module.grams(tokens, size)
        return collide(found), place

    monkeypatch.setattr(ngrams, "grams", colliding)
    check(["a b c a b", "c c c", "b a", "", "a", "c a b"], ["a b c", "b c a b c a", "c c c c", "a"], n)
    assert called == [n, n]


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.integers(1, 5))
def test_a_text_covers_itself(texts: list[str], n: int) -> None:
    found = ngrams.overlaps(texts, ngrams.index(texts, n))
    for i, (text, hits) in enumerate(zip(texts, found, strict=True)):
        mine = [hit for hit in hits if hit.reference == i]
        if len(text.split()) < n:
            assert hits == []
        else:
            assert mine == [ngrams.Hit(i, 1.0, text, 0)]
            assert hits[0].coverage == 1.0


def test_a_gram_never_crosses_from_one_text_into_the_next() -> None:
    assert ngrams.overlaps(["a b c d"], ngrams.index(["a b", "c d"], 3)) == [[]]
    assert ngrams.overlaps(["a b", "c d"], ngrams.index(["a b c d"], 3)) == [[], []]


def test_nothing_on_either_side() -> None:
    assert ngrams.overlaps([], ngrams.index(["a b c"], 2)) == []
    assert ngrams.overlaps(["a b c"], ngrams.index([], 2)) == [[]]
    assert ngrams.overlaps(["", "a"], ngrams.index(["", "a"], 2)) == [[], []]


def test_repeated_grams_count_once() -> None:
    (hits,) = ngrams.overlaps(["x a a y"], ngrams.index(["a a a a b"], 2))
    assert hits == [ngrams.Hit(0, 0.5, "a a a a", 1)]


def test_case_and_punctuation_are_ignored_on_both_sides() -> None:
    (hits,) = ngrams.overlaps(["THE, quick\nBrown fox!"], ngrams.index(["the quick (brown) fox jumps."], 3))
    assert hits == [ngrams.Hit(0, 2 / 3, "the quick brown fox", 0)]


SPOKEN = st.lists(st.sampled_from(["straße", "Fox", "éclair", "x2", "naïve", "42"]), min_size=1, max_size=6)
GAP = st.sampled_from([" ", "\n", "  ", "\t", ", ", " - ", "...\n\n", '" (', "\r\n", "\u00a0", "\u3000", "—"])


@given(SPOKEN, st.data())
def test_spacing_and_punctuation_make_no_difference(said: list[str], data: st.DataObject) -> None:
    joined = data.draw(st.sampled_from(["", " ", "\n", "«"])) + said[0]
    for word in said[1:]:
        joined += data.draw(GAP) + word
    assert words(joined) == words(" ".join(said))
    assert normal(joined) == " ".join(words(joined))


@given(SPOKEN)
def test_case_makes_no_difference(said: list[str]) -> None:
    text = " ".join(said)
    assert normal(text.upper()) == normal(text.lower()) == normal(text.title()) == normal(text)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_unicode_forms_make_no_difference(form: str) -> None:
    text = "Café naïve ﬁne \uff12\uff10\uff10 Ångström"
    assert normal(unicodedata.normalize(form, text)) == "café naïve fine 200 ångström"


def test_words_of_an_empty_text() -> None:
    assert words("") == words(" \n") == words("?! ...") == []
    assert normal("?!") == ""


def test_prompt_text_is_what_the_users_said() -> None:
    said = [("system", "be nice"), ("user", "one"), ("assistant", "two"), ("user", "three")]
    assert prompt_text([{"role": role, "content": content} for role, content in said]) == "one\nthree"


def test_key_depends_on_the_division_into_texts() -> None:
    assert len({key("ab", "c"), key("a", "bc"), key("abc"), key("c", "ab")}) == 4
    assert all(0 <= key(text) < 2**64 for text in ("", "ab", "éclair"))
    assert key("ab") == int(hashlib.sha256(b"ab").hexdigest()[:16], 16)


def test_combining_marks_stay_in_their_words() -> None:
    assert words("क्या हाल है?") == ["क्या", "हाल", "है"]
    assert words("ที่นี่ ดีมาก") == ["ที่นี่", "ดีมาก"]
    assert normal("कि") != normal("की")
    assert normal("กำ") != normal("กี")


@pytest.mark.parametrize(("text", "expected"), [
    ("今天天气。", ["今", "天", "天", "气"]),
    ("東京タワーは高い", ["東", "京", "タ", "ワ", "ー", "は", "高", "い"]),
    ("ﾀﾜｰ", ["タ", "ワ", "ー"]),
    ("北京GDP是3万、吗？", ["北", "京", "gdp", "是", "3", "万", "吗"]),
    ("한국어 문장", ["한국어", "문장"]),
])  # fmt: skip
def test_scripts_without_spaces_have_a_word_a_character(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_an_underscore_is_punctuation() -> None:
    assert words("snake_case __init__") == ["snake", "case", "init"]
    assert words("snake_éclair_x") == ["snake", "éclair", "x"]


def test_ngrams_of_chinese() -> None:
    (hits,) = ngrams.overlaps(["请问：今天天气怎么样？谢谢"], ngrams.index(["今天天气怎么样"], 5))
    assert hits == [ngrams.Hit(0, 1.0, "今 天 天 气 怎 么 样", 2)]


@given(st.text(alphabet="aB3_é-. \n", max_size=12))
def test_ascii_takes_no_other_way_than_the_rest(text: str) -> None:
    ascii_ = text.replace("é", "")
    assert words(ascii_) == words(f"{ascii_} é")[:-1]


def test_spaced_keeps_every_sign_and_the_case() -> None:
    assert spaced(" Is\n 3  >\u00a04?\t") == "Is 3 > 4?"
