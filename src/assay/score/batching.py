"""Batches of similar length within a token budget: the same for scoring and for training."""

from collections.abc import Sequence

PADDING = 32
"""A batch's padding is at most one part in so many of the token budget: on a CPU a further pass costs less than more padding would."""


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Positions 0..n-1 in batches of similar length, the longest first, each of at most ``tokens`` tokens once padded to its longest.

    A sequence longer than ``tokens`` gets a batch of its own. Equal lengths keep their order, so the batches depend on nothing else.
    """
    batches: list[list[int]] = []
    widest = padding = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        padding += widest - lengths[i]
        if batches and widest * (len(batches[-1]) + 1) <= tokens and padding <= tokens / PADDING:
            batches[-1].append(i)
        else:
            batches.append([i])
            widest, padding = lengths[i], 0
    return batches
