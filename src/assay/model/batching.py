"""Batches of similar length within a token budget: the same for scoring and for training, and for what attends together in a row."""

from collections.abc import Sequence

PADDING = 32
"""A batch's padding is at most one part in so many of the token budget: on a CPU a further pass costs less than more padding would."""


def by_length(lengths: Sequence[int], tokens: int, *, in_a_row: bool = False) -> list[list[int]]:
    """Positions 0..n-1 in batches of similar length, the longest first, each of at most ``tokens`` tokens once padded to its longest; ``in_a_row``, where nothing is padded, of at most so many in all.

    A sequence longer than ``tokens`` gets a batch of its own. Equal lengths keep their order, so the batches depend on nothing else.
    """
    batches: list[list[int]] = []
    widest = used = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        used += lengths[i]
        padded = used if in_a_row else widest * (len(batches[-1]) + 1) if batches else 0
        if batches and padded <= tokens and padded - used <= tokens / PADDING:
            batches[-1].append(i)
        else:
            batches.append([i])
            widest = used = lengths[i]
    return batches
