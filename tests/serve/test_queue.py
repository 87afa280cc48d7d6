"""The queue alone: what it batches, in which order, and that nothing is lost, doubled or left hanging."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.serve.queue import Busy, Queue, TooMuch


class Fake:
    """Scores a sequence by the sum of its ids; waits at a gate; fails where a sequence has the id 666."""

    def __init__(self, open_: bool = True) -> None:
        self.batches: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        if open_:
            self.gate.set()

    def __call__(self, ids: list[list[int]]) -> NDArray[np.float32]:
        self.batches.append(ids)
        self.begun.set()
        assert self.gate.wait(10)
        if any(666 in one for one in ids):
            raise RuntimeError("boom")
        return np.array([[sum(one)] for one in ids], dtype=np.float32)


@contextlib.asynccontextmanager
async def running(score: Callable[..., Any], batch_tokens: int = 10, waiting_tokens: int = 1_000, **more: Any) -> AsyncIterator[Queue]:
    """A queue at work."""
    with ThreadPoolExecutor(more.get("at_once", 1)) as pool:
        queue = Queue(score, pool, batch_tokens=batch_tokens, waiting_tokens=waiting_tokens, **more)
        task = asyncio.create_task(queue.run())
        try:
            yield queue
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test that must not hang."""
    asyncio.run(asyncio.wait_for(test, 15))


async def begun(fake: Fake, queue: Queue) -> "asyncio.Task[Any]":
    """Start a first request of one token and wait until it is being scored."""
    first = asyncio.create_task(queue.submit([[1]]))
    await asyncio.to_thread(fake.begun.wait, 10)
    return first


def numbers(rows: list[Any]) -> list[float]:
    return [float(row[0]) for row in rows]


def test_rows_come_in_the_order_asked_and_batches_hold_what_fits() -> None:
    async def test() -> None:
        fake, seen = Fake(open_=False), list[tuple[int, int]]()
        async with running(fake, observe=lambda items, tokens, _: seen.append((items, tokens))) as queue:
            first = await begun(fake, queue)
            rest = [asyncio.create_task(queue.submit([[n] * length for n, length in part])) for part in ([(1, 4), (2, 6)], [(3, 1)], [(4, 9), (5, 1), (6, 2)])]
            await asyncio.sleep(0.05)
            assert queue.tokens == 23
            fake.gate.set()
            assert numbers(await first) == [1]
            assert [numbers(await one) for one in rest] == [[4, 12], [3], [36, 5, 12]]
            assert queue.tokens == 0
        assert fake.batches == [[[1]], [[1] * 4, [2] * 6], [[3], [4] * 9], [[5], [6] * 2]]
        assert seen == [(1, 1), (2, 10), (2, 10), (2, 3)]

    run(test())


def test_two_batches_are_under_way_and_share_a_little_that_waits() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake, at_once=2) as queue:
            first = asyncio.create_task(queue.submit([[n] for n in (1, 2, 3, 4)]))
            await asyncio.sleep(0.05)
            assert sorted(fake.batches) == [[[1], [2]], [[3], [4]]]
            then = asyncio.create_task(queue.submit([[5] * 4, [6] * 4, [7] * 9]))
            await asyncio.sleep(0.05)
            assert (len(fake.batches), queue.tokens, queue.free) == (2, 17, 0)
            fake.gate.set()
            assert numbers(await first) == [1, 2, 3, 4]
            assert numbers(await then) == [20, 24, 63]
            assert (queue.tokens, queue.free) == (0, 2)
            assert numbers(await queue.submit([[8]])) == [8]

    run(test())


def test_whatever_is_asked_while_several_batches_are_under_way_is_answered_once() -> None:
    async def test() -> None:
        fake, rng = Fake(), random.Random(0)
        async with running(fake, at_once=3, waiting_tokens=10_000) as queue:
            asked = [[[rng.randrange(1, 600)] * rng.randrange(1, 12) for _ in range(rng.randrange(1, 5))] for _ in range(200)]
            found = await asyncio.gather(*(queue.submit(request) for request in asked))
            assert [numbers(rows) for rows in found] == [[sum(one) for one in request] for request in asked]
            assert (queue.tokens, queue.free) == (0, 3)
        assert sorted(one for batch in fake.batches for one in batch) == sorted(one for request in asked for one in request)
        assert all(sum(map(len, batch)) <= 10 or len(batch) == 1 for batch in fake.batches)

    run(test())


def test_a_sequence_beyond_the_batch_goes_alone() -> None:
    async def test() -> None:
        fake = Fake()
        async with running(fake) as queue:
            assert numbers(await queue.submit([[1], [1] * 50, [2], [3]])) == [1, 50, 2, 3]
        assert [[len(one) for one in batch] for batch in fake.batches] == [[1], [50], [1, 1]]

    run(test())


def test_cancelled_work_is_left_out_and_its_tokens_are_given_back() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake) as queue:
            first = await begun(fake, queue)
            gone, stays = asyncio.create_task(queue.submit([[7] * 5, [7] * 5])), asyncio.create_task(queue.submit([[8]]))
            await asyncio.sleep(0.02)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            fake.gate.set()
            assert numbers(await stays) == [8]
            assert numbers(await first) == [1]
            assert queue.tokens == 0
        assert fake.batches == [[[1]], [[8]]]

    run(test())


def test_cancelling_what_is_being_scored_hurts_nobody() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake) as queue:
            first = await begun(fake, queue)
            first.cancel()
            fake.gate.set()
            assert numbers(await queue.submit([[9]])) == [9]

    run(test())


def test_an_error_reaches_the_requests_of_its_batch_and_no_others() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake) as queue:
            first = await begun(fake, queue)
            tasks = [asyncio.create_task(queue.submit([[n] * 10])) for n in (1, 666, 3)]
            await asyncio.sleep(0.02)
            fake.gate.set()
            found = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert [str(one) if isinstance(one, Exception) else numbers(one) for one in found] == [[1], [10], "boom", [30]]
            assert numbers(await queue.submit([[5]])) == [5]
            assert queue.tokens == 0

    run(test())


def test_half_a_request_that_fails_fails_whole_and_once() -> None:
    async def test() -> None:
        fake = Fake()
        async with running(fake) as queue:
            with pytest.raises(RuntimeError, match="boom"):
                await queue.submit([[1] * 10, [666] * 10, [2] * 10])
            assert numbers(await queue.submit([[5]])) == [5]
        assert [5] in fake.batches[-1]

    run(test())


def test_a_score_function_with_too_few_rows_is_an_error_and_no_silence() -> None:
    async def test() -> None:
        async with running(lambda ids: np.zeros((len(ids) - 1, 1), dtype=np.float32)) as queue:
            for _ in range(2):
                task = asyncio.create_task(queue.submit([[1], [2]]))
                await asyncio.wait([task], timeout=2)
                ended = task.done()
                task.cancel()
                (found,) = await asyncio.gather(task, return_exceptions=True)
                assert ended, "the queue is dead: nobody gets an answer any more"
                assert isinstance(found, ValueError)

    run(test())


def test_busy_says_when_to_come_back() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake, waiting_tokens=20) as queue:
            first = await begun(fake, queue)
            full = asyncio.create_task(queue.submit([[1] * 10, [1] * 10]))
            await asyncio.sleep(0.02)
            for rate, seconds in ((0.0, 1), (1_000.0, 1), (20.0, 1), (19.0, 2), (0.5, 40)):
                queue.rate = rate
                with pytest.raises(Busy) as busy:
                    await queue.submit([[1]])
                assert busy.value.seconds == seconds
                assert str(busy.value) == f"too much is waiting; try again in {seconds} s"
            assert queue.tokens == 20, "what was refused does not wait"
            fake.gate.set()
            await asyncio.gather(first, full)
            assert numbers(await queue.submit([[2] * 10, [2] * 10])) == [20, 20]
            assert queue.rate > 0

    run(test())


def test_a_request_larger_than_what_may_wait_is_served_when_nothing_waits() -> None:
    async def test() -> None:
        async with running(Fake(), waiting_tokens=20) as queue:
            assert len(await queue.submit([[1] * 10] * 5)) == 5

    run(test())


def test_what_cannot_be_answered_in_time_is_refused_and_blocks_nobody() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake, request_seconds=6) as queue:
            queue.rate = 10.0
            with pytest.raises(TooMuch, match=r"^61 tokens at once would take 6 s at the pace of late, allowed are 6; send fewer at once$"):
                await queue.submit([[1] * 61])
            first = await begun(fake, queue)
            tasks = [asyncio.create_task(queue.submit([[1] * 20]))]
            await asyncio.sleep(0.02)
            with pytest.raises(Busy) as busy:
                await queue.submit([[1] * 41])
            assert busy.value.seconds == 2
            tasks.append(asyncio.create_task(queue.submit([[1] * 40])))
            await asyncio.sleep(0.02)
            queue.rate = 0.01
            with pytest.raises(Busy) as busy:
                queue.make_sure_of_room(0)
            assert busy.value.seconds == 6, "what waits is answered or given up by then"
            fake.gate.set()
            await asyncio.gather(first, *tasks)

    run(test())


def test_the_pace_is_that_of_batches_at_least_half_full() -> None:
    async def test() -> None:
        async with running(Fake(), batch_tokens=10) as queue:
            await queue.submit([[1] * 4])
            assert queue.rate == 0, "a large request would be refused for the pace of a small one"
            await queue.submit([[1] * 5])
            assert queue.rate > 0

    run(test())


def test_exactly_what_may_wait_fits() -> None:
    async def test() -> None:
        fake = Fake(open_=False)
        async with running(fake, waiting_tokens=20) as queue:
            first = await begun(fake, queue)
            tasks = [asyncio.create_task(queue.submit([[1] * n])) for n in (12, 8)]
            await asyncio.sleep(0.02)
            assert queue.tokens == 20
            fake.gate.set()
            await asyncio.gather(first, *tasks)

    run(test())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_lost_or_doubled_in_a_random_run(seed: int) -> None:
    async def one(queue: Queue, rng: random.Random, n: int, patience: float | None) -> str:
        sequences = [[n, i, *[0] * rng.choice([0, 3, 30])] for i in range(rng.randint(1, 5))]
        await asyncio.sleep(rng.random() * 0.5)
        try:
            rows = await asyncio.wait_for(queue.submit(sequences), patience)
        except TimeoutError:
            return "gone"
        except Busy:
            return "busy"
        assert numbers(rows) == [n + i for i in range(len(sequences))]
        return "done"

    async def test() -> None:
        rng, fake = random.Random(seed), Fake()
        async with running(fake, batch_tokens=40, waiting_tokens=2_000) as queue:
            tasks = [asyncio.create_task(one(queue, rng, 1_000 + n, rng.choice([None, None, 0.001, 0.0]))) for n in range(500)]
            cut = [task for task in tasks if rng.random() < 0.1]
            await asyncio.sleep(0.2)
            for task in cut:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert {f for f in found if isinstance(f, str)} >= {"done", "gone"}
            assert [f for f in found if isinstance(f, Exception) and not isinstance(f, asyncio.CancelledError)] == []
            assert numbers(await queue.submit([[5]])) == [5]
            assert (queue.tokens, len(queue.waiting)) == (0, 0)
        scored = [(ids[0], ids[1]) for batch in fake.batches for ids in batch if len(ids) > 1]
        assert len(scored) == len(set(scored)), "something was scored twice"
        assert all(sum(map(len, batch)) <= 40 or len(batch) == 1 for batch in fake.batches)

    run(test())
