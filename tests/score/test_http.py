"""Scorers behind a URL: the scores of the checkpoint from the real server, and what becomes of failures of a scripted one."""

import gc
import json
import math
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.cli import run_app
from assay.errors import AssayError
from assay.evaluate.evaluate import evaluate
from assay.evaluate.load import load_suite
from assay.model import contract
from assay.score import http
from assay.score.checkpoint import CheckpointScorer
from assay.score.http import Remote
from assay.score.scorer import Scores, load_scorer
from assay.serve.app import Limits, create_app
from served import ATTRIBUTES, Server, checkpoints, conversations, in_thread, said, shared

TALKS = conversations()
Reply = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="module")
def server() -> Server:
    return shared()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, and no key of whoever runs the tests."""
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.05)
    monkeypatch.delenv("ASSAY_API_KEY", raising=False)


class Scripted(ThreadingHTTPServer):
    """A server that answers as a function of (path, body, how many requests before) says."""

    daemon_threads = True

    def __init__(self, reply: Callable[[str, Any, int], Reply | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Hands a request to the script; None breaks the connection."""

    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "null")
        with self.server.lock:
            n = len(self.server.asked)
            self.server.asked.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
        reply = self.server.reply(self.path, body, n)
        if reply is None:
            self.close_connection = True
            return
        status, headers, content = reply
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def scripted() -> Iterator[Callable[[Callable[[str, Any, int], Reply | None]], Scripted]]:
    """Starts scripted servers."""
    made: list[Scripted] = []

    def start(reply: Callable[[str, Any, int], Reply | None]) -> Scripted:
        made.append(Scripted(reply))
        threading.Thread(target=made[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return made[-1]

    yield start
    for one in made:
        one.shutdown()
        one.server_close()


@pytest.fixture
def remote() -> Callable[[str], Remote]:
    """Makes scorers, and closes their connections."""

    def make(spec: str) -> Remote:
        one = load_scorer(spec)
        assert isinstance(one, Remote)
        return one

    return make


def probs(value: Any) -> Reply:
    return 200, {}, {"data": [{"probs": [value]}]}


def golden(path: str, body: Any, n: int) -> Reply:
    """The canaries' scores in the contract of the first checkpoint, and 0.5 for any other number of texts."""
    scores = [canary.score for canary in contract.read(checkpoints()["first"]).canaries]
    return 200, {}, {"rewards": scores if len(body["query"]) == len(scores) else [0.5] * len(body["query"])}


def length(body: Any) -> float:
    return float(len(body["messages"][-1]["content"]))


def many(n: int) -> list[list[dict[str, str]]]:
    return [said("q", "a" * (i + 1)) for i in range(n)]


@pytest.mark.parametrize("model", ["", "first", "second", "many"])
@pytest.mark.parametrize("kind", ["assay", "vllm", "openrlhf"])
def test_scores_of_the_checkpoint(server: Server, remote: Callable[[str], Remote], kind: str, model: str) -> None:
    folder = checkpoints()[model or "first"]
    if kind == "openrlhf" and folder.name != "first":
        pytest.skip("the format names no model, so the server answers with its first")
    wanted = load_scorer(folder, precision="fp32").score(TALKS)
    one = remote(f"{kind}:{server.url}" + (f"#{folder}" if kind == "openrlhf" else f"#{model}" if model else ""))
    found = one.score(TALKS)
    assert one.spec.startswith(f"{kind}:")
    assert found.reasons == {}
    if kind == "assay":
        assert one.attributes == (("reward", *ATTRIBUTES) if model == "many" else ("reward",))
        assert found.truncated.tolist() == wanted.truncated.tolist()
        np.testing.assert_allclose(found.values, wanted.values, atol=1e-4)
    else:
        assert one.attributes == ("reward",)
        np.testing.assert_allclose(found.values, wanted.values[:, :1], atol=1e-4)


def test_the_fingerprint_is_that_of_the_checkpoint_in_the_same_precision(server: Server, remote: Callable[[str], Remote]) -> None:
    for name, folder in checkpoints().items():
        assert remote(f"assay:{server.url}#{name}").fingerprint == load_scorer(folder, precision="fp32").fingerprint  # type: ignore[attr-defined]
        assert remote(f"assay:{server.url}#{name}").fingerprint != load_scorer(folder, precision="bf16").fingerprint  # type: ignore[attr-defined]
    assert remote(f"vllm:{server.url}").fingerprint is None
    assert remote(f"openrlhf:{server.url}#{checkpoints()['first']}").fingerprint is None


def test_scores_kept_from_the_checkpoint_serve_the_remote_one(server: Server, remote: Callable[[str], Remote], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "yes " * i + "a", "rejected": "no"}) + "\n" for i in range(12)))
    local = evaluate(load_scorer(checkpoints()["first"], precision="fp32"), [load_suite(f"s={data}")])
    one = remote(f"assay:{server.url}#first")
    monkeypatch.setattr(one, "_post", lambda *_: pytest.fail("asked the server for what was kept"))
    one.ask = lambda *_: pytest.fail("asked the server for what was kept")
    assert evaluate(one, [load_suite(f"s={data}")])["suites"]["s"] == local["suites"]["s"]


def test_order_is_kept_whoever_answers_first(scripted: Callable[..., Scripted], remote: Callable[[str], Remote]) -> None:
    most, now, lock = 0, 0, threading.Lock()

    def reply(path: str, body: Any, n: int) -> Reply:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05 if n % 3 == 0 else 0.002)
        with lock:
            now -= 1
        return probs(length(body))

    found = remote(f"vllm:{scripted(reply).url}").score(many(60))
    assert found.values[:, 0].tolist() == [float(i + 1) for i in range(60)]
    assert 1 < most <= http.AT_ONCE


def test_progress_and_nothing_at_all(scripted: Callable[..., Scripted]) -> None:
    seen: list[tuple[int, int]] = []
    with scripted(lambda path, body, n: probs(1.0)) as script:
        one = load_scorer(f"vllm:{script.url}/", tick=lambda done, total: seen.append((done, total)))
        assert isinstance(one, Remote)
        one.score(many(3))
        assert seen == [(1, 3), (2, 3), (3, 3)]
        assert one.score([]).values.shape == (0, 1)


@pytest.mark.parametrize("bad", [(429, {"Retry-After": "0"}, {}), (429, {"Retry-After": "1"}, {}), (503, {}, {}), (500, {}, b"oops"), (502, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""), None])
def test_what_passes_is_tried_again(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], bad: Reply | None) -> None:
    tries: dict[float, int] = {}
    lock = threading.Lock()

    def reply(path: str, body: Any, n: int) -> Reply | None:
        with lock:
            tries[length(body)] = tries.get(length(body), 0) + 1
        return bad if tries[length(body)] <= 2 else probs(length(body))

    found = remote(f"vllm:{scripted(reply).url}").score(many(10))
    assert found.reasons == {}
    assert found.values[:, 0].tolist() == [float(i + 1) for i in range(10)]
    assert set(tries.values()) == {3}


def test_the_wait_a_server_asks_for_is_kept(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT", 30.0)
    script = scripted(lambda path, body, n: (429, {"Retry-After": "1"}, {}) if n == 0 else probs(1.0))
    start = time.monotonic()
    assert remote(f"vllm:{script.url}").score(many(1)).reasons == {}
    assert 0.95 < time.monotonic() - start < 4


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (401, 1), (404, 1), (413, 1), (422, 1), (429, http.TRIES), (500, http.TRIES), (503, http.TRIES)])
def test_what_fails_for_good_has_no_score_but_a_reason(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], status: int, tries: int) -> None:
    script = scripted(lambda path, body, n: (status, {}, {"error": "not this one"}) if length(body) == 2 else probs(length(body)))
    found = remote(f"vllm:{script.url}").score(many(3))
    assert np.isnan(found.values[:, 0]).tolist() == [False, True, False]
    assert list(found.reasons) == [1]
    assert f"status {status}" in found.reasons[1]
    assert "not this one" in found.reasons[1]
    assert f"{script.url}/classify" in found.reasons[1]
    assert len(script.asked) == 2 + tries
    assert found.unanswered == ({1} if tries > 1 else frozenset())


def test_connections_are_not_left_to_the_garbage_collector(server: Server) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_scorer(f"vllm:{server.url}").score(many(3))
        gc.collect()
    assert [str(w.message) for w in caught if w.category is ResourceWarning] == []


def test_nobody_there_is_a_reason(remote: Callable[[str], Remote]) -> None:
    found = remote("vllm:http://127.0.0.1:9").score(many(2))
    assert np.isnan(found.values).all()
    assert set(found.reasons) == found.unanswered == {0, 1}


def test_evaluation_counts_what_has_no_score_as_wrong(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{i}", "chosen": "x" * (20 + i), "rejected": "y"}) + "\n" for i in range(10)))
    script = scripted(lambda path, body, n: (400, {}, {}) if length(body) in (21, 25) else probs(length(body)))
    result = evaluate(remote(f"vllm:{script.url}"), [load_suite(f"s={data}")])["suites"]["s"]
    assert result["overall"]["value"] == pytest.approx(0.8)
    assert result["without_score"] == 2


SHAPES: list[Any] = [
    None, 5, "x", [], {}, {"data": None}, {"data": []}, {"data": [{}]}, {"data": [{"probs": []}]}, {"data": [{"probs": None}]}, {"data": [{"probs": [None]}]}, {"data": [{"probs": ["high"]}]},
    {"data": [{"probs": [[1.0, 2.0]]}]}, {"data": [{"probs": [{}]}]}, {"data": [{"probs": [1.0]}, {"probs": [1.0]}]}, {"data": {"probs": [1.0]}}, {"data": "abc"}, b"<html>", b"", b"\xff",
]  # fmt: skip


@pytest.mark.parametrize("content", SHAPES, ids=repr)
def test_answers_of_another_shape_are_reasons(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], content: Any) -> None:
    found = remote(f"vllm:{scripted(lambda path, body, n: (200, {}, content)).url}").score(many(1))
    assert np.isnan(found.values).all()
    assert found.reasons.get(0)


@pytest.mark.parametrize("content", [{}, {"rewards": [1.0]}, {"rewards": [1.0, None]}, {"rewards": [1.0, "x"]}, {"rewards": [[1.0, 2.0], [1.0, 2.0]]}, {"rewards": 1.0}, {"rewards": [1.0, 2.0, 3.0]}, []], ids=repr)
def test_rewards_of_another_shape_are_reasons(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], content: Any) -> None:
    script = scripted(golden)
    one = remote(f"openrlhf:{script.url}#{checkpoints()['first']}")
    script.reply = lambda path, body, n: (200, {}, content)
    found = one.score(many(2))
    assert np.isnan(found.values).all()
    assert set(found.reasons) == {0, 1}


def test_a_score_that_is_no_number_has_a_reason(scripted: Callable[..., Scripted], remote: Callable[[str], Remote]) -> None:
    script = scripted(lambda path, body, n: probs(math.nan))
    found = remote(f"vllm:{script.url}").score(many(1))
    assert np.isnan(found.values).all()
    assert found.reasons.get(0), "NaN without a reason"


def test_what_is_asked(scripted: Callable[..., Scripted], remote: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_API_KEY", "k")
    script = scripted(lambda path, body, n: probs(1.0))
    remote(f"vllm:{script.url}/base/#my/model").score(many(1))
    (path, body, headers) = script.asked[0]
    assert path == "/base/classify"
    assert body == {"messages": said("q", "a"), "use_activation": False, "model": "my/model"}
    assert headers["authorization"] == "Bearer k"
    texts = scripted(golden)
    found = remote(f"openrlhf:{texts.url}#{checkpoints()['first']}").score(many(70))
    assert sorted(len(body["query"]) for _, body, _ in texts.asked) == [6, 8, 32, 32]
    assert "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n" in {q for _, body, _ in texts.asked for q in body["query"]}
    assert found.values[:, 0].tolist() == [0.5] * 70


@pytest.mark.parametrize("kind", ["openrlhf", "vllm"])
def test_the_server_must_give_the_canaries_of_the_checkpoint_their_scores(kind: str, scripted: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoints()["first"]
    lazy = f"{kind}:{scripted(lambda path, body, n: probs(0.5) if path == '/classify' else (200, {}, {'rewards': [0.5] * len(body['query'])})).url}#{folder}"
    worst = max(abs(canary.score - 0.5) for canary in contract.read(folder).canaries)
    with pytest.raises(AssayError, match=re.escape(f"differ by up to {worst:.2g} from those of its contract")):
        load_scorer(lazy)
    with pytest.raises(AssayError, match="--allow-drift .now 0.01"):
        load_scorer(lazy, allow_drift=0.01)
    with pytest.warns(UserWarning, match=re.escape(f"differ by up to {worst:.2g}")):
        assert load_scorer(f"mean({lazy},rule:length)", allow_drift=worst + 1).score(many(1)).values[0, 0] == pytest.approx(0.75)
    with pytest.raises(AssayError, match="gives the canaries of .* no score .*status 400"):
        load_scorer(f"{kind}:{scripted(lambda path, body, n: (400, {}, {})).url}#{folder}")
    assert run_app(["doctor", str(folder), "--against", lazy]) == 1
    assert "the other side" in capsys.readouterr().out


def test_a_tokenizer_without_a_contract_has_no_canaries(scripted: Callable[..., Scripted], tiny_decoder: Path) -> None:
    script = scripted(lambda path, body, n: (200, {}, {"rewards": [0.5] * len(body["query"])}))
    assert load_scorer(f"openrlhf:{script.url}#{tiny_decoder}").score(many(1)).values.tolist() == [[0.5]]
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("vllm:", "expected vllm:URL, for example vllm:http://localhost:8000"),
        ("assay:localhost:8000", "expected assay:URL"),
        ("openrlhf:ftp://x", "expected openrlhf:URL"),
        ("assay:http://127.0.0.1:9", "no server of Assay answers there"),
        ("openrlhf:http://127.0.0.1:9", "needs a chat template: openrlhf:URL#CHECKPOINT"),
        ("openrlhf:http://127.0.0.1:9#/nowhere/at/all", "the tokenizer of /nowhere/at/all cannot be loaded"),
        ("vllm:http://localhost:port", "vllm:http://localhost:port"),
        ("assay:http://localhost:99999", "assay:http://localhost:99999"),
    ],
)
def test_specs_that_cannot_be(spec: str, says: str) -> None:
    with pytest.raises(AssayError, match=".") as error:
        load_scorer(spec)
    assert says in str(error.value)


def test_a_model_that_is_not_there(server: Server) -> None:
    with pytest.raises(AssayError, match="the server has no model `third`, only first, second, many"):
        load_scorer(f"assay:{server.url}#third")


@pytest.mark.parametrize(
    "content",
    [{"data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}, {"data": []}, {"data": None}, {"data": [{}]}, [], {"error": {"message": "no key"}}, b"<html>"],
    ids=repr,
)
def test_servers_that_are_not_ours_are_told(scripted: Callable[..., Scripted], content: Any) -> None:
    with pytest.raises(AssayError, match="no server of Assay answers there"):
        load_scorer(f"assay:{scripted(lambda path, body, n: (200, {}, content)).url}")


def test_a_wrong_key_is_told_as_such(scripted: Callable[..., Scripted]) -> None:
    reply = {"error": {"message": "the API key is missing or wrong", "code": 401}}
    with pytest.raises(AssayError, match="401|API key"):
        load_scorer(f"assay:{scripted(lambda path, body, n: (401, {}, reply)).url}")


def test_one_conversation_that_cannot_be_sent_leaves_the_others(scripted: Callable[..., Scripted], remote: Callable[[str], Remote]) -> None:
    found: Scores = remote(f"vllm:{scripted(lambda path, body, n: probs(2.0)).url}").score([said("q", "\ud800"), said("q", "a")])
    assert found.values[1, 0] == 2.0


def test_a_server_that_takes_fewer_items_is_still_scored(remote: Callable[[str], Remote]) -> None:
    scorer = CheckpointScorer(str(checkpoints()["first"]), "fp32")
    with in_thread(create_app({"first": scorer}, limits=Limits(items=8))) as url:
        found = remote(f"assay:{url}").score(many(20))
    assert found.reasons == {}
