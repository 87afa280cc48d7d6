"""The rolling-hash kernel against an obvious twin, and the normal form of texts."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.curate.kernels import ngrams
from assay.curate.kernels.text import key, normal, prompt_text, words

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


def check(texts: list[str], references: list[str], n: int) -> None:
    found = ngrams.overlaps(texts, ngrams.index(references, n))
    assert len(found) == len(texts)
    for text, hits in zip(texts, found, strict=True):
        expected = twin(text, references, n)
        assert {hit.reference: hit.coverage for hit in hits} == expected
        assert [hit.reference for hit in hits] == sorted(expected, key=lambda i: (-expected[i], i))
        for hit in hits:
            assert hit.span == longest_span(text, references[hit.reference], n)


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_agrees_with_sets_of_tuples(texts: list[str], references: list[str], n: int) -> None:
    check(texts, references, n)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_colliding_hashes_change_nothing(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "_word_hash", lambda word: 7)
    check(["a b c a b", "c c c", "b a", "", "a"], ["a b c", "b c a b c a", "c c c c", "a"], n)


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.integers(1, 5))
def test_a_text_covers_itself(texts: list[str], n: int) -> None:
    found = ngrams.overlaps(texts, ngrams.index(texts, n))
    for i, (text, hits) in enumerate(zip(texts, found, strict=True)):
        mine = [hit for hit in hits if hit.reference == i]
        if len(text.split()) < n:
            assert hits == []
        else:
            assert mine == [ngrams.Hit(i, 1.0, text)]
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
    assert hits == [ngrams.Hit(0, 0.5, "a a a a")]


def test_case_and_punctuation_are_ignored_on_both_sides() -> None:
    (hits,) = ngrams.overlaps(["THE, quick\nBrown fox!"], ngrams.index(["the quick (brown) fox jumps."], 3))
    assert hits == [ngrams.Hit(0, 2 / 3, "the quick brown fox")]


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
    assert len(key("ab")) == 32
