"""Batches for training: every optimiser step has the same number of pairs, of similar length, cut to a token budget.

Pairs are shuffled, sorted by length within windows of several steps, and dealt into steps; the steps are shuffled again. So a step
holds pairs that need little padding while the order of the steps stays random. The order is a function of the seed and the epoch
alone, which is what makes a resumed run go on exactly where the killed one stood.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset, Sampler

from assay.score.batching import by_length

WINDOW = 16
"""Steps whose pairs are sorted together."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A pair as token ids."""

    chosen: list[int]
    rejected: list[int]
    weight: float = 1.0

    def longest(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen), len(self.rejected))


class PairSet(Dataset[TokenPair]):
    """Token pairs by position."""

    def __init__(self, pairs: Sequence[TokenPair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> TokenPair:
        return self.pairs[index]


class StepSampler(Sampler[list[int]]):
    """Yields the positions of each optimiser step's pairs. A last step of fewer pairs is kept."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        steps = []
        for start in range(0, len(order), self.batch_size * WINDOW):
            window = sorted(order[start : start + self.batch_size * WINDOW], key=lambda i: self.lengths[i])
            steps += [window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)]
        rng.shuffle(steps)
        yield from steps


def micro_batches(pairs: Sequence[TokenPair], tokens: int) -> list[list[TokenPair]]:
    """The pairs of a step in parts whose two sides, padded, have at most ``tokens`` tokens."""
    parts = by_length([2 * pair.longest() for pair in pairs], tokens)
    return [[pairs[i] for i in part] for part in parts]
