"""The models behind the port: from what a request says to rewards, through the queue."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay.errors import AssayError, did_you_mean
from assay.model.onnx import OnnxModel
from assay.model.reward_model import RewardModel
from assay.model.template import completed
from assay.score.checkpoint import CheckpointScorer, score_tokens
from assay.score.ensembles import Ensemble
from assay.serve.queue import Queue

Conversation = list[dict[str, str]]
Served = CheckpointScorer | Ensemble
Encode = Callable[[RewardModel, slice], tuple[list[list[int]], list[bool]]]
"""Token ids of some of the items, and which of them were cut."""
MESSAGE_CHARACTERS = 16
"""What a message counts for beside its text: the template writes something around an empty one, too."""
AT_ONCE = 2
"""Batches under way at once on a CPU, with half of its cores each. A pass is hundreds of small operations, in each of which all cores wait for the slowest and for Python: on two cores two passes, one core each, score
half as much again (MiniLM in bf16)."""
TOGETHER = 1 << 16
"""Characters tokenised at once; then comes whoever else waits, and work whose request is gone ends."""


class Unfit(Exception):
    """A request that asks for something that can't be: answered with 400, with 404 for a model that is not there, or with 413 where it has too much text."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one conversation."""

    outputs: list[float]
    """The reward, then the attributes if there are several."""
    tokens: int
    truncated: bool

    @property
    def reward(self) -> float:
        """The reward."""
        return self.outputs[0]


class Models:
    """The served models by name; the first is the one a request gets that names none. An ensemble is asked of its members, each of which has a queue, once however many ensembles it is in."""

    def __init__(self, scorers: dict[str, Served], *, batch_tokens: int, waiting_tokens: int, request_seconds: float, most_items: int, most_characters: int, observe: Callable[[int, int, float], None] | None = None) -> None:
        self.scorers, self.most_items, self.most_characters = scorers, most_items, most_characters
        one_by_one = any(_only_one_pass(c.reward_model.model) for scorer in scorers.values() for c in checkpoints_of(scorer))
        self.threads = torch.get_num_threads()
        at_once = 1 if one_by_one else min(AT_ONCE, self.threads)
        self.executor = ThreadPoolExecutor(at_once, "assay-score")
        self.tokenizing = ThreadPoolExecutor(1, "assay-tokenize")  # a fast tokenizer is not to be used from two threads
        limits: dict[str, Any] = {"batch_tokens": batch_tokens, "waiting_tokens": waiting_tokens, "request_seconds": request_seconds, "observe": observe, "at_once": at_once}
        self.queues = {one: Queue(partial(self._score, one, batch_tokens), self.executor, **limits) for scorer in scorers.values() for one in checkpoints_of(scorer)}

    def _score(self, scorer: CheckpointScorer, batch_tokens: int, ids: list[list[int]]) -> NDArray[np.float32]:
        """Scores of a batch, in a thread of the executor: by all cores if it is alone, or else by a part of them."""
        queues = self.queues.values()
        alone = sum(queue.at_once - queue.free for queue in queues) == 1 and not any(queue.waiting for queue in queues)
        torch.set_num_threads(self.threads if alone else max(1, self.threads // self.queues[scorer].at_once))
        return score_tokens(scorer.reward_model, ids, scorer.precision, batch_tokens)

    def named(self, name: str | None) -> str:
        """The name of the model that a request asks for.

        Raises:
            Unfit: it is not served.
        """
        if name is None or name in self.scorers:
            return name or next(iter(self.scorers))
        raise Unfit(f"there is no model `{name}`.{did_you_mean(name, self.scorers)} Served: {', '.join(self.scorers)}", 404)

    def check_items(self, items: int) -> None:
        """Check that there is something to score, and not too much; an endpoint asks before it makes anything of the items.

        Raises:
            Unfit: none or too many.
        """
        if not items:
            raise Unfit("there is nothing to score")
        if items > self.most_items:
            raise Unfit(f"{items:,} items at once, allowed are {self.most_items:,}")

    def check_characters(self, characters: int) -> None:
        """Check how much text there is; where a prompt is written once for several answers, before it is repeated.

        Raises:
            Unfit: too much.
        """
        if characters > self.most_characters:
            raise Unfit(f"{characters:,} characters with the prompt before each answer, allowed are {self.most_characters:,}; send fewer at once", 413)

    async def conversations(self, name: str | None, conversations: list[Conversation]) -> list[Answer]:
        """What a model says of conversations, each ending with the answer.

        Raises:
            Unfit: too many, too long, or one of them is no conversation for this model.
            Busy: too much is waiting.
            TooMuch: they would take too long.
        """
        model = self.named(name)
        self.check_items(len(conversations))
        sizes = [characters(c) for c in conversations]
        self.check_characters(sum(sizes))
        return await self._answers(self.scorers[model], lambda reward_model, part: reward_model.encode(conversations[part]), sizes)

    async def texts(self, name: str | None, texts: Sequence[str]) -> list[Answer]:
        """What a model says of texts to which the chat template has been applied already."""
        model = self.named(name)
        self.check_items(len(texts))
        self._one_reading(model)
        sizes = [len(text) for text in texts]
        return await self._answers(self.scorers[model], lambda reward_model, part: reward_model.encode_texts(completed(reward_model.tokenizer, texts[part])), sizes)

    async def token_ids(self, name: str | None, ids: Sequence[list[int]]) -> list[Answer]:
        """What a model says of token sequences; longer ones lose their beginning."""
        model = self.named(name)
        self.check_items(len(ids))
        self._one_reading(model)
        known = len(checkpoints_of(self.scorers[model])[0].reward_model.tokenizer)
        if any(not one or min(one) < 0 or max(one) >= known for one in ids):
            raise Unfit(f"token ids are numbers from 0 to {known - 1}, and a sequence has at least one")
        sizes = [len(one) for one in ids]
        return await self._answers(self.scorers[model], lambda reward_model, part: _cut(ids[part], reward_model.max_length), sizes)

    def _one_reading(self, model: str) -> None:
        """Check that all members of an ensemble read the same text as the same tokens."""
        readings = {(c.contract.template_sha256, c.contract.tokenizer_sha256) for c in checkpoints_of(self.scorers[model])}
        if len(readings) > 1:
            raise Unfit(f"the members of `{model}` have different templates or tokenizers, so it takes messages, not texts or token ids")

    async def _answers(self, scorer: Served, encode: Encode, sizes: Sequence[int]) -> list[Answer]:
        if not isinstance(scorer, Ensemble):
            return await self._by_checkpoint(scorer, encode, sizes)
        found = await _all_of([self._answers(member, encode, sizes) for member in scorer.members])
        outputs = scorer.merged([np.array([answer.reward for answer in answers], dtype=np.float32) for answers in found])
        return [Answer(row.tolist(), max(a.tokens for a in each), any(a.truncated for a in each)) for row, *each in zip(outputs, *found, strict=True)]

    async def _by_checkpoint(self, scorer: CheckpointScorer, encode: Encode, sizes: Sequence[int]) -> list[Answer]:
        queue = self.queues[scorer]
        queue.make_sure_of_room(1)  # before the work of tokenising
        ids, truncated = list[list[int]](), list[bool]()
        try:
            for part in _parts(sizes):
                some, cut = await asyncio.get_running_loop().run_in_executor(self.tokenizing, encode, scorer.reward_model, part)
                ids += some
                truncated += cut
        except AssayError as error:
            raise Unfit(str(error)) from None
        if empty := [i for i, one in enumerate(ids) if not one]:
            raise Unfit(f"item {empty[0]} has no text")
        rows = await queue.submit(ids)
        return [Answer([float(x) for x in row], len(one), cut) for row, one, cut in zip(rows, ids, truncated, strict=True)]


def checkpoints_of(scorer: Served) -> list[CheckpointScorer]:
    """The checkpoint, or those an ensemble is made of."""
    return [one for member in scorer.members for one in checkpoints_of(member)] if isinstance(scorer, Ensemble) else [scorer]


def characters(conversation: Conversation) -> int:
    """What a conversation counts for."""
    return sum(len(m["role"]) + len(m["content"]) + MESSAGE_CHARACTERS for m in conversation)


def _only_one_pass(model: Any) -> bool:
    """Whether ``model`` gains nothing by two passes side by side, on a GPU or in threads of its own, or cannot do them, since its positions change with the length they see."""
    if model.device.type != "cpu" or isinstance(model, OnnxModel):
        return True
    positions = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return bool({each.get("rope_type") for each in (positions, *positions.values()) if isinstance(each, dict)} & {"dynamic", "longrope"})


def _cut(ids: Sequence[list[int]], most: int) -> tuple[list[list[int]], list[bool]]:
    return [one[-most:] for one in ids], [len(one) > most for one in ids]


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    """Items of ``TOGETHER`` characters at a time, or a little more."""
    start = size = 0
    for end, more in enumerate(sizes, start=1):
        size += more
        if size >= TOGETHER or end == len(sizes):
            yield slice(start, end)
            start, size = end, 0


async def _all_of(asked: Sequence[Coroutine[Any, Any, list[Answer]]]) -> list[list[Answer]]:
    """All results; where one fails, the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
