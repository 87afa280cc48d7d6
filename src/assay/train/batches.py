"""Batches for training: every optimiser step holds the same number of examples drawn at random, and is worked off in parts of similar length.

An epoch is shuffled and dealt into steps; a step is cut into parts that need little padding and stay within a token budget. So what a step learns from does not
depend on lengths (steps of examples of like length pad no less, and were behind after as many of them: docs/results.md). The order is a function of the seed and the epoch
alone, which is what makes a resumed run go on exactly where the killed one stood, and every process of several know its own part.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset, Sampler

from assay.model.batching import by_length
from assay.model.layout import Group, Name, size


@dataclass(frozen=True, slots=True)
class Example:
    """Answers to one prompt as token ids of whole conversations: a pair, the chosen one first, or a single rated answer."""

    answers: tuple[list[int], ...]
    weight: float = 1.0
    margin: float = 0.0
    lengths: tuple[int, ...] = ()
    """Characters of each answer."""
    ratings: tuple[float, ...] = ()
    """One for each attribute, NaN where there is none."""
    prompt: str = ""
    """Identity of the prompt."""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Examples that go through the network together."""

    examples: list[Example]
    groups: list[Group]
    """The different answers to each prompt."""
    places: list[list[int]]
    """For each example, which sequences of the groups (counted through) its answers are."""


class ExampleSet(Dataset[Example]):
    """Examples by position."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


class StepSampler(Sampler[list[int]]):
    """Yields the positions of each optimiser step's examples; every epoch has as many steps. A last step of fewer is kept.

    With ``prompts``, the examples of a prompt stay together (cut where they are more than a step), so that a step has about ``batch_size`` of them.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, prompts: Sequence[str] | None = None) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        of: dict[object, list[int]] = {}
        for i in range(len(lengths)):
            of.setdefault(prompts[i] if prompts else i, []).append(i)
        self.units = [unit[at : at + batch_size] for unit in of.values() for at in range(0, len(unit), batch_size)]
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        units = list(self.units)
        rng.shuffle(units)
        steps = _dealt(units, self.batch_size)
        if len(steps) < len(self):  # the last unit began one step early
            at = max(i for i, step in enumerate(steps) if len(step) > 1)
            steps.insert(at + 1, [steps[at].pop()])
        for step in steps:  # by length, so that processes, which take every so many-th, get as much to do each
            yield [i for unit in sorted(step, key=lambda unit: max(self.lengths[i] for i in unit)) for i in unit]


def _dealt(units: Sequence[list[int]], number: int) -> list[list[list[int]]]:
    """``units`` in order, each in the part that its first position falls in, if parts had ``number`` positions each."""
    dealt: list[list[list[int]]] = []
    before = 0
    for unit in units:
        if before // number >= len(dealt):
            dealt.append([])
        dealt[-1].append(unit)
        before += len(unit)
    return dealt


def parts(examples: Sequence[Example], tokens: int, layout: Name) -> list[Part]:
    """The examples of a step in parts that take at most ``tokens`` tokens in ``layout``, padding included. One that is larger is a part of its own.

    Where prompts are shared, examples with the same prompt become one group, in which an answer stands once.
    """
    units: dict[object, list[Example]] = {}
    for i, example in enumerate(examples):
        units.setdefault(example.prompt if layout == "shared" and example.prompt else i, []).append(example)
    fitting = [few for unit in units.values() for few in _fitting(unit, tokens, layout)]
    lengths = [size(_distinct(unit), layout) for unit in fitting]
    return [_part([fitting[i] for i in part]) for part in by_length(lengths, tokens, in_a_row=layout != "padded")]


def _fitting(unit: list[Example], tokens: int, layout: Name) -> list[list[Example]]:
    """``unit`` in parts, each within ``tokens`` tokens or a single example."""
    if len(unit) == 1 or size(_distinct(unit), layout) <= tokens:
        return [unit]
    middle = len(unit) // 2
    return _fitting(unit[:middle], tokens, layout) + _fitting(unit[middle:], tokens, layout)


def _distinct(unit: Sequence[Example]) -> list[list[int]]:
    return list({tuple(answer): answer for example in unit for answer in example.answers}.values())


def _part(units: Sequence[list[Example]]) -> Part:
    groups: list[Group] = []
    places, before = [], 0
    for unit in units:
        group = _distinct(unit)
        at = {tuple(answer): before + i for i, answer in enumerate(group)}
        places += [[at[tuple(answer)] for answer in example.answers] for example in unit]
        groups.append(group)
        before += len(group)
    return Part([example for unit in units for example in unit], groups, places)
