"""Batches: every pair once an epoch, the order a function of seed and epoch, every part within its budget."""

import random
from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.model.batching import PADDING, by_length
from assay.model.layout import Name, lay_out
from assay.model.network import pad
from assay.train.batches import Example, Part, StepSampler, parts

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 600))
def test_by_length_is_a_partition_within_the_budget(lengths: list[int], tokens: int) -> None:
    batches = by_length(lengths, tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens
        assert max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) <= tokens / PADDING


@given(LENGTHS, st.integers(1, 600))
def test_in_a_row_a_batch_takes_what_fits(lengths: list[int], tokens: int) -> None:
    batches = by_length(lengths, tokens, in_a_row=True)
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        used = sum(lengths[i] for i in batch)
        assert len(batch) == 1 or used <= tokens
        assert not following or used + lengths[following[0]] > tokens


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


def test_what_a_step_holds_does_not_depend_on_lengths() -> None:
    """A model should not learn from the long ones at one time and from the short ones at another."""
    lengths = [(i * 7919) % 500 + 1 for i in range(320)]
    steps, even = list(StepSampler(lengths, 32, 0)), list(StepSampler([1] * 320, 32, 0))
    assert [set(step) for step in steps] == [set(step) for step in even]
    assert all([lengths[i] for i in step] == sorted(lengths[i] for i in step) for step in steps)


def test_processes_get_as_many_tokens_of_a_step() -> None:
    lengths = [(i * 7919) % 500 + 1 for i in range(3200)]
    for step in StepSampler(lengths, 32, 0):
        first, second = (sum(lengths[i] for i in step[rank::2]) for rank in (0, 1))
        assert abs(first - second) <= 500


@given(st.integers(8, 40), st.integers(0, 5))
def test_parts_of_a_random_step_need_little_padding(number: int, seed: int) -> None:
    examples = [Example(([1] * n, [2] * n)) for n in random.Random(seed).choices(range(8, 513), k=number)]
    made = parts(examples, 4_096, "padded")
    tokens = sum(len(answer) for e in examples for answer in e.answers)
    padded = sum(pad(sequences(part), 0, "cpu")["input_ids"].numel() for part in made)
    assert padded <= tokens + len(made) * 4_096 // PADDING


@pytest.mark.parametrize("tokens", [1, 64, 100_000])
def test_micro_batches_keep_both_sides_within_the_budget(tokens: int) -> None:
    examples = [Example(([1] * n, [2] * (20 - n))) for n in range(1, 20)]
    made = parts(examples, tokens, "padded")
    assert sorted(len(e.answers[0]) for part in made for e in part.examples) == list(range(1, 20))
    for part in made:
        assert len(part.examples) == 1 or 2 * len(part.examples) * max(len(a) for e in part.examples for a in e.answers) <= tokens


# prompts that stay together


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 5), st.data())
def test_a_prompt_is_split_over_steps_only_where_it_is_more_than_one(prompts: list[str], batch_size: int, seed: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 300), min_size=len(prompts), max_size=len(prompts)))
    sampler = StepSampler(lengths, batch_size, seed, prompts)
    steps = list(sampler)
    assert sorted(i for step in steps for i in step) == list(range(len(prompts)))
    assert len(steps) == len(sampler)
    assert steps == list(sampler)
    where = Counter(prompt for step in steps for prompt in {prompts[i] for i in step})
    size = Counter(prompts)
    assert all(where[prompt] <= -(-size[prompt] // batch_size) for prompt in size)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 5))
def test_steps_of_whole_prompts_are_as_many_as_without_them_and_none_is_empty(sizes: list[int], batch_size: int, seed: int) -> None:
    prompts = [str(k) for k, number in enumerate(sizes) for _ in range(number)]
    sampler = StepSampler([1] * len(prompts), batch_size, seed, prompts)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        steps = list(sampler)
        assert len(steps) == len(sampler) == -(-len(prompts) // batch_size)
        assert all(0 < len(step) < 2 * batch_size for step in steps)


# parts

LAYOUTS: tuple[Name, ...] = get_args(Name)
ENDS = st.lists(st.integers(1, 3), max_size=9)


@st.composite
def some_examples(draw: st.DrawFn) -> list[Example]:
    """Pairs, or single answers, to few prompts, of few different tokens; both answers of a pair are never the same."""
    prompts = {name: draw(st.lists(st.integers(1, 3), max_size=12)) for name in "abc"}
    sides = draw(st.sampled_from([(7, 8), (7,)]))
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
    return [Example(tuple([*prompts[name], *draw(ENDS), side] for side in sides), prompt=name, id=str(i)) for i, name in enumerate(names)]


def sequences(part: Part) -> list[list[int]]:
    return [list(one) for group in part.groups for one in group]


def laid_out(part: Part, layout: Name) -> int:
    """Tokens that go through the network, with padding; for `packed` without it."""
    if layout == "padded":
        return pad(sequences(part), 0, "cpu")["input_ids"].numel()
    if layout == "packed":
        return sum(map(len, sequences(part)))
    return lay_out(part.groups, share=True).input_ids.numel()


@settings(deadline=None, max_examples=60)
@given(some_examples(), st.integers(1, 150))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_hold_every_example_once_and_places_point_to_its_answers(layout: Name, examples: list[Example], tokens: int) -> None:
    made = parts(examples, tokens, layout)
    assert sorted((e.id for part in made for e in part.examples), key=int) == [e.id for e in examples]
    for part in made:
        there = sequences(part)
        assert [[there[i] for i in places] for places in part.places] == [list(e.answers) for e in part.examples]
        assert {i for places in part.places for i in places} == set(range(len(there)))


@settings(deadline=None, max_examples=60)
@given(some_examples(), st.integers(1, 150))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_keep_the_budget_unless_one_example_is_larger(layout: Name, examples: list[Example], tokens: int) -> None:
    for part in parts(examples, tokens, layout):
        assert len(part.examples) == 1 or laid_out(part, layout) <= tokens


@settings(deadline=None, max_examples=60)
@given(some_examples())
def test_examples_of_a_prompt_are_a_group_where_an_answer_stands_once(examples: list[Example]) -> None:
    (part,) = parts(examples, 100_000, "shared")
    groups: dict[str, list[list[int]]] = {}
    for e in examples:
        for answer in e.answers:
            if answer not in groups.setdefault(e.prompt, []):
                groups[e.prompt].append(answer)
    assert sorted(sorted(map(list, group)) for group in part.groups) == sorted(map(sorted, groups.values()))


@pytest.mark.parametrize("more", [{"prompt": "a"}, {}])
def test_only_the_shared_layout_puts_examples_together_and_only_those_of_a_known_prompt(more: dict[str, Any]) -> None:
    examples = [Example(([5, 5, 5, i], [5, 5, 5, 9]), **more) for i in range(4)]
    for layout in LAYOUTS:
        (part,) = parts(examples, 1_000, layout)
        assert sorted(map(len, part.groups)) == ([5] if layout == "shared" and more else [2] * 4)


@pytest.mark.parametrize(("tokens", "largest"), [(1_000, 8), (130, 8), (129, 4), (90, 4), (89, 2), (70, 2), (60, 1), (1, 1)])
def test_a_prompt_over_the_budget_is_split(tokens: int, largest: int) -> None:
    """Eight pairs: a prompt of 50 tokens and answers of 5, so that 50 + 10 n tokens are n pairs."""
    prompt = [1] * 50
    examples = [Example(([*prompt, *[2 * i] * 5], [*prompt, *[2 * i + 1] * 5]), prompt="a", id=str(i)) for i in range(1, 9)]
    made = parts(examples, tokens, "shared")
    assert sorted(e.id for part in made for e in part.examples) == sorted(e.id for e in examples)
    assert {len(group) for part in made for group in part.groups} == {2 * largest}
    assert all(laid_out(part, "shared") <= tokens or len(part.examples) == 1 for part in made)
