"""Shingles, signatures, bands and components, against sets, closed forms and a slow union-find."""

from collections import Counter
from itertools import pairwise
from math import sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assay.curate.kernels import minhash
from assay.curate.kernels.components import components
from assay.curate.kernels.text import words
from assay.curate.kernels.tokens import Hashes

# shingles

TEXTS = st.lists(st.lists(st.sampled_from(["a", "B", "c.", "é", "今天", "x y z"]), max_size=14).map(" ".join), max_size=6)


def slow(text: str, size: int, short: int) -> list[tuple[str, ...]]:
    """All shingles of a text, repeats included."""
    said = words(text)
    width = size if len(said) >= max(size, short, 2) else min(2, len(said))
    return [tuple(said[i : i + width]) for i in range(len(said) - width + 1)] if said else []


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.integers(1, 6), st.integers(2, 12))
@example(["a", "a b", "", "a b a b a b", "b"], 2, 4)
def test_shingles_are_those_of_the_slow_twin(texts: list[str], size: int, short: int) -> None:
    hashes, offsets = minhash.shingles(pl.Series(texts, dtype=pl.String), size, short)
    assert offsets[0] == 0
    assert offsets[-1] == len(hashes)
    assert len(offsets) == len(texts) + 1
    parts = [hashes[a:b].tolist() for a, b in pairwise(offsets)]
    expected = [slow(text, size, short) for text in texts]
    assert [len(part) for part in parts] == [len(shingles) for shingles in expected]
    hash_of: dict[tuple[str, ...], int] = {}
    for part, shingles in zip(parts, expected, strict=True):
        counts = Counter(part)
        assert sorted(counts.values()) == sorted(Counter(shingles).values())
        for number, shingle in zip(part, shingles, strict=True):
            assert hash_of.setdefault(shingle, number) == number
    assert len(set(hash_of.values())) == len(hash_of)


@pytest.mark.parametrize("short", [1, 3, 5, 20])
def test_a_text_with_a_word_has_a_shingle(short: int) -> None:
    """Else not even its copies would be like it."""
    texts = [" ".join("abcdefgh"[:n]) for n in range(9)]
    _, offsets = minhash.shingles(pl.Series(texts), 5, short)
    assert (np.diff(offsets) > 0).tolist() == [False, *[True] * 8]


@given(TEXTS, st.integers(1, 6))
def test_the_similarity_of_shingles_is_that_of_sets(texts: list[str], size: int) -> None:
    hashes, offsets = minhash.shingles(pl.Series(texts, dtype=pl.String), size, 6)
    parts = [np.unique(hashes[a:b]) for a, b in pairwise(offsets)]
    sets = [set(slow(text, size, 6)) for text in texts]
    for a, one in zip(parts, sets, strict=True):
        for b, other in zip(parts, sets, strict=True):
            assert minhash.jaccard(a, b) == (len(one & other) / len(one | other) if one | other else 1.0)


# signatures


def numbers(*names: range) -> Hashes:
    """Well-mixed numbers that stand for shingles."""
    named = np.concatenate([np.array(part, np.uint64) for part in names])
    with np.errstate(over="ignore"):
        mixed = (named + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)


def signed(*sets: Hashes, permutations: int = 256) -> np.ndarray:
    offsets = np.cumsum([0, *map(len, sets)])
    return minhash.signatures(np.concatenate(sets), offsets, permutations)


@pytest.mark.parametrize("common", [0, 20, 50, 100, 150, 180, 200])
@pytest.mark.parametrize("permutations", [64, 128, 256])
def test_agreement_estimates_the_similarity(common: int, permutations: int) -> None:
    """Over forty pairs of sets of 200; each agreement has a variance of J (1 - J) / permutations."""
    similarity, pairs = common / (400 - common), 40
    agreement = []
    for k in range(pairs):
        start = k * 1_000
        a, b = signed(numbers(range(start, start + 200)), numbers(range(start + 200 - common, start + 400 - common)), permutations=permutations)
        agreement.append(float((a == b).mean()))
        assert abs(agreement[-1] - similarity) <= 5 * sqrt(similarity * (1 - similarity) / permutations) + 1e-9
    assert abs(np.mean(agreement) - similarity) <= 4 * sqrt(similarity * (1 - similarity) / permutations / pairs) + 1e-9


def test_a_signature_is_of_the_set() -> None:
    one = numbers(range(50))
    turned, repeated = one[::-1].copy(), np.concatenate([one, one[:20]])
    found = signed(one, turned, repeated, numbers(range(1, 51)))
    assert found.shape == (4, 256)
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    assert (found[0] != found[3]).any()
    alone = signed(one)
    assert (alone[0] == found[0]).all()


def test_signatures_of_no_text_and_of_an_empty_one() -> None:
    assert minhash.signatures(np.zeros(0, np.uint64), np.zeros(1, np.int64), 64).shape == (0, 64)
    empty, other, also_empty = signed(numbers(range(0)), numbers(range(9)), numbers(range(0)), permutations=64)
    assert (empty == also_empty).all()
    assert not (empty == other).any()


# bands


@pytest.mark.parametrize(("rows", "count"), [(1, 128), (4, 32), (128, 1)])
def test_a_band_is_shared_by_those_that_agree_in_all_of_it(rows: int, count: int) -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**32, 128, dtype=np.uint32)
    several = np.where(rng.random((40, 128)) < 0.9, base, rng.integers(0, 2**32, (40, 128), dtype=np.uint32))
    found = minhash.bands(several, rows)
    assert found.shape == (40, count)
    for band in range(count):
        part = several[:, band * rows : (band + 1) * rows]
        alike = (part[:, None] == part[None]).all(axis=2)
        assert ((found[:, band, None] == found[None, :, band]) == alike).all()


THRESHOLDS = st.floats(0.05, 1.0)


@given(THRESHOLDS, st.sampled_from([64, 128, 256]), st.sampled_from([0.9, 0.99, 0.999]))
def test_the_longest_band_that_catches_enough_is_chosen(threshold: float, permutations: int, recall: float) -> None:
    count, rows = minhash.choose_bands(threshold, permutations, recall)
    assert count * rows == permutations
    divisors = [r for r in range(1, permutations + 1) if permutations % r == 0]
    enough = [r for r in divisors if 1 - (1 - threshold**r) ** (permutations // r) >= recall]
    assert rows == max(enough, default=1)


@pytest.mark.parametrize(("threshold", "permutations", "expected"), [
    (1.0, 128, (1, 128)), (0.8, 128, (32, 4)), (0.8, 256, (32, 8)), (0.5, 128, (64, 2)), (0.5, 64, (32, 2)), (0.01, 64, (64, 1)),
])  # fmt: skip
def test_bands_of_common_thresholds(threshold: float, permutations: int, expected: tuple[int, int]) -> None:
    """By hand: at 0.8, sixteen bands of eight catch 0.947, too little; thirty-two of them 0.997. At 0.01 nothing is enough."""
    assert minhash.choose_bands(threshold, permutations) == expected


def test_the_curve_is_that_of_the_bands() -> None:
    curve = minhash.s_curve(32, 4)
    assert list(curve) == ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]
    for similarity, caught in curve.items():
        assert caught == round(1 - (1 - float(similarity) ** 4) ** 32, 4)
    assert sorted(curve.values()) == list(curve.values())
    assert minhash.caught(0.0, 32, 4) == 0.0
    assert minhash.caught(1.0, 32, 4) == 1.0
    assert minhash.caught(0.5, 1, 3) == 0.125
    assert minhash.caught(0.25, 3, 1) == 1 - 0.75**3


def test_pairs_are_caught_as_often_as_the_curve_says() -> None:
    """300 pairs of a similarity of 1/2 and five bands of four: 1 - (1 - 1/16)^5 = 0.276."""
    pairs, caught = 300, 0
    for k in range(pairs):
        start = k * 1_000
        found = minhash.bands(signed(numbers(range(start, start + 90)), numbers(range(start + 30, start + 120)), permutations=20), 4)
        caught += bool((found[0] == found[1]).any())
    expected = minhash.caught(0.5, 5, 4)
    assert abs(caught / pairs - expected) <= 4 * sqrt(expected * (1 - expected) / pairs)


def test_the_similarity_of_empty_sets() -> None:
    empty, one = np.zeros(0, np.uint64), np.array([1], np.uint64)
    assert minhash.jaccard(empty, empty) == 1.0
    assert minhash.jaccard(empty, one) == minhash.jaccard(one, empty) == 0.0
    assert minhash.jaccard(one, one) == 1.0


# components

EDGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40)


def union_find(edges: list[tuple[int, int]]) -> dict[int, int]:
    """For each node, the lowest of its component."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in list(parent)}


def check(edges: list[tuple[int, int]]) -> None:
    nodes, group = components(np.array(edges, np.int64).reshape(-1, 2))
    expected = union_find(edges)
    assert nodes.tolist() == sorted(expected)
    lowest = sorted(set(expected.values()))
    assert group.tolist() == [lowest.index(expected[node]) for node in sorted(expected)]


@settings(max_examples=300)
@given(EDGES)
@example([])
@example([(3, 3)])
@example([(5, 1), (1, 5), (9, 5)])
def test_components_are_those_of_the_slow_twin(edges: list[tuple[int, int]]) -> None:
    check(edges)
    check([(a * 10**12 + 7, b * 10**12 + 7) for a, b in edges])


@pytest.mark.parametrize("order", ["up", "down", "mixed", "star", "tree"])
def test_long_chains_are_one_component(order: str) -> None:
    n = 3_000
    chain = [(i, i + 1) for i in range(n)]
    shuffled = np.random.default_rng(0).permutation(n + 1).tolist()
    edges = {
        "up": chain,
        "down": [(b, a) for a, b in chain[::-1]],
        "mixed": [(shuffled[a], shuffled[b]) for a, b in chain],
        "star": [(n, i) for i in range(n)],
        "tree": [(i, (i - 1) // 2) for i in range(1, n + 1)],
    }[order]
    nodes, group = components(np.array(edges, np.int64))
    assert nodes.tolist() == list(range(n + 1))
    assert set(group.tolist()) == {0}
    check(edges[::2])
