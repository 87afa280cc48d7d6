"""Batches: every pair once an epoch, the order a function of seed and epoch, every part within its budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.score.batching import by_length
from assay.train.batches import StepSampler, TokenPair, micro_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 600))
def test_by_length_is_a_partition_within_the_budget(lengths: list[int], tokens: int) -> None:
    batches = by_length(lengths, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_pair_once_an_epoch(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    sampler = StepSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    steps = list(sampler)
    assert sorted(i for step in steps for i in step) == list(range(len(lengths)))
    assert len(steps) == len(sampler)
    assert steps == list(sampler)
    assert sum(len(step) != batch_size for step in steps) <= 1


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = StepSampler(list(range(1, 101)), 10, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_steps_hold_pairs_of_similar_length() -> None:
    lengths = [(i * 7919) % 500 + 1 for i in range(3200)]
    spread = [max(step_lengths) - min(step_lengths) for step in StepSampler(lengths, 32, 0) if (step_lengths := [lengths[i] for i in step])]
    assert sum(spread) / len(spread) < 50


@pytest.mark.parametrize("tokens", [1, 64, 100_000])
def test_micro_batches_keep_both_sides_within_the_budget(tokens: int) -> None:
    pairs = [TokenPair([1] * n, [1] * (20 - n)) for n in range(1, 20)]
    parts = micro_batches(pairs, tokens)
    assert sorted(len(p.chosen) for part in parts for p in part) == list(range(1, 20))
    for part in parts:
        assert len(part) == 1 or 2 * len(part) * max(p.longest() for p in part) <= tokens
