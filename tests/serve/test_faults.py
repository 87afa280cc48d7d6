"""What goes wrong around a server: bad requests, bad clients, too much at once, signals. Never a 5xx, never an end."""

import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
import uvicorn
from numpy.typing import NDArray

from assay.cli import run_app
from assay.model.reward_model import RewardModel
from assay.score.checkpoint import CheckpointScorer, score_tokens
from assay.serve import models
from assay.serve import serve as serving
from assay.serve.app import Limits, create_app
from assay.serve.dialects import own, vllm
from served import Server, free_port, in_thread, metrics_of, said, wait_until, waiting

TALK = said("What is red?", "A colour.")
POSTS = ("/v1/rewards", "/v1/compare", "/classify", "/v1/classify", "/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/get_reward", "/v1/score/evaluation")
FITTING: dict[str, dict[str, Any]] = {
    "/v1/rewards": {"conversations": [TALK]},
    "/v1/compare": {"prompt": TALK[:1], "answers": ["a", "b"]},
    "/classify": {"messages": TALK},
    "/v1/classify": {"input": "a"},
    "/pooling": {"input": ["a"]},
    "/score": {"text_1": "a", "text_2": "b"},
    "/v1/score": {"queries": ["a"], "documents": ["b"]},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v2/rerank": {"query": "a", "documents": ["b"]},
    "/get_reward": {"query": ["a"]},
    "/v1/score/evaluation": {"messages": ["a"]},
}
WRONG: list[Any] = [None, True, -1, 0, 10**30, 1.5, -1e308, "", "x", [], [[]], [[[]]], {}, {"a": 1}, [None], [-1], [10**30], [1.5], [1, "x"], [{}], [[{}]], [[1], []], [True], [[None]]]


class Gate:
    """Stands before the scoring of the app in this process, so that a test says how long it takes."""

    def __init__(self) -> None:
        self.open, self.begun = threading.Event(), threading.Event()
        self.items = 0
        self.open.set()

    def __call__(self, *args: Any) -> NDArray[np.float32]:
        self.begun.set()
        assert self.open.wait(20)
        self.items += len(args[1])
        return score_tokens(*args)

    def shut(self) -> None:
        """Let nothing through."""
        self.open.clear()
        self.begun.clear()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    one = Gate()
    monkeypatch.setattr(models, "score_tokens", one)
    monkeypatch.setattr(models, "AT_ONCE", 1)  # what is asked while one batch is held up waits
    yield one
    one.open.set()


def ask(url: str, content: Any = None, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/rewards", json={"conversations": [TALK]} if content is None else content, timeout=20, **more)


def message(response: httpx2.Response) -> str:
    """The text of an error, in the one form that all errors have."""
    body = response.json()
    assert set(body) == {"error"}, body
    assert body["error"]["code"] == response.status_code
    found: str = body["error"]["message"]
    return found


def raw(url: str, *parts: bytes, pause: float = 0.0, timeout: float = 8.0) -> bytes:
    """What a server answers to bytes on a socket, until it closes the connection; b"open" at the end if it does not."""
    host, port = url.removeprefix("http://").split(":")
    found = b""
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while more := connection.recv(65_536):
                found += more
        except TimeoutError:
            return found + b"open"
        except (ConnectionResetError, BrokenPipeError):
            return found + b"reset"
    return found


def head(path: str = "/v1/rewards", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_the_key(app_url: Callable[..., str]) -> None:
    url = app_url(key="sécret")
    good = {"Authorization": "Bearer sécret".encode()}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"Authorization": ""}, {"Authorization": "Basic c2VjcmV0"}, {"Authorization": b"Bearer s\xff"}, {"X-API-Key": "secret"}):
        response = ask(url, headers=headers)
        assert response.status_code == 401
        assert message(response) == "the API key is missing or wrong; send it as `Authorization: Bearer KEY`"
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/metrics", "/v1/models", "/nothing"):
        assert httpx2.get(url + path).status_code == 401
    for path in ("/docs", "/openapi.json"):
        assert httpx2.get(url + path).status_code == 200
    for path in ("/health", "/healthz", "/readyz"):
        assert httpx2.get(url + path).text == "ok"
    assert ask(url, headers=good).status_code == 200
    assert httpx2.get(url + "/v1/models", headers=good).status_code == 200


def test_bodies_that_are_too_large(app_url: Callable[..., str]) -> None:
    url = app_url(limits=Limits(body_bytes=1_000))
    response = ask(url, [0] * 1_000)
    assert response.status_code == 413
    assert "allowed are 1,000" in message(response)

    def stream() -> Iterator[bytes]:
        for _ in range(4):
            yield b" " * 400

    response = httpx2.post(f"{url}/v1/rewards", content=stream(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert "more than the 1,000 bytes" in message(response)
    assert b" 413 " in raw(url, head("/v1/rewards", "Content-Length: 99999999"), timeout=3)
    assert b" 4" in raw(url, head("/v1/rewards", "Content-Length: " + "9" * 5_000), timeout=3)
    assert b" 400 " in raw(url, head("/v1/rewards", "Content-Length: -5"), timeout=3)
    assert ask(url).status_code == 200


def test_a_message_of_a_megabyte_is_cut(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    for model, filler in (("first", "word "), ("second", "x")):
        talk = said("q", filler * (1_000_000 // len(filler)))
        response = client.post("/v1/rewards", json={"model": model, "conversations": [talk]})
        assert response.status_code == 200
        (score,) = response.json()["scores"]
        wanted = scorers[model].score([talk])
        assert score["truncated"] == wanted.truncated[0]
        assert score["reward"] == pytest.approx(float(wanted.values[0, 0]), abs=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"[" * 100_000 + b"]" * 100_000, 400, "nested too deep"),
        (b'{"conversations":' + b"[" * 100_000, 400, "nested too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "nested too deep"),
        (b'{"conversations": [[{"role": "user", "content": "\xff\xfe"}]]}', 400, "not UTF-8"),
        (b"hello", 400, "not JSON"),
        (b'{"conversations": [', 400, "not JSON"),
        (b"\xef\xbb\xbf{}", 400, "not JSON"),
        (b"1" * 6_000, 400, "not JSON"),
        (b"", 422, "body"),
        (b"null", 422, "body"),
        (b"[]", 422, "body"),
        (b'"text"', 422, "body"),
        (b"NaN", 422, "body"),
        (b"{}", 422, "conversations"),
        (b'{"conversations": []}', 422, "conversations"),
    ],
)
def test_bodies_that_are_no_request(client: httpx2.Client, body: bytes, status: int, says: str) -> None:
    response = client.post("/v1/rewards", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert says in message(response)


@pytest.mark.parametrize("depth", [50, 200, 500, 900, 990, 3_000])
def test_nesting_short_of_too_deep_is_no_5xx(client: httpx2.Client, depth: int) -> None:
    nest = "[" * depth + "]" * depth
    for path in POSTS:
        for field in FITTING[path]:
            body = json.dumps({**FITTING[path], field: "HERE"}).replace('"HERE"', nest)
            response = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert 400 <= response.status_code < 500, (path, field, response.text[:100])


def test_other_content_types_are_no_5xx(client: httpx2.Client) -> None:
    body = json.dumps(FITTING["/v1/rewards"]).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x", "nonsense", ""):
        assert client.post("/v1/rewards", content=body, headers={"Content-Type": kind}).status_code < 500


@pytest.mark.parametrize("path", POSTS)
def test_wrong_types_in_every_field_are_no_5xx(client: httpx2.Client, path: str) -> None:
    assert client.post(path, json=FITTING[path]).status_code == 200
    fields = {*FITTING[path], "model", "input", "text", "input_ids", "messages", "top_n", "use_activation", "softmax", "max_length", "prompts"}
    for field, value in itertools.product(sorted(fields), WRONG):
        response = client.post(path, json={**FITTING[path], field: value})
        assert response.status_code < 500, (field, value, response.text)
        if response.status_code != 200:
            assert message(response), (field, value)


@pytest.mark.parametrize(
    "content",
    [None, 5, -1.5, True, {}, [], [None], [5], ["x"], [{}], [{"text": 5}], [{"text": None}], [{"text": ["x"]}], [{"type": "image_url", "image_url": {"url": "x"}}], "\ud800", [{"text": "\udfff"}]],
)
@pytest.mark.parametrize("path", ["/classify", "/pooling"])
def test_contents_of_any_kind_are_no_5xx(client: httpx2.Client, path: str, content: Any) -> None:
    body = json.dumps({"messages": [TALK[0], {"role": "assistant", "content": content}]})
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert message(response)


@pytest.mark.parametrize("path", POSTS)
def test_half_a_character_is_no_5xx(client: httpx2.Client, path: str) -> None:
    text = json.dumps(FITTING[path])
    for old in ('"a"', '"b"', '"A colour."', '"user"'):
        if old in text:
            response = client.post(path, content=text.replace(old, '"\\ud800"'), headers={"Content-Type": "application/json"})
            assert response.status_code < 500, (old, response.text)
    response = client.post(path, content=json.dumps({**FITTING[path], "model": "\ud800"}), headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500, response.text


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/classify", {}, "expected one of `input`, `text`, `input_ids` and `messages`, found 0"),
        ("/classify", {"input": "a", "text": "b"}, "found 2"),
        ("/classify", {"input": []}, "nothing to score"),
        ("/classify", {"input_ids": []}, "nothing to score"),
        ("/classify", {"input_ids": [[1], []]}, "a sequence has at least one"),
        ("/classify", {"input_ids": [1], "text": "b"}, "found 2"),
        ("/classify", {"input": [[]]}, "a sequence has at least one"),
        ("/classify", {"input": [[1], []]}, "a sequence has at least one"),
        ("/classify", {"input": [-1]}, "token ids are numbers from 0 to"),
        ("/classify", {"input": [[3, 10**9]]}, "token ids are numbers from 0 to"),
        ("/classify", {"input": ""}, "item 0 has no text"),
        ("/classify", {"text": ["a", ""]}, "item 1 has no text"),
        ("/classify", {"messages": [{"role": "user"}]}, "messages[0] is no message"),
        ("/score", {"text_1": "a"}, "expected `text_1` and `text_2`"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "2 prompts with 3 answers"),
        ("/score", {"text_1": "a", "text_2": []}, "nothing to score"),
        ("/score", {"text_1": [], "text_2": []}, "nothing to score"),
    ],
)
def test_requests_that_cannot_be_are_told_why(client: httpx2.Client, path: str, body: dict[str, Any], says: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert says in message(response)


@pytest.mark.parametrize(("path", "body"), [("/v1/rewards", {"conversations": [TALK, []]}), ("/classify", {"messages": []}), ("/v1/rewards", {"model": "second", "conversations": [[]]}), ("/classify", {"model": "second", "messages": []})])
def test_a_conversation_without_messages_is_refused(client: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    assert 400 <= client.post(path, json=body).status_code < 500


def test_token_ids_of_nothing_but_padding_are_no_5xx(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    for name, scorer in scorers.items():
        pad = scorer.reward_model.tokenizer.pad_token_id
        for ids in ([pad], [pad] * 5, [pad, 7], [7, pad]):
            response = client.post("/classify", json={"model": name, "input": [ids, [7, 8, 9]]})
            assert response.status_code < 500, (name, ids)


def test_too_many_items(app_url: Callable[..., str]) -> None:
    url = app_url(limits=Limits(items=3))
    assert ask(url, {"conversations": [TALK] * 3}).status_code == 200
    too_many: dict[str, dict[str, Any]] = {
        "/v1/rewards": {"conversations": [TALK] * 4},
        "/v1/compare": {"prompt": TALK[:1], "answers": ["a"] * 4},
        "/classify": {"input": ["a"] * 4},
        "/pooling": {"input": [[5]] * 4},
        "/score": {"text_1": "a", "text_2": ["a"] * 4},
        "/rerank": {"query": "a", "documents": ["a"] * 4},
        "/get_reward": {"query": ["a"] * 4},
        "/v1/score/evaluation": {"messages": ["a"] * 4},
    }
    for path, body in too_many.items():
        response = httpx2.post(url + path, json=body)
        assert response.status_code == 400, path
        assert message(response) == "4 items at once, allowed are 3"


def test_the_number_of_items_is_looked_at_before_anything_is_made_of_them(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: Any) -> Any:
        raise AssertionError("a list was made of too many items")

    url = app_url(limits=Limits(items=3))
    monkeypatch.setattr(vllm, "_turns", made)
    monkeypatch.setattr(own.Turn, "model_dump", made)
    turns = [{"role": "user", "content": ""}]
    too_many: dict[str, dict[str, Any]] = {
        "/v1/rewards": {"conversations": [turns] * 4},
        "/v1/compare": {"prompt": turns, "answers": [""] * 4},
        "/score": {"text_1": "a", "text_2": [""] * 4},
        "/v1/score": {"queries": [""] * 4, "documents": [""] * 4},
        "/rerank": {"query": "a", "documents": [""] * 4},
        "/pooling": {"input": [[10**9]] * 4},
    }
    for path, body in too_many.items():
        response = httpx2.post(url + path, json=body)
        assert response.status_code == 400, path
        assert message(response) == "4 items at once, allowed are 3"


LONG = "word " * 1_600
REPEATING: dict[str, dict[str, Any]] = {
    "/v1/compare": {"prompt": said(LONG), "answers": ["a"] * 20},
    "/v1/explain": {"prompt": said(LONG), "answer": "One. Two. Three."},
    "/score": {"text_1": LONG, "text_2": ["a"] * 20},
    "/rerank": {"query": LONG, "documents": ["a"] * 20},
}


@pytest.mark.parametrize("path", REPEATING)
def test_a_prompt_that_becomes_too_much_text_before_all_its_answers(path: str, app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    encode, seen = RewardModel.encode, list[int]()
    monkeypatch.setattr(RewardModel, "encode", lambda model, talks: seen.append(len(talks)) or encode(model, talks))
    response = httpx2.post(app_url(limits=Limits(body_bytes=16_000)) + path, json=REPEATING[path])
    assert response.status_code == 413
    assert "characters with the prompt before each answer, allowed are 32,000; send fewer at once" in message(response)
    assert seen == []
    assert httpx2.post(app_url() + path, json=REPEATING[path]).status_code == 200


def test_messages_without_text_count_too(app_url: Callable[..., str]) -> None:
    prompt = [{"role": "", "content": ""}] * 400
    response = httpx2.post(f"{app_url(limits=Limits(body_bytes=16_000))}/v1/compare", json={"prompt": prompt, "answers": ["a"] * 20})
    assert response.status_code == 413


def test_many_answers_to_a_long_prompt_are_scored(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    prompt, answers = said("word " * 6_000), [f"answer {i}" for i in range(64)]
    response = client.post("/v1/compare", json={"prompt": prompt, "answers": answers})
    assert response.status_code == 200
    wanted = scorers["first"].score([[*prompt, {"role": "assistant", "content": answer}] for answer in answers]).values[:, 0]
    assert response.json()["rewards"] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_nobody_tokenises_for_a_client_that_went_away_and_others_come_in_between(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    encode, begun, seen = RewardModel.encode, threading.Event(), list[int]()

    def slow(model: RewardModel, talks: Any) -> Any:
        begun.set()
        time.sleep(0.1)
        seen.append(len(talks))
        return encode(model, [said("q", "a") for _ in talks])

    monkeypatch.setattr(RewardModel, "encode", slow)
    url = app_url()
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(httpx2.post, f"{url}/rerank", json={"query": "x" * 100_000, "documents": ["a"] * 100}, timeout=1.0)
        assert begun.wait(5)
        assert ask(url).status_code == 200
        assert len(seen) < 8, "a small request waits until a large one is tokenised whole"
        with pytest.raises(httpx2.TimeoutException):
            gone.result()
    wait_until(lambda: metrics_of(url).get(("assay_requests_total", (("method", "POST"), ("path", "/rerank"), ("status", "499")))) == 1)
    count = len(seen)
    time.sleep(0.4)
    assert len(seen) <= count + 1 < 30


@pytest.mark.parametrize("path", POSTS)
def test_an_unknown_model_is_told_with_the_nearest(client: httpx2.Client, path: str) -> None:
    response = client.post(path, json={**FITTING[path], "model": "secnd"})
    assert response.status_code == 404
    assert message(response) == "there is no model `secnd`. Did you mean `second`? Served: first, second, many"


def test_unknown_paths_and_methods(client: httpx2.Client) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.post("/v1/reward", json={}).status_code == 404
    assert client.get("/v1/rewards").status_code == 405
    assert client.post("/%ff%00/../..%2f", json={}).status_code == 404


def test_unknown_paths_and_methods_answer_in_the_form_of_all_errors(client: httpx2.Client) -> None:
    assert message(client.get("/nothing"))
    assert message(client.get("/v1/rewards"))


def test_a_client_that_goes_away_costs_nothing(app_url: Callable[..., str], gate: Gate) -> None:
    url = app_url()
    gate.shut()
    with ThreadPoolExecutor(2) as pool:
        blocking = pool.submit(ask, url)
        assert gate.begun.wait(5)
        for _ in range(5):
            with pytest.raises(httpx2.TimeoutException):
                httpx2.post(f"{url}/v1/rewards", json={"conversations": [said("gone", "away " * 9)] * 7}, timeout=0.3)
        assert raw(url, head("/v1/rewards", "Content-Length: 500") + b"{", timeout=0.3).endswith(b"open")
        assert waiting(url) > 0
        gate.open.set()
        assert blocking.result().status_code == 200
    wait_until(lambda: waiting(url) == 0)
    assert ask(url).status_code == 200
    assert gate.items == 2, "work was done for clients that went away"
    found = metrics_of(url)
    assert found["assay_requests_total", (("method", "POST"), ("path", "/v1/rewards"), ("status", "499"))] == 5


def test_two_batches_are_scored_side_by_side_and_each_request_gets_its_own(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)

    def meeting(*args: Any) -> NDArray[np.float32]:
        together.wait(10)  # breaks, and the request fails, unless another batch is under way
        return score_tokens(*args)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    url = app_url()
    talks = [said("q", "word " * n) for n in (3, 40)]
    alone = [ask(url, {"conversations": [talk]}).json()["scores"][0]["reward"] for talk in talks]
    monkeypatch.setattr(models, "score_tokens", meeting)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda talk: ask(url, {"conversations": [talk]}), talks))
    assert [one.status_code for one in found] == [200] * 2
    np.testing.assert_allclose([one.json()["scores"][0]["reward"] for one in found], alone, atol=1e-6)


def test_a_slow_body_is_given_up(app_url: Callable[..., str]) -> None:
    url = app_url(limits=Limits(body_seconds=0.5))
    start = time.monotonic()
    found = raw(url, head("/v1/rewards", "Content-Length: 500") + b'{"conversations"', timeout=5)
    assert b" 408 " in found
    assert b"did not arrive within 0.5 s" in found
    assert not found.endswith(b"open")
    assert time.monotonic() - start < 3
    drip = raw(url, head("/v1/rewards", "Content-Length: 500"), *[b" "] * 12, pause=0.1, timeout=3)
    assert b" 408 " in drip
    assert ask(url).status_code == 200


def test_a_slow_head_is_given_up(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.4)
    url = app_url()
    assert not raw(url, b"POST /v1/rewards HTTP/1.1\r\nHost: x\r\n", timeout=2).endswith(b"open")
    assert not raw(url, timeout=2).endswith(b"open")
    drip = raw(url, *[b"P", b"O", b"S", b"T", b" ", b"/", b"x", b" ", b"H"], pause=0.1, timeout=2)
    assert not drip.endswith(b"open")
    assert ask(url).status_code == 200


def test_a_slow_head_behind_a_quick_request_is_given_up(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.4)
    url = app_url()
    quick = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    found = raw(url, quick, b"GET /healthz HTTP/1.1\r\nX-Slow: ", timeout=3, pause=0.2)
    assert b" 200 " in found
    assert not found.endswith(b"open"), "the second head on a connection has no time limit"


def test_a_slow_answer_is_not_cut_by_the_time_limit_of_the_head(app_url: Callable[..., str], gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
    url = app_url()
    gate.shut()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, url)
        time.sleep(0.6)
        gate.open.set()
        assert slow.result().status_code == 200


def test_too_much_waiting_is_told_and_passes(app_url: Callable[..., str], gate: Gate) -> None:
    url = app_url(limits=Limits(waiting_tokens=100))
    gate.shut()
    with ThreadPoolExecutor(8) as pool:
        running = pool.submit(ask, url)
        assert gate.begun.wait(5)
        full = pool.submit(ask, url, {"conversations": [said("q", "a " * 100)]})
        wait_until(lambda: waiting(url) > 0)
        refused = [pool.submit(ask, url).result() for _ in range(3)]
        assert httpx2.get(f"{url}/readyz").status_code == 503
        assert httpx2.get(f"{url}/healthz").status_code == 200
        for response in refused:
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert "too much is waiting" in message(response)
        gate.open.set()
        assert running.result().status_code == full.result().status_code == 200
    wait_until(lambda: waiting(url) == 0)
    assert ask(url).status_code == 200
    assert httpx2.get(f"{url}/readyz").status_code == 200


def test_what_cannot_be_answered_in_time_is_told_at_once(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any) -> NDArray[np.float32]:
        time.sleep(0.2)
        return score_tokens(*args)

    monkeypatch.setattr(models, "score_tokens", slow)
    url = app_url(limits=Limits(request_seconds=2, batch_tokens=100))
    assert ask(url, {"conversations": [TALK] * 4}).status_code == 200
    start = time.monotonic()
    response = ask(url, {"conversations": [TALK] * 900})
    assert response.status_code == 413
    assert "s at the pace of late, allowed are 2; send fewer at once" in message(response)
    assert time.monotonic() - start < 2
    assert ask(url).status_code == 200


def test_a_request_that_takes_too_long_is_given_up_with_its_work(app_url: Callable[..., str], gate: Gate) -> None:
    url = app_url(limits=Limits(request_seconds=0.4))
    gate.shut()
    with ThreadPoolExecutor(2) as pool:
        late = [pool.submit(ask, url)]
        assert gate.begun.wait(5)
        late.append(pool.submit(ask, url, {"conversations": [TALK] * 5}))
        for one in late:
            assert one.result().status_code == 503
            assert one.result().headers["Retry-After"] == "5"
            assert message(one.result()) == "no answer within 0.4 s"
    gate.open.set()
    wait_until(lambda: waiting(url) == 0)
    assert ask(url).status_code == 200
    assert gate.items == 2, "work was done for a request that had been given up"


def test_an_error_in_the_model_is_answered_and_told_in_the_log(app_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("out of memory of some kind")

    url = app_url()
    with monkeypatch.context() as patch:
        patch.setattr(models, "score_tokens", fails)
        response = ask(url)
    assert response.status_code == 500
    assert "out of memory of some kind" in caplog.text, "nobody can learn what went wrong"
    assert message(response)
    assert ask(url).status_code == 200


def test_metrics_count_requests_and_items(app_url: Callable[..., str]) -> None:
    url = app_url()
    for n in (1, 2, 3):
        ask(url, {"conversations": [TALK] * n})
    httpx2.post(f"{url}/classify", json={"model": "none", "input": "x"})
    for i in range(5):
        httpx2.get(f"{url}/nothing/{i}")
    found = metrics_of(url)

    def requests(path: str, status: str, method: str = "POST") -> float:
        return found["assay_requests_total", (("method", method), ("path", path), ("status", status))]

    assert requests("/v1/rewards", "200") == 3
    assert requests("/classify", "404") == 1
    assert requests("other", "404", "GET") == 5
    assert found["assay_items_total", ()] == 6
    assert found["assay_tokens_total", ()] > 6
    assert found["assay_waiting_tokens", ()] == 0
    assert found["assay_request_seconds_count", (("path", "/v1/rewards"),)] == 3
    assert not any("nothing" in str(key) for key in found)


def test_metrics_do_not_grow_with_the_methods_of_strangers(app_url: Callable[..., str]) -> None:
    url = app_url(key="secret")
    for i in range(20):
        httpx2.request(f"STRANGE{i}", f"{url}/healthz")
    found = metrics_of(url, Authorization="Bearer secret")
    methods = {dict(labels)["method"] for name, labels in found if name == "assay_requests_total"}
    assert len(methods) < 5, "without a key a stranger adds a time series a request"


def test_logs_are_json_lines_without_texts(server: Server, client: httpx2.Client) -> None:
    mark = "very-private-text"
    client.post("/v1/rewards", json={"conversations": [said(mark, mark)]})
    client.post(f"/v1/rewards?q={mark}", json={"conversations": [{"role": mark}]})
    client.post("/classify", json={"input": [mark, ""]})
    client.post("/classify", content=mark)
    wait_until(lambda: any('"status": 422' in line for line in server.lines()))
    lines = server.lines()
    assert "listening on" in lines[0]
    assert not any(mark in line for line in lines)
    for line in lines[1:]:
        assert set(json.loads(line)) == {"method", "path", "status", "ms", "client"}


def test_bytes_that_are_no_http_leave_a_json_log(server: Server) -> None:
    before = len(server.lines())
    assert b" 400 " in raw(server.url, b"\x16\x03\x01 no http at all\r\n\r\n", timeout=3)
    time.sleep(0.2)
    assert all(line.startswith("{") for line in server.lines()[before:]), server.lines()[before:]


def test_kill_restart_and_sigterm_under_load(start_server: Callable[..., Server], checkpoints: dict[str, Path], scorers: dict[str, CheckpointScorer]) -> None:
    spec = f"one={checkpoints['first']}"
    first = start_server(spec)
    assert ask(first.url).status_code == 200
    os.kill(first.process.pid, signal.SIGKILL)
    assert first.process.wait(10) == -signal.SIGKILL
    again = start_server(spec, port=int(first.url.rsplit(":", 1)[1]))
    talks = [said(f"q{i}", "a long answer " * 15) for i in range(30)]
    golden = scorers["first"].score(talks).values[:, 0]
    with ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(ask, again.url, {"conversations": talks}) for _ in range(8)]
        wait_until(lambda: waiting(again.url) > 0)
        time.sleep(0.3)  # all have been accepted
        again.process.send_signal(signal.SIGTERM)
        answers = [one.result() for one in under_way]
    assert [a.status_code for a in answers] == [200] * 8
    for answer in answers:
        np.testing.assert_allclose([s["reward"] for s in answer.json()["scores"]], golden, atol=1e-4)
    assert again.process.wait(20) == 0
    with pytest.raises(httpx2.ConnectError):
        ask(again.url)


def test_what_is_under_way_when_the_grace_is_over_is_told_and_counted(scorers: dict[str, CheckpointScorer], gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "assay.serve")
    gate.shut()
    with ThreadPoolExecutor(1) as pool:
        with in_thread(create_app({"first": scorers["first"]}), grace=1) as url:
            late = pool.submit(ask, url)
            assert gate.begun.wait(5)
        response = late.result()
    gate.open.set()
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert message(response) == "the server ended before it could answer; try again in 5 s"
    assert [json.loads(line)["status"] for line in caplog.messages if '"path": "/v1/rewards"' in line] == [503]
    assert "Traceback" not in caplog.text


def test_the_grace_is_as_long_as_a_request_may_take(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    servers = list[uvicorn.Server]()
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: servers.append(server))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    limits = Limits()
    serving.serve([str(checkpoints["first"])], host="127.0.0.1", port=free_port(), key=None, precision="fp32", limits=limits)
    assert (servers[0].config.timeout_graceful_shutdown or 0) > limits.body_seconds + limits.request_seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_models_load_ends_the_server_at_once(number: signal.Signals) -> None:
    code = "import time; from assay.cli import run_app; from assay.serve import serve; serve.load_models = lambda *_: print('loading', flush=True) or time.sleep(60); raise SystemExit(run_app(['serve', 'x', '--port', '0']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted" in stderr


def test_a_log_line_holds_the_traceback() -> None:
    try:
        raise RuntimeError("of some kind")
    except RuntimeError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "it failed\n", None, sys.exc_info())
    line = json.loads(serving.JsonLines().format(record))
    assert line["message"] == "it failed\n"
    assert line["exception"].endswith("RuntimeError: of some kind")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.7", "example.org"])
def test_listening_to_others_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for key in (None, ""):
        monkeypatch.delenv("ASSAY_API_KEY", raising=False) if key is None else monkeypatch.setenv("ASSAY_API_KEY", key)
        assert run_app(["serve", "nowhere", "--host", host]) == 2
        assert "lets others reach the server: set an API key" in capsys.readouterr().err


def test_the_command_refuses_what_cannot_be_served(checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda _: None)
    one = str(checkpoints["first"])
    for arguments, says in [
        ([], "nothing to serve"),
        (["a=nowhere"], "nowhere: no such folder"),
        ([f"a={one}", f"a={one}"], "two models would be served as `a`"),
        ([one, "--precision", "fp8"], "fp8"),
        ([one, "--max-items", "x"], "max-items"),
    ]:
        assert run_app(["serve", "--port", "1", *arguments]) == 2, arguments
        assert says in capsys.readouterr().err


def test_a_port_in_use_is_told_with_a_code(server: Server, checkpoints: dict[str, Path]) -> None:
    port = server.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "assay.cli", "serve", str(checkpoints["first"]), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_of_models(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run-7" / "checkpoint"
    run.parent.mkdir()
    run.symlink_to(checkpoints["first"])
    found = serving.load_models([str(checkpoints["many"]), str(run), f"x={checkpoints['second']}"], "fp32")
    assert list(found) == ["many", "run-7", "x"]
