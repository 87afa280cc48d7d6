"""How token sequences lie in the tensors that go through the network.

``shared``: the answers to one prompt are one sequence, *prompt, answer 1 … answer n*; the prompt is computed once, the positions of every
answer start again where the prompt ends, and a mask keeps the answers from seeing each other. Groups are put into rows as wide as the
longest. ``packed``: every sequence has its own copy of the prompt; several go into a row as wide as the longest. ``padded``: one sequence a row, filled up to the
longest. All three give the same rewards; for a causal decoder the first costs the fewest tokens. An encoder reads in both directions,
so its prompt depends on the answer and only ``padded`` is right.

What is shared is found in the token ids (the longest common beginning), so no template can break it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Name = Literal["shared", "packed", "padded"]
Group = Sequence[Sequence[int]]
"""Token ids of the n conversations that answer one prompt."""
PADDING = -1


@dataclass(frozen=True, slots=True)
class Rows:
    """Groups laid out in ``rows`` rows of ``width`` tokens."""

    input_ids: Tensor
    """[rows, width]"""
    position_ids: Tensor
    """[rows, width]"""
    group: Tensor
    """[rows, width]: which group a token belongs to, ``PADDING`` where there is none."""
    answer: Tensor
    """[rows, width]: which answer of its group a token belongs to, from 1; 0 for the prompt."""
    last: Tensor
    """[n]: where each sequence ends, as a position in the flattened rows, in the order of the sequences given."""

    def to(self, device: torch.device) -> "Rows":
        """The same on another device, copied without waiting for it."""
        return Rows(*(t.to(device, non_blocking=True) for t in (self.input_ids, self.position_ids, self.group, self.answer, self.last)))

    def sees(self, window: int | None = None) -> Tensor:
        """Boolean mask [rows, 1, width, width]: whether a token (third axis) sees another. With ``window`` only the last so many positions."""
        mask = (self.group[:, :, None] == self.group[:, None, :]) & (self.position_ids[:, :, None] >= self.position_ids[:, None, :])
        mask &= (self.answer[:, None, :] == 0) | (self.answer[:, :, None] == self.answer[:, None, :])
        if window is not None:
            mask &= self.position_ids[:, :, None] - self.position_ids[:, None, :] < window
        return mask[:, None]

    def sees_at(self, window: int | None = None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same mask as a function of (row, head, token, other token), which FlexAttention takes."""

        def sees(row: Tensor, head: Tensor, token: Tensor, other: Tensor) -> Tensor:
            ahead = self.position_ids[row, token] - self.position_ids[row, other]
            seen = (self.group[row, token] == self.group[row, other]) & (ahead >= 0)
            seen &= (self.answer[row, other] == 0) | (self.answer[row, token] == self.answer[row, other])
            return seen if window is None else seen & (ahead < window)

        return sees


def common_beginning(group: Group) -> int:
    """How many tokens all sequences of ``group`` begin with, leaving each at least one token of its own."""
    shortest = min(map(len, group)) - 1
    first = group[0]
    for at in range(shortest):
        if any(one[at] != first[at] for one in group):
            return at
    return max(shortest, 0)


def size(group: Group, layout: Name) -> int:
    """Tokens that ``group`` takes; for ``padded``, with its own padding."""
    if layout == "padded":
        return len(group) * max(map(len, group))
    total = sum(map(len, group))
    return total - (len(group) - 1) * common_beginning(group) if layout == "shared" else total


def lay_out(groups: Sequence[Group], pad_id: int, *, share: bool) -> Rows:
    """``groups`` in rows as wide as the longest group, the longest first; a group goes into the first row that has room."""
    pieces = [_pieces(group, share) for group in groups]
    lengths = [sum(len(ids) for ids, _, _ in piece) for piece in pieces]
    width, rows, place = max(lengths), [0], [(0, 0)] * len(groups)
    for i in sorted(range(len(groups)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, used in enumerate(rows) if used + lengths[i] <= width), len(rows))
        if row == len(rows):
            rows.append(0)
        place[i] = (row, rows[row])
        rows[row] += lengths[i]
    ids, positions = torch.full((len(rows), width), pad_id), torch.zeros((len(rows), width), dtype=torch.long)
    group_of, answer_of = torch.full((len(rows), width), PADDING), torch.zeros((len(rows), width), dtype=torch.long)
    last = []
    for i, piece in enumerate(pieces):
        row, at = place[i]
        for tokens, start, answer in piece:
            here = slice(at, at + len(tokens))
            ids[row, here] = torch.tensor(tokens, dtype=torch.long)
            positions[row, here] = torch.arange(start, start + len(tokens))
            group_of[row, here], answer_of[row, here] = i, answer
            at += len(tokens)
            if answer:
                last.append(row * width + at - 1)
    return Rows(ids, positions, group_of, answer_of, torch.tensor(last))


def _pieces(group: Group, share: bool) -> list[tuple[Sequence[int], int, int]]:
    """(token ids, first position, number of the answer or 0) of a group, in the order they are written."""
    shared = common_beginning(group) if share else 0
    prompt = [(group[0][:shared], 0, 0)] if shared else []
    return prompt + [(one[shared:], shared, i + 1) for i, one in enumerate(group)]


def masks(rows: Rows, config: Any, make: Callable[[Rows, int | None], Any]) -> Any:
    """The attention masks of ``rows`` in the form the backbone of ``config`` takes: one, or one for each kind of its layers.

    ``make(rows, window)`` makes one.
    """
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if not kinds:
        return make(rows, window)
    known = {"full_attention": None, "sliding_attention": window}
    return {kind: make(rows, known[kind]) for kind in set(kinds)}
