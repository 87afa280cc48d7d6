"""The queue: what requests of all dialects ask for, batched by tokens, a few batches at a time.

Whatever a request asks for becomes token sequences, which wait in the order they came. A batch is as many of them as fit a number of tokens; so a short request is never behind more than the batches under way
and what came before it. Nobody waits without bounds: where too many tokens are waiting, ``submit`` raises ``Busy`` with how long it would take, and ``TooMuch`` where a request could not be answered in time even alone.
Work whose request is gone is left out.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
"""Outputs of one sequence: the reward, then the attributes if there are several."""
Score = Callable[[list[list[int]]], NDArray[np.float32]]
"""Scores of token sequences."""


class Busy(Exception):
    """Too much is waiting."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too much is waiting; try again in {seconds} s")
        self.seconds = seconds


class TooMuch(Exception):
    """A request that could not be answered in time if nothing else were waiting."""


@dataclass(slots=True)
class Work:
    """A sequence that waits for its score."""

    ids: list[int]
    result: "asyncio.Future[Row]"


class Queue:
    """The queue of one model."""

    def __init__(self, score: Score, executor: Executor, *, batch_tokens: int, waiting_tokens: int, at_once: int = 1, request_seconds: float = math.inf, observe: Callable[[int, int, float], None] | None = None) -> None:
        self.score, self.executor = score, executor
        self.at_once = self.free = at_once
        """Batches that may be under way, and how many more may be now."""
        self.batch_tokens, self.waiting_tokens, self.request_seconds = batch_tokens, waiting_tokens, request_seconds
        self.observe = observe or (lambda *_: None)
        self.waiting: deque[Work] = deque()
        self.tokens = 0
        """Tokens that wait."""
        self.rate = 0.0
        """Tokens a second, of late, in batches at least half full: smaller ones are slower by the token, and would have a large request refused that full ones answer in time."""
        self._some = asyncio.Event()

    async def submit(self, sequences: Sequence[list[int]]) -> list[Row]:
        """The outputs of token sequences, in their order.

        Raises:
            Busy: too much is waiting already.
            TooMuch: they would take too long even if nothing were waiting.
        """
        asked = sum(map(len, sequences))
        self.make_sure_of_room(asked)
        loop = asyncio.get_running_loop()
        works = [Work(ids, loop.create_future()) for ids in sequences]
        self.waiting.extend(works)
        self.tokens += asked
        self._some.set()
        try:
            return list(await asyncio.gather(*(work.result for work in works)))
        finally:
            for work in works:
                work.result.cancel()

    def make_sure_of_room(self, asked: int) -> None:
        """Check that so many tokens may wait.

        Raises:
            Busy: too many would wait, or too long.
            TooMuch: they would take too long even if nothing were waiting.
        """
        alone, before = (tokens / self.rate if self.rate else 0.0 for tokens in (asked, self.tokens))
        if alone > self.request_seconds:
            raise TooMuch(f"{asked:,} tokens at once would take {alone:.0f} s at the pace of late, allowed are {self.request_seconds:g}; send fewer at once")
        too_long = before > self.request_seconds / 2 or before + alone > self.request_seconds
        if self.tokens and (self.tokens + asked > self.waiting_tokens or too_long):
            raise Busy(max(1, math.ceil(min(before, self.request_seconds))))  # by then all that waits is answered or given up

    async def run(self) -> None:
        """Score what waits, for ever."""
        await asyncio.gather(*(self._work() for _ in range(self.at_once)))

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            batch = self._next()
            if not self.waiting:
                self._some.clear()
            if batch:
                self.free -= 1
                await self._scored(batch)
                self.free += 1

    def _next(self) -> list[Work]:
        """The next batch, without what nobody waits for any more; of a little that waits, a fair part for each that is free."""
        batch: list[Work] = []
        tokens, most = 0, min(self.batch_tokens, math.ceil(self.tokens / self.free))
        while self.waiting and (not batch or tokens + len(self.waiting[0].ids) <= most):
            work = self.waiting.popleft()
            self.tokens -= len(work.ids)
            if not work.result.done():
                batch.append(work)
                tokens += len(work.ids)
        return batch

    async def _scored(self, batch: list[Work]) -> None:
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(self.executor, self.score, [work.ids for work in batch])
            if len(rows) != len(batch):
                raise ValueError(f"{len(rows)} scores for {len(batch)} sequences")
        except Exception as error:
            for work in batch:
                if not work.result.done():
                    work.result.set_exception(error)
            return
        for work, row in zip(batch, rows, strict=True):
            if not work.result.done():
                work.result.set_result(row)
        seconds, tokens = time.perf_counter() - start, sum(len(work.ids) for work in batch)
        if 2 * tokens >= self.batch_tokens:
            rate = self.at_once * tokens / seconds
            self.rate = 0.8 * self.rate + 0.2 * rate if self.rate else rate
        self.observe(len(batch), tokens, seconds)
