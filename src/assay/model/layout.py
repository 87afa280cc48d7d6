"""How token sequences lie in the tensors that go through the network.

``shared``: the answers to one prompt are one group, *prompt, answer 1 … answer n*; the prompt is computed once, the positions of every
answer start again where the prompt ends, and a mask keeps the answers from seeing each other. ``packed``: every sequence has its own copy of the prompt. In both, all
groups lie in a single row, one after another, and nothing is padded; for attention alone they are taken apart, those of similar length together (``Block``).
``padded``: one sequence a row, filled up to the longest. All three give the same rewards; for a causal decoder the first costs the fewest tokens. An encoder
reads in both directions, so its prompt depends on the answer and cannot be shared.

What is shared is found in the token ids (the longest common beginning), so no template can break it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, starmap
from typing import Any, Literal

import torch
from torch import Tensor

from assay.model.batching import by_length

Name = Literal["shared", "packed", "padded"]
Group = Sequence[Sequence[int]]
"""Token ids of the n conversations that answer one prompt."""
ATTENDING = 1 << 17
"""Pairs of tokens in a block at most: with a dozen heads in bf16 their scores are 3 MB, which a processor's caches hold and glibc does not give back to the system between passes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Groups of similar length that lie next to each other in the row and attend at the same time: ``number`` groups, each padded to ``width`` tokens."""

    number: int
    width: int
    place: Tensor
    """[tokens]: which of the number x width places each of its tokens takes."""
    token: Tensor
    """[number x width]: which of its tokens stands at each place; where there is none, the first of the group."""

    def to(self, device: torch.device) -> "Block":
        """The same on another device, copied without waiting for it."""
        return Block(self.number, self.width, self.place.to(device, non_blocking=True), self.token.to(device, non_blocking=True))

    @property
    def even(self) -> bool:
        """Whether all its groups are of the same length."""
        return len(self.place) == len(self.token)

    def apart(self, tokens: Tensor) -> Tensor:
        """[tokens, ...] as [number, width, ...]. Copies that fill a place up have no part in the gradient."""
        found: Tensor = tokens if self.even else _Apart.apply(tokens, self.token, self.place)  # type: ignore[no-untyped-call]
        return found.reshape(self.number, self.width, *found.shape[1:])

    def spread(self, tokens: Tensor) -> Tensor:
        """The same with zeros where a place is filled up; without a gradient."""
        if not self.even:
            tokens = tokens.new_zeros(len(self.token), *tokens.shape[1:]).index_copy_(0, self.place, tokens)
        return tokens.reshape(self.number, self.width, *tokens.shape[1:])

    def in_a_row(self, places: Tensor) -> Tensor:
        """[number, width, ...] as [tokens, ...]."""
        flat = places.flatten(0, 1)
        found: Tensor = flat if self.even else _InARow.apply(flat, self)  # type: ignore[no-untyped-call]
        return found


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.place = place
        return tokens.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.place), None, None


class _InARow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, places: Tensor, block: Block) -> Tensor:
        ctx.block = block
        return places.index_select(0, block.place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.block.spread(gradient).flatten(0, 1), None


@dataclass(frozen=True, slots=True)
class Row:
    """Groups laid out in one row of tokens, the longest group first."""

    input_ids: Tensor
    """[1, tokens]"""
    position_ids: Tensor
    """[1, tokens]"""
    group: Tensor
    """[1, tokens]: which group a token belongs to."""
    answer: Tensor
    """[1, tokens]: which answer of its group a token belongs to, from 1; 0 for the prompt."""
    last: Tensor
    """[n]: where each sequence ends, in the order of the sequences given."""
    blocks: tuple[Block, ...]

    def to(self, device: torch.device) -> "Row":
        """The same on another device, copied without waiting for it."""
        ids, positions, group, answer, last = (t.to(device, non_blocking=True) for t in (self.input_ids, self.position_ids, self.group, self.answer, self.last))
        return Row(ids, positions, group, answer, last, tuple(block.to(device) for block in self.blocks))

    def sees(self, window: int | None = None, *, causal: bool = True) -> Tensor:
        """Whether a token sees another, a boolean [number, width, width] for each block (second axis the one that sees), all of them one after another as [1, 1, 1, n].

        With ``window`` only the last so many positions; without ``causal`` all tokens of the group. At a place that is filled up stands what the group's first token sees.
        """
        found = []
        for block, position, answer in zip(self.blocks, apart(self.position_ids, self.blocks), apart(self.answer, self.blocks), strict=True):
            real = torch.zeros_like(block.token, dtype=torch.bool).index_fill_(0, block.place, True).view(block.number, 1, block.width)
            found.append(real & (_seen(position[:, :, None], position[:, None], answer[:, :, None], answer[:, None], window) if causal else torch.ones_like(real.mT)))
        return torch.cat([one.flatten() for one in found])[None, None, None]

    def sees_at(self, window: int | None = None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same for tokens of the whole row as a function of (row, head, token, other token), which FlexAttention takes."""

        def sees(row: Tensor, head: Tensor, token: Tensor, other: Tensor) -> Tensor:
            same = self.group[row, token] == self.group[row, other]
            return same & _seen(self.position_ids[row, token], self.position_ids[row, other], self.answer[row, token], self.answer[row, other], window)

        return sees


def _seen(position: Tensor, other: Tensor, answer: Tensor, others: Tensor, window: int | None) -> Tensor:
    """Whether tokens see others of their group: those before them in the prompt or in their own answer."""
    seen = (position >= other) & ((others == 0) | (answer == others))
    return seen if window is None else seen & (position - other < window)


def apart(tokens: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """What stands in a row, [1, tokens, ...], by blocks: [number, width, ...] each."""
    return [block.apart(one) for block, one in zip(blocks, torch.split(tokens[0], [len(block.place) for block in blocks]), strict=True)]


def slices(blocks: Sequence[Block]) -> list[slice]:
    """Where each block lies in the row."""
    ends = list(accumulate(len(block.place) for block in blocks))
    return list(starmap(slice, pairwise([0, *ends])))


def firsts(blocks: Sequence[Block]) -> Tensor:
    """Where each group begins in the row, [groups]."""
    return torch.cat([block.token[:: block.width] + here.start for block, here in zip(blocks, slices(blocks), strict=True)])


def masks_of(mask: Tensor | None, blocks: Sequence[Block]) -> Sequence[Tensor | None]:
    """What ``Row.sees`` gave, by blocks: [number, 1, width, width] each."""
    if mask is None:
        return [None] * len(blocks)
    each = torch.split(mask.flatten(), [block.number * block.width**2 for block in blocks])
    return [one.view(block.number, 1, block.width, block.width) for block, one in zip(blocks, each, strict=True)]


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


def lay_out(groups: Sequence[Group], *, share: bool) -> Row:
    """``groups`` in one row, the longest first."""
    pieces = [_pieces(group, share) for group in groups]
    lengths = [sum(len(ids) for ids, _, _ in piece) for piece in pieces]
    together = [some for batch in by_length(lengths, sum(lengths)) for some in _attending(batch, lengths)]
    tokens = sum(lengths)
    ids, positions, group_of, answer_of = (torch.empty(tokens, dtype=torch.long) for _ in range(4))
    ends: list[list[int]] = [[] for _ in groups]
    at = 0
    for i in (i for some in together for i in some):
        for piece, start, answer in pieces[i]:
            here = slice(at, at + len(piece))
            ids[here] = torch.tensor(piece, dtype=torch.long)
            positions[here] = torch.arange(start, start + len(piece))
            group_of[here], answer_of[here] = i, answer
            at += len(piece)
            if answer:
                ends[i].append(at - 1)
    last = torch.tensor([end for group in ends for end in group])
    return Row(ids[None], positions[None], group_of[None], answer_of[None], last, tuple(_block([lengths[i] for i in some]) for some in together))


def _attending(batch: list[int], lengths: Sequence[int]) -> list[list[int]]:
    """The groups of a batch in parts of at most ``ATTENDING`` pairs of tokens, or a single group."""
    most = max(1, ATTENDING // lengths[batch[0]] ** 2)
    return [batch[at : at + most] for at in range(0, len(batch), most)]


def _block(lengths: Sequence[int]) -> Block:
    """The block of groups of these lengths, the longest first."""
    width, length = lengths[0], torch.tensor(lengths)[:, None]
    column = torch.arange(width)[None]
    real = column < length
    begin = length.cumsum(0) - length
    return Block(len(lengths), width, real.flatten().nonzero()[:, 0], torch.where(real, begin + column, begin).flatten())


def _pieces(group: Group, share: bool) -> list[tuple[Sequence[int], int, int]]:
    """(token ids, first position, number of the answer or 0) of a group, in the order they are written."""
    shared = common_beginning(group) if share else 0
    prompt = [(group[0][:shared], 0, 0)] if shared else []
    return prompt + [(one[shared:], shared, i + 1) for i, one in enumerate(group)]


def masks(row: Row, config: Any, make: Callable[[Row, int | None], Any]) -> Any:
    """The attention masks of ``row`` in the form the backbone of ``config`` takes: one, or one for each kind of its layers.

    ``make(row, window)`` makes one.
    """
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if not kinds:
        return make(row, window)
    known = {"full_attention": None, "sliding_attention": window}
    return {kind: make(row, known[kind]) for kind in set(kinds)}
