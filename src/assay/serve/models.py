"""The models behind the port: from what a request says to rewards, through the queue."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError, did_you_mean
from assay.model.reward_model import RewardModel
from assay.model.template import completed
from assay.score.checkpoint import CheckpointScorer, score_tokens
from assay.score.ensembles import Ensemble
from assay.serve.queue import Queue

Conversation = list[dict[str, str]]
Served = CheckpointScorer | Ensemble
Encode = Callable[[RewardModel], tuple[list[list[int]], list[bool]]]


class Unfit(Exception):
    """A request that asks for something that can't be: answered with 400, or 404 for a model that is not there."""

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

    def __init__(self, scorers: dict[str, Served], *, batch_tokens: int, waiting_tokens: int, request_seconds: float, most_items: int, observe: Callable[[int, int, float], None] | None = None) -> None:
        self.scorers, self.most_items = scorers, most_items
        self.executor = ThreadPoolExecutor(1, "assay-score")
        self.tokenizing = ThreadPoolExecutor(1, "assay-tokenize")  # a fast tokenizer is not to be used from two threads
        limits: dict[str, Any] = {"batch_tokens": batch_tokens, "waiting_tokens": waiting_tokens, "request_seconds": request_seconds, "observe": observe}
        self.queues = {one: Queue(_scoring(one, batch_tokens), self.executor, **limits) for scorer in scorers.values() for one in checkpoints_of(scorer)}

    def named(self, name: str | None) -> str:
        """The name of the model that a request asks for.

        Raises:
            Unfit: it is not served.
        """
        if name is None or name in self.scorers:
            return name or next(iter(self.scorers))
        raise Unfit(f"there is no model `{name}`.{did_you_mean(name, self.scorers)} Served: {', '.join(self.scorers)}", 404)

    async def conversations(self, name: str | None, conversations: Sequence[Conversation]) -> list[Answer]:
        """What a model says of conversations, each ending with the answer.

        Raises:
            Unfit: too many, or one of them is no conversation for this model.
            Busy: too much is waiting.
        """
        model = self.named(name)
        prompts = [json.dumps(c[:-1], sort_keys=True) for c in conversations]
        return await self._scored(model, lambda reward_model: reward_model.encode(list(conversations)), len(conversations), prompts)

    async def texts(self, name: str | None, texts: Sequence[str]) -> list[Answer]:
        """What a model says of texts to which the chat template has been applied already."""
        model = self.named(name)
        self._one_reading(model)
        return await self._scored(model, lambda reward_model: reward_model.encode_texts(completed(reward_model.tokenizer, texts)), len(texts), [object() for _ in texts])

    async def token_ids(self, name: str | None, ids: Sequence[list[int]]) -> list[Answer]:
        """What a model says of token sequences; longer ones lose their beginning."""
        model = self.named(name)
        self._one_reading(model)
        known = len(checkpoints_of(self.scorers[model])[0].reward_model.tokenizer)
        if any(not one or min(one) < 0 or max(one) >= known for one in ids):
            raise Unfit(f"token ids are numbers from 0 to {known - 1}, and a sequence has at least one")
        return await self._scored(model, lambda reward_model: ([one[-reward_model.max_length :] for one in ids], [len(one) > reward_model.max_length for one in ids]), len(ids), [object() for _ in ids])

    def _one_reading(self, model: str) -> None:
        """Check that all members of an ensemble read the same text as the same tokens."""
        readings = {(c.contract.template_sha256, c.contract.tokenizer_sha256) for c in checkpoints_of(self.scorers[model])}
        if len(readings) > 1:
            raise Unfit(f"the members of `{model}` have different templates or tokenizers, so it takes messages, not texts or token ids")

    async def _scored(self, model: str, encode: Encode, items: int, prompts: Sequence[object]) -> list[Answer]:
        if not items:
            raise Unfit("there is nothing to score")
        if items > self.most_items:
            raise Unfit(f"{items:,} items at once, allowed are {self.most_items:,}")
        return await self._answers(self.scorers[model], encode, prompts)

    async def _answers(self, scorer: Served, encode: Encode, prompts: Sequence[object]) -> list[Answer]:
        if not isinstance(scorer, Ensemble):
            return await self._by_checkpoint(scorer, encode, prompts)
        found = await _all_of([self._answers(member, encode, prompts) for member in scorer.members])
        outputs = scorer.merged([np.array([answer.reward for answer in answers], dtype=np.float32) for answers in found])
        return [Answer(row.tolist(), max(a.tokens for a in each), any(a.truncated for a in each)) for row, *each in zip(outputs, *found, strict=True)]

    async def _by_checkpoint(self, scorer: CheckpointScorer, encode: Encode, prompts: Sequence[object]) -> list[Answer]:
        queue = self.queues[scorer]
        queue.make_sure_of_room(1)  # before the work of tokenising
        try:
            ids, truncated = await asyncio.get_running_loop().run_in_executor(self.tokenizing, encode, scorer.reward_model)
        except AssayError as error:
            raise Unfit(str(error)) from None
        if empty := [i for i, one in enumerate(ids) if not one]:
            raise Unfit(f"item {empty[0]} has no text")
        rows = await queue.submit(list(zip(ids, prompts, strict=True)))
        return [Answer([float(x) for x in row], len(one), cut) for row, one, cut in zip(rows, ids, truncated, strict=True)]


def checkpoints_of(scorer: Served) -> list[CheckpointScorer]:
    """The checkpoint, or those an ensemble is made of."""
    return [one for member in scorer.members for one in checkpoints_of(member)] if isinstance(scorer, Ensemble) else [scorer]


async def _all_of(asked: Sequence[Coroutine[Any, Any, list[Answer]]]) -> list[list[Answer]]:
    """All results; where one fails, the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _scoring(scorer: CheckpointScorer, batch_tokens: int) -> Callable[[list[list[int]], list[object]], NDArray[np.float32]]:
    return lambda ids, prompts: score_tokens(scorer.reward_model, ids, prompts, scorer.precision, batch_tokens)
