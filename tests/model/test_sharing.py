"""Which sequences share their beginning: found in the ids alone, never wrong, and worth it."""

import random

from assay.model.layout import size
from assay.model.sharing import MOST_TOGETHER, WORTH, by_beginning

Sequences = list[list[int]]


def sets(groups: list[list[int]]) -> set[frozenset[int]]:
    return {frozenset(group) for group in groups}


def answers(prompt: list[int], *lengths: int) -> Sequences:
    """Answers of these lengths to a prompt, each of its own token."""
    return [prompt + [1_000 + 100 * len(prompt) + n] * length for n, length in enumerate(lengths)]


def test_answers_to_a_prompt_are_together_whatever_lies_between_them() -> None:
    one, other = answers([1] * 50, 10, 20, 5), answers([1] * 3 + [2] * 60, 8, 9)
    mixed = [one[0], other[0], one[1], [7, 8, 9], other[1], one[2]]
    assert sets(by_beginning(mixed)) == {frozenset({0, 2, 5}), frozenset({1, 4}), frozenset({3})}


def test_a_beginning_that_all_have_does_not_tear_longer_ones_apart() -> None:
    system = [9] * 40
    pairs = [answers(system + [n] * 80, 10, 10) for n in range(6)]
    assert sets(by_beginning([one for pair in pairs for one in pair])) == {frozenset({2 * n, 2 * n + 1}) for n in range(6)}


def test_a_long_beginning_that_all_have_is_shared_by_so_many_at_once() -> None:
    groups = by_beginning(answers([9] * 200, *range(5, 25)))
    assert sorted(map(len, groups)) == [4, MOST_TOGETHER, MOST_TOGETHER]


def test_little_in_common_is_not_worth_a_row() -> None:
    assert sets(by_beginning(answers([9] * 10, 100, 100))) == {frozenset({0}), frozenset({1})}
    assert sets(by_beginning([[1], [2], [3, 2], [4, 3]])) == {frozenset({n}) for n in range(4)}
    assert by_beginning([]) == []
    assert by_beginning([[5]]) == [[0]]


def test_a_sequence_that_another_begins_with_keeps_a_token_of_its_own() -> None:
    talk = list(range(100))
    assert sets(by_beginning([talk[:60], talk, talk[:90]])) == {frozenset({0, 1, 2})}


def test_of_any_sequences_each_is_in_one_group_that_saves_enough_whatever_their_order() -> None:
    rng = random.Random(0)
    for _ in range(200):
        beginnings = [[rng.randrange(3) for _ in range(rng.randrange(1, 40))] for _ in range(rng.randrange(1, 5))]
        sequences = list(map(list, {tuple(rng.choice(beginnings)[: rng.randrange(1, 40)] + [rng.randrange(3) for _ in range(rng.randrange(1, 30))]) for _ in range(rng.randrange(1, 30))}))
        groups = by_beginning(sequences)
        assert sorted(i for group in groups for i in group) == list(range(len(sequences)))
        for group in groups:
            members = [sequences[i] for i in group]
            assert len(group) == 1 or (len(group) <= MOST_TOGETHER and size(members, "shared") <= (1 - WORTH) * sum(map(len, members)))
        order = rng.sample(range(len(sequences)), len(sequences))
        assert sets([[order[i] for i in group] for group in by_beginning([sequences[i] for i in order])]) == sets(groups)
