"""Which sequences are computed together because they begin alike: answers to one prompt, whoever asked for them and in whatever form they came.

They are found in the token ids alone, so texts and token ids that name no prompt share as conversations do.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

MOST_TOGETHER = 8
"""Sequences that share one copy of their beginning; with more, what the mask costs outweighs what is saved."""
WORTH = 0.25
"""Sequences share a row only if that saves so much of their tokens; with less to share, the wider attention costs more."""


def by_beginning(sequences: Sequence[list[int]]) -> list[list[int]]:
    """Positions of distinct token sequences in groups to compute together, which save as many tokens as groups of neighbours in the order of a dictionary can; each position is in one."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    alike = [_alike(sequences[i], sequences[j]) for i, j in pairwise(order)]
    best: list[tuple[int, int]] = [(0, 0)]  # of the first 0, 1, ... of them: tokens saved at most, and where the last group then begins
    for end in range(1, len(order) + 1):
        begin, tokens = end - 1, len(sequences[order[end - 1]])
        found, shared = (best[begin][0], begin), tokens
        for begin in range(end - 2, max(-1, end - 1 - MOST_TOGETHER), -1):
            tokens += len(sequences[order[begin]])
            shared = min(shared, alike[begin])
            saved = (end - begin - 1) * shared
            if saved >= WORTH * tokens:
                found = max(found, (best[begin][0] + saved, begin))
        best.append(found)
    groups, end = list[list[int]](), len(order)
    while end:
        begin = best[end][1]
        groups.append(order[begin:end])
        end = begin
    return groups


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens both begin with, leaving each at least one of its own."""
    return bisect_left(range(min(len(one), len(other)) - 1), True, key=lambda at: one[: at + 1] != other[: at + 1])
