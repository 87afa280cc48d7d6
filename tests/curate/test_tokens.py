"""Words and n-grams by arrays, against lists and tuples of texts."""

from itertools import chain, pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.curate.kernels import tokens as kernel
from assay.curate.kernels.text import words
from assay.curate.kernels.tokens import Tokens, grams, tokenize

PIECES = ["A", "b", "ab", "Ab", "longer1", "eightlet", "ninelette", "sixteenlettersss", "seventeenletterss", "straße", "Éclair", "e\u0301", "今天", "タワー", "ﾀﾜｰ", "हाल", "한국어", "İ", "ǅ", "²", "½", "ﬁne", "x_y", "it's",
          "\u00ad", "\u200d", "\x00", "\x7f", "\x85", "\ufeff", "🙂", "👩‍👩‍👧", ".", "--", " ", "\n", "\t", "\u00a0", "\u3000"]  # fmt: skip
TEXT = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join), st.text(max_size=20))
TEXTS = st.lists(TEXT, max_size=6)


def listed(tokens: Tokens) -> list[list[str]]:
    """The words of each text."""
    return [tokens.words(a, b) for a, b in pairwise(tokens.offsets)]


@settings(deadline=None, max_examples=300)
@given(TEXTS)
@example(["", " ", "a", ""])
@example(["é", "a", "\u00ad", "b é"])
def test_words_are_those_of_the_slow_twin(texts: list[str]) -> None:
    tokens = tokenize(texts)
    assert listed(tokens) == [words(text) for text in texts]
    assert len(tokens.hashes) == len(tokens.begin) == len(tokens.end) == tokens.offsets[-1]
    assert tokens.owner().tolist() == [i for i, text in enumerate(texts) for _ in words(text)]


@settings(deadline=None, max_examples=200)
@given(TEXTS, TEXTS)
def test_a_hash_depends_on_the_word_alone(here: list[str], there: list[str]) -> None:
    hash_of: dict[str, int] = {}
    for texts in (here, there):
        tokens = tokenize(texts)
        for said, number in zip(chain(*listed(tokens)), tokens.hashes.tolist(), strict=True):
            assert hash_of.setdefault(said, number) == number
    assert len(set(hash_of.values())) == len(hash_of)


def test_words_alike_but_for_a_letter_or_a_length_have_different_hashes() -> None:
    alike = ["a" * n for n in range(1, 70)]
    alike += ["a" * n + "b" + "a" * m for n in range(26) for m in range(26)]
    alike += [f"{i}" for i in range(5_000)] + [f"prefix{i:06}" for i in range(5_000)] + [f"{i:06}suffix" for i in range(5_000)]
    tokens = tokenize(alike)
    assert tokens.offsets[-1] == len(alike)
    assert len(np.unique(tokens.hashes)) == len(set(alike))


def test_hashes_are_the_same_on_every_machine() -> None:
    """Computed with whole numbers, eight bytes at a time, by the rule that ``_hashed`` states."""

    def slow(word: str) -> int:
        raw, full = word.encode(), 2**64 - 1
        value = len(raw) * int(kernel._TWO) & full
        for at in range(0, len(raw), 8):
            value = (value ^ int.from_bytes(raw[at : at + 8], "little")) * int(kernel._ONE) & full
            value ^= value >> 32
            value = value * int(kernel._TWO) & full
            value ^= value >> 29
        return value

    said = ["a", "hello", "eightlet", "ninelette", "sixteenlettersss", "seventeenletterss", "straße", "今", "x" * 100]
    assert tokenize([" ".join(said)]).hashes.tolist() == [slow(word) for text in said for word in words(text)]
    assert tokenize(["hello"]).hashes.tolist() == [13401851917597606271]


def test_a_series_in_chunks_or_cut_or_with_nulls() -> None:
    texts = ["zero one", "Two", "", "three éclairs", "four"]
    expected = [words(text) for text in texts]
    whole = pl.Series(texts)
    assert listed(tokenize(whole)) == expected
    assert listed(tokenize(whole[:2].append(whole[2:]))) == expected
    assert listed(tokenize(whole[1:4])) == expected[1:4]
    assert listed(tokenize(pl.Series([None, "a", None], dtype=pl.String))) == [[], ["a"], []]
    assert listed(tokenize(pl.Series([], dtype=pl.String))) == listed(tokenize([])) == []


def tuples(text: str, n: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


SHORT = st.lists(st.lists(st.sampled_from(["a", "b", "c", "é", "今"]), max_size=20).map(" ".join), max_size=5)


@settings(deadline=None, max_examples=300)
@given(st.one_of(SHORT, TEXTS), st.integers(1, 14))
def test_grams_are_those_of_the_slow_twin(texts: list[str], n: int) -> None:
    tokens = tokenize(texts)
    found, place = grams(tokens, n)
    assert len(found) == len(place)
    flat = list(chain(*listed(tokens)))
    said = [tuple(flat[at : at + n]) for at in place.tolist()]
    assert said == [gram for text in texts for gram in tuples(text, n)]
    assert tokens.owner()[place].tolist() == [i for i, text in enumerate(texts) for _ in tuples(text, n)]
    hash_of: dict[tuple[str, ...], int] = {}
    for gram, number in zip(said, found.tolist(), strict=True):
        assert hash_of.setdefault(gram, number) == number
    assert len(set(hash_of.values())) == len(hash_of)


@pytest.mark.parametrize("n", range(1, 34))
def test_doubling_gives_the_polynomial(n: int) -> None:
    tokens = tokenize([" ".join(f"w{i * i % 23}" for i in range(40))])
    numbers, found = tokens.hashes.tolist(), grams(tokens, n)[0].tolist()
    assert len(found) == 40 - n + 1
    assert found == [sum(h * pow(int(kernel._ONE), n - 1 - k, 2**64) for k, h in enumerate(numbers[i : i + n])) % 2**64 for i in range(len(found))]


def test_the_order_of_the_words_of_a_gram_matters() -> None:
    found, _ = grams(tokenize(["a b c", "c b a", "b a c", "a b c", "a a b", "a b b"]), 3)
    assert len(set(found.tolist())) == 5
    assert found[0] == found[3]


def test_grams_of_one_word_are_the_words() -> None:
    tokens = tokenize(["a b", "", "c a"])
    found, place = grams(tokens, 1)
    assert found.tolist() == tokens.hashes.tolist()
    assert place.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("texts", [[], [""], ["", "é?"], ["a b", "c d", "e"]])
def test_texts_too_short_have_no_grams(texts: list[str]) -> None:
    found, place = grams(tokenize(texts), 3)
    assert (len(found), len(place)) == (0, 0)
