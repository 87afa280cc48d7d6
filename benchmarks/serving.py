"""What the server answers: throughput over HTTP with many clients against OpenRLHF's serve_rm and a naive server, latency at 70% load, and minutes at three times its capacity.

    python benchmarks/serving.py CHECKPOINT DATA [--precision fp32]         CHECKPOINT has one label; DATA is pairs; prints Markdown tables

Every arm is a process of its own, started anew and warmed for every round, and gets the same bodies at ``/get_reward``: one to four conversations with the template in them, of one prompt or two, none of them twice.

- ``assay serve``, as it is called in docs/serving.md.
- ``serve_rm``: what OpenRLHF's ``serve_rm.py`` does, written anew. An async handler that computes in the event loop, so one request after the other; batches of 16 within a request, in the order given; weights in bf16, as the command in its examples says.
  Left out are its log and its own way with special tokens, so that the answers can be compared; it pads on the side the checkpoint says.
- ``serve_rm tuned``: the same with a plain handler in FastAPI's threads and a lock around the model, so that reading and answering overlap with computing, and in our precision.
- ``naive``: a plain handler that tokenises the request, pads it and calls transformers in fp32; FastAPI runs up to 40 of them at once.

The client is raw HTTP/1.1 over asyncio: an HTTP library takes more of the two cores, which are the server's too. Latency is from when a request was due to its last byte. In the open loops requests come as a Poisson process, whether or not earlier ones are answered;
at three times the capacity each has one conversation, all that are under way are different, and every answer is compared with what the model says of that conversation in this process.
"""

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from assay.model import template
from assay.pairs.read import read
from assay.score.checkpoint import CheckpointScorer, score_tokens

ARMS = ("assay serve", "serve_rm", "serve_rm tuned", "naive")
BATCH = 16
"""Texts in a batch of serve_rm."""
SOCKETS = 6_000
"""Most connections of the client at once; the server refuses beyond 2,000."""
IDLE_SECONDS = 4.0
"""A connection that was idle for longer is not used again; uvicorn closes it after 5."""
ANSWER_SECONDS = 330.0
"""Without an answer by then a request counts as lost; the server gives up after 300."""
LOAD, OVERLOAD = 0.7, 3.0
WARMING = 16
"""Requests before the clock starts."""


# The peers


def peer(kind: str, folder: Path, port: int, precision: str) -> None:
    """Serve a checkpoint the way others do, until terminated."""
    import uvicorn
    from fastapi import FastAPI, Request
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    contract = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dtype = torch.bfloat16 if kind == "serve_rm" or (kind == "serve_rm tuned" and precision == "bf16") else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    app, tokenizing, computing = FastAPI(), threading.Lock(), threading.Lock()

    def score(texts: list[str], lock: Any) -> list[float]:
        with tokenizing:  # a fast tokenizer is not to be used from two threads
            inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=contract["max_length"], add_special_tokens=contract["add_special_tokens"])
        with lock, torch.inference_mode():
            return [float(x) for x in model(**inputs).logits[:, 0].float()]

    def batched(texts: list[str], lock: Any) -> list[float]:
        return [reward for start in range(0, len(texts), BATCH) for reward in score(texts[start : start + BATCH], lock)]

    if kind == "serve_rm":

        @app.post("/get_reward")
        async def blocking(request: Request) -> dict[str, list[float]]:
            return {"rewards": batched((await request.json())["query"], contextlib.nullcontext())}
    else:

        @app.post("/get_reward")
        def threaded(body: dict[str, list[str]]) -> dict[str, list[float]]:
            return {"rewards": score(body["query"], contextlib.nullcontext()) if kind == "naive" else batched(body["query"], computing)}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


@dataclass
class Server:
    """An arm that runs."""

    port: int
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    def memory(self) -> tuple[float, float]:
        """Resident and proportional set size in megabytes."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
        return sizes["Rss:"], sizes["Pss:"]

    def errors(self) -> list[str]:
        """Lines of its log that tell of an error."""
        return [line for line in self.said().splitlines() if "rror" in line]

    def said(self) -> str:
        """Its log, read without moving the place where the process writes."""
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode("utf-8", "replace")


@contextlib.contextmanager
def serving(arm: str, arguments: argparse.Namespace) -> Iterator[Server]:
    """Start an arm on a free port, and stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = [str(Path(sys.executable).with_name("assay")), "serve", f"model={arguments.checkpoint}"]
    theirs = [sys.executable, __file__, str(arguments.checkpoint), arguments.data, "--peer", arm]
    command = [*(ours if arm == "assay serve" else theirs), "--port", str(port), "--precision", arguments.precision]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        server = Server(port, process, log)
        try:
            _wait_for(server)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(server: Server) -> None:
    """Wait until a server listens."""
    for _ in range(1_200):
        if server.process.poll() is not None:
            sys.exit(f"a server ended with {server.process.returncode}: {server.said()[-2000:]}")
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", server.port)):
                return
        time.sleep(0.1)
    sys.exit("a server does not listen after two minutes")


# What is asked


@dataclass
class Pool:
    """Conversations of a pair file with the template in them, none of them twice, and what the model says of them."""

    sides: list[tuple[str, str]]
    scorer: CheckpointScorer
    tokens: dict[str, int] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    ids: dict[str, list[int]] = field(default_factory=dict)

    def requests(self, number: int, skip: int) -> list[list[str]]:
        """Requests of one to four conversations, both answers to a prompt where there are two; ``skip`` pairs later where more are wanted."""
        rng, at, found = np.random.default_rng(skip), itertools.cycle(self.sides[skip % len(self.sides) :] + self.sides[: skip % len(self.sides)]), []
        for size in rng.integers(1, 5, number):
            found.append([text for _ in range((size + 1) // 2) for text in next(at)][:size])
        return found

    def count(self, texts: Sequence[str]) -> int:
        """Their tokens."""
        return sum(self.tokens[text] for text in texts)

    def learn(self, texts: Sequence[str]) -> None:
        """Let the model say in fp32 what it thinks of them."""
        new = [text for text in dict.fromkeys(texts) if text not in self.expected]
        if new:
            values = score_tokens(self.scorer.reward_model, [self.ids[t] for t in new], "fp32", 4_096)[:, 0]
            self.expected.update(zip(new, map(float, values), strict=True))

    def apart(self, texts: Sequence[str], rewards: Sequence[float]) -> float:
        """How far answers are from what is expected."""
        return max((abs(self.expected[t] - r) for t, r in zip(texts, rewards, strict=True)), default=0.0)


def pool_of(checkpoint: Path, data: str) -> Pool:
    """The pairs of a file in random order, without those that have a text, or its tokens, in common with an earlier one."""
    scorer = CheckpointScorer(str(checkpoint), "fp32")
    model = scorer.reward_model
    rows = read(data).pairs.sample(fraction=1.0, shuffle=True, seed=0).select("prompt", "chosen", "rejected").rows()
    sides = [(template.render(model.tokenizer, p + c), template.render(model.tokenizer, p + r)) for p, c, r in rows]
    ids, _ = model.encode_texts([text for pair in sides for text in pair])
    pool = Pool([], scorer)
    seen: set[tuple[int, ...]] = set()
    for i, pair in enumerate(sides):
        keys = [tuple(ids[2 * i]), tuple(ids[2 * i + 1])]
        if keys[0] != keys[1] and not seen.intersection(keys):
            seen.update(keys)
            pool.sides.append(pair)
            pool.ids.update(zip(pair, ids[2 * i : 2 * i + 2], strict=True))
    pool.tokens = {text: len(one) for text, one in pool.ids.items()}
    return pool


# The client


@dataclass(slots=True)
class Reply:
    """What became of a request."""

    texts: list[str]
    due: float
    """When it was to be sent, and when it was."""
    sent: float = 0.0
    done: float = 0.0
    outcome: str = "lost"
    """The status, with what should be there; or why there is none."""
    rewards: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From when it was due to its last byte."""
        return self.done - self.due


class Client:
    """Connections to a server that are kept open, at most SOCKETS."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.busy = 0

    async def ask(self, reply: Reply) -> Reply:
        """Send a request, and note what became of it."""
        body = json.dumps({"query": reply.texts}).encode("utf-8")
        reply.sent = time.perf_counter()
        if self.busy >= SOCKETS:
            reply.outcome = f"not sent, {SOCKETS:,} connections in use"
        else:
            self.busy += 1
            try:
                await asyncio.wait_for(self._exchange(body, reply), ANSWER_SECONDS)
            except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
                reply.outcome = f"lost ({type(error).__name__})"
            finally:
                self.busy -= 1
        reply.done = time.perf_counter()
        return reply

    async def _exchange(self, body: bytes, reply: Reply) -> None:
        reader, writer = await self._connection()
        try:
            writer.write(b"POST /get_reward HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            content = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self.idle.append((time.perf_counter(), reader, writer))
        reply.outcome = first.split()[1] + (" with Retry-After" if "retry-after" in headers else "")
        if reply.outcome == "200":
            reply.rewards = json.loads(content)["rewards"]

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The one used last, which is the least likely to be closed soon; the oldest idle ones are closed."""
        now = time.perf_counter()
        while self.idle and (now - self.idle[0][0] > IDLE_SECONDS or self.idle[0][1].at_eof()):
            self.idle.pop(0)[2].close()
        if self.idle:
            return self.idle.pop()[1:]
        return await asyncio.open_connection("127.0.0.1", self.port)

    def close(self) -> None:
        """Close what is open."""
        for _, _, writer in self.idle:
            writer.close()


async def closed_loop(port: int, requests: Sequence[list[str]], clients: int) -> list[Reply]:
    """So many clients, each of which sends a request when its last one is answered."""
    client, waiting, replies = Client(port), iter(requests), []

    async def work() -> None:
        for texts in waiting:
            replies.append(await client.ask(Reply(texts, time.perf_counter())))

    await asyncio.gather(*(work() for _ in range(clients)))
    client.close()
    return replies


async def open_loop(port: int, requests: Sequence[list[str]], rate: float, tick: Callable[[], None] = lambda: None) -> list[Reply]:
    """So many requests a second at random times, whatever is still to be answered; ``tick`` is called before each."""
    client = Client(port)
    tasks: list[asyncio.Task[Reply]] = []
    due = time.perf_counter() + np.cumsum(np.random.default_rng(0).exponential(1 / rate, len(requests)))
    for texts, moment in zip(requests, map(float, due), strict=True):
        if (ahead := moment - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        elif not len(tasks) % 8:
            await asyncio.sleep(0)  # late: let those under way get on
        tasks.append(asyncio.create_task(client.ask(Reply(texts, moment))))
        tick()
    replies = await asyncio.gather(*tasks)
    client.close()
    return replies


def warm(server: Server, pool: Pool) -> None:
    """Ask for what the measured requests begin with last."""
    requests = pool.requests(WARMING, len(pool.sides) // 2)
    if wrong := [reply.outcome for reply in asyncio.run(closed_loop(server.port, requests, 4)) if reply.outcome != "200"]:
        sys.exit(f"a server does not answer: {wrong[0]}; {server.errors()[-1:]}")


# What is printed


def milliseconds(replies: Sequence[Reply], *percents: float) -> list[float]:
    """Percentiles of how long the answered ones took."""
    return [float(x) for x in np.percentile([1000 * reply.seconds for reply in replies if reply.outcome == "200"] or [float("nan")], percents)]


def throughput(arguments: argparse.Namespace, pool: Pool) -> float:
    """Alternate the arms and print their table; tokens a second of ours."""
    requests = pool.requests(arguments.requests, 0)
    texts = [text for one in requests for text in one]
    pool.learn(texts)
    items, tokens = len(texts), pool.count(texts)
    rounds: dict[str, list[tuple[float, list[Reply]]]] = {arm: [] for arm in arguments.arms}
    for number, arm in itertools.product(range(arguments.rounds), arguments.arms):
        with serving(arm, arguments) as server:
            warm(server, pool)
            start = time.perf_counter()
            replies = asyncio.run(closed_loop(server.port, requests, arguments.clients))
            rounds[arm].append((time.perf_counter() - start, replies))
            print(f"round {number + 1}, {arm}: {items / rounds[arm][-1][0]:.1f} conversations a second", file=sys.stderr)
    print(f"{arguments.clients} clients, {len(requests):,} requests with {items:,} conversations of {tokens / items:.0f} tokens; median of {arguments.rounds} rounds, latency of all rounds\n")
    print("| arm | conversations a second | tokens a second | times ours | p50, ms | p99, ms | farthest from fp32 | not answered |\n|---|---:|---:|---:|---:|---:|---:|---:|")
    seconds = {arm: statistics.median(took for took, _ in some) for arm, some in rounds.items()}
    for arm in arguments.arms:
        replies = [reply for _, some in rounds[arm] for reply in some]
        p50, p99 = milliseconds(replies, 50, 99)
        apart = max(pool.apart(reply.texts, reply.rewards) for reply in replies if reply.outcome == "200")
        rate = items / seconds[arm]
        print(f"| {arm} | {rate:.1f} | {tokens / seconds[arm]:,.0f} | {seconds[ARMS[0]] / seconds[arm]:.2f} | {p50:,.0f} | {p99:,.0f} | {apart:.1e} | {sum(reply.outcome != '200' for reply in replies)} |", flush=True)
    return tokens / seconds[ARMS[0]]


def latency(arguments: argparse.Namespace, pool: Pool, capacity: float) -> None:
    """Print how long requests take where 70% of the capacity is asked for."""
    sample = pool.requests(len(pool.sides) // 2, arguments.requests * 2)
    rate = LOAD * capacity / (pool.count([text for one in sample for text in one]) / len(sample))
    requests = pool.requests(int(rate * arguments.steady), arguments.requests * 2)
    with serving(ARMS[0], arguments) as server:
        warm(server, pool)
        replies = asyncio.run(open_loop(server.port, requests, rate))
    p50, p90, p99, most = milliseconds(replies, 50, 90, 99, 100)
    print(f"\nAt {LOAD:.0%} of the capacity, {rate:.1f} requests a second for {arguments.steady} s:\n")
    print("| requests | not answered | p50, ms | p90, ms | p99, ms | longest, ms | p99 / p50 | sent late at most, ms |\n|---:|---:|---:|---:|---:|---:|---:|---:|")
    late = max(reply.sent - reply.due for reply in replies)
    print(f"| {len(replies):,} | {sum(reply.outcome != '200' for reply in replies)} | {p50:,.0f} | {p90:,.0f} | {p99:,.0f} | {most:,.0f} | {p99 / p50:.1f} | {1000 * late:,.0f} |", flush=True)


def overload(arguments: argparse.Namespace, pool: Pool, capacity: float) -> None:
    """Print what becomes of requests at three times the capacity, and of the server's memory."""
    everything = [text for pair in pool.sides for text in pair]
    rate = OVERLOAD * capacity / (pool.count(everything) / len(everything))
    texts = list(itertools.islice(itertools.cycle(everything), int(rate * arguments.overload)))
    pool.learn(texts)
    memory: list[tuple[float, float, float]] = []
    every = min(60.0, arguments.overload / 5)
    with serving(ARMS[0], arguments) as server:
        warm(server, pool)
        begun = time.perf_counter()

        def tick() -> None:
            if time.perf_counter() - begun >= every * len(memory):
                memory.append((time.perf_counter() - begun, *server.memory()))

        replies = asyncio.run(open_loop(server.port, [[text] for text in texts], rate, tick))
        took = time.perf_counter() - begun
        memory.append((took, *server.memory()))
        errors = server.errors()
    _show_outcomes(arguments, pool, replies, rate, capacity)
    print(f"\nErrors in its log: {len(errors)}{'; the first: ' + errors[0][:600] if errors else ''}\n")
    print("| seconds | RSS, MB | PSS, MB |\n|---:|---:|---:|")
    for moment, rss, pss in memory:
        print(f"| {moment:.0f} | {rss:,.1f} | {pss:,.1f} |")
    growth = max(pss for *_, pss in memory[2:]) - memory[1][2]
    print(f"\nAfter the second line PSS grew by at most {growth:.1f} MB: {'flat' if growth < 0.02 * memory[1][2] else 'not flat'}.", flush=True)


def _show_outcomes(arguments: argparse.Namespace, pool: Pool, replies: Sequence[Reply], rate: float, capacity: float) -> None:
    """The table of outcomes; an answer is wrong that is farther from its own than the precision allows."""
    allowed = 1e-4 if arguments.precision == "fp32" else 0.02
    for reply in replies:
        if reply.outcome == "200":
            reply.outcome = "200" if pool.apart(reply.texts, reply.rewards) <= allowed else "200, wrong"
    right = [reply for reply in replies if reply.outcome == "200"]
    apart = max((pool.apart(reply.texts, reply.rewards) for reply in right), default=float("nan"))
    values = np.array([pool.expected[reply.texts[0]] for reply in replies])
    chance = float((np.abs(values - np.random.default_rng(0).permutation(values)) <= allowed).mean())
    seconds = max(reply.due for reply in replies) - min(reply.due for reply in replies)
    served = sum(pool.count(reply.texts) for reply in right) / (max((reply.done for reply in right), default=float("nan")) - min(reply.due for reply in replies))
    print(f"\nAt {OVERLOAD:.0f} times the capacity, {rate:.0f} requests of one conversation a second for {seconds:.0f} s: {len(replies):,} requests, {served:,.0f} tokens a second answered ({served / capacity:.0%} of the capacity).")
    print(f"The farthest answer is {apart:.1e} from its own, {allowed:g} is allowed; another conversation's would have passed in {chance:.2%} of cases. Sent late by {1000 * float(np.percentile([r.sent - r.due for r in replies], 99)):,.0f} ms (p99).\n")
    print("| outcome | requests | p50, ms | p99, ms | longest, ms |\n|---|---:|---:|---:|---:|")
    for outcome, number in sorted(collections.Counter(reply.outcome for reply in replies).items()):
        p50, p99, most = np.percentile([1000 * reply.seconds for reply in replies if reply.outcome == outcome], (50, 99, 100))
        print(f"| {outcome} | {number:,} | {p50:,.0f} | {p99:,.0f} | {most:,.0f} |")


def processor() -> str:
    """Its name."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="of assay serve and serve_rm tuned")
    parser.add_argument("--steady", type=int, default=60, help="seconds at 70%% of the capacity")
    parser.add_argument("--overload", type=int, default=600, help="seconds at three times the capacity; 0 for none")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="ours must be the first")
    parser.add_argument("--peer", choices=ARMS[1:], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return peer(arguments.peer, arguments.checkpoint, arguments.port, arguments.precision)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the servers are stopped
    pool = pool_of(arguments.checkpoint, arguments.data)
    given = arguments.precision
    arguments.precision = CheckpointScorer(str(arguments.checkpoint), given).precision
    print(f"{arguments.checkpoint.resolve().parent.name}, at most {pool.scorer.contract.max_length} tokens, {arguments.precision}{' (the default here)' if given == 'auto' else ''}; {os.cpu_count()} cores of {processor()}, {torch.get_num_threads()} threads;")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "fastapi", "uvicorn")) + f", Python {platform.python_version()}\n")
    capacity = throughput(arguments, pool)
    latency(arguments, pool, capacity)
    if arguments.overload:
        overload(arguments, pool, capacity)
    return None


if __name__ == "__main__":
    main()
