"""The models behind the port: from what a request says to rewards, through the queue."""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError, did_you_mean
from assay.score.checkpoint import CheckpointScorer, score_tokens
from assay.serve.queue import Queue

Conversation = list[dict[str, str]]


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
    """The served models by name; the first is the one a request gets that names none."""

    def __init__(self, scorers: dict[str, CheckpointScorer], *, batch_tokens: int, waiting_tokens: int, waiting_seconds: float, most_items: int, observe: Callable[[int, int, float], None] | None = None) -> None:
        self.scorers, self.most_items = scorers, most_items
        self.executor = ThreadPoolExecutor(1, "assay-score")
        self.tokenizing = ThreadPoolExecutor(1, "assay-tokenize")  # a fast tokenizer is not to be used from two threads
        self.queues = {name: Queue(_scoring(scorer, batch_tokens), self.executor, batch_tokens=batch_tokens, waiting_tokens=waiting_tokens, waiting_seconds=waiting_seconds, observe=observe) for name, scorer in scorers.items()}

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
        return await self._scored(model, lambda: self.scorers[model].reward_model.encode(list(conversations)), len(conversations), prompts)

    async def texts(self, name: str | None, texts: Sequence[str]) -> list[Answer]:
        """What a model says of texts to which the chat template has been applied already."""
        model = self.named(name)
        return await self._scored(model, lambda: self.scorers[model].reward_model.encode_texts(list(texts)), len(texts), [object() for _ in texts])

    async def token_ids(self, name: str | None, ids: Sequence[list[int]]) -> list[Answer]:
        """What a model says of token sequences; longer ones lose their beginning."""
        model = self.named(name)
        reward_model = self.scorers[model].reward_model
        known = len(reward_model.tokenizer)
        if any(not one or min(one) < 0 or max(one) >= known for one in ids):
            raise Unfit(f"token ids are numbers from 0 to {known - 1}, and a sequence has at least one")
        most = reward_model.max_length
        return await self._scored(model, lambda: ([one[-most:] for one in ids], [len(one) > most for one in ids]), len(ids), [object() for _ in ids])

    async def _scored(self, model: str, encode: Callable[[], tuple[list[list[int]], list[bool]]], items: int, prompts: Sequence[object]) -> list[Answer]:
        if not items:
            raise Unfit("there is nothing to score")
        if items > self.most_items:
            raise Unfit(f"{items:,} items at once, allowed are {self.most_items:,}")
        self.queues[model].make_sure_of_room(1)  # before the work of tokenising
        try:
            ids, truncated = await asyncio.get_running_loop().run_in_executor(self.tokenizing, encode)
        except AssayError as error:
            raise Unfit(str(error)) from None
        if empty := [i for i, one in enumerate(ids) if not one]:
            raise Unfit(f"item {empty[0]} has no text")
        rows = await self.queues[model].submit(list(zip(ids, prompts, strict=True)))
        return [Answer([float(x) for x in row], len(one), cut) for row, one, cut in zip(rows, ids, truncated, strict=True)]


def _scoring(scorer: CheckpointScorer, batch_tokens: int) -> Callable[[list[list[int]], list[object]], NDArray[np.float32]]:
    return lambda ids, prompts: score_tokens(scorer.reward_model, ids, prompts, scorer.precision, batch_tokens)
