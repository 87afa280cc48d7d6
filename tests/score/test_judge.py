"""Judges against a real server on this machine that speaks chat completions and behaves well or badly as told."""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from assay.errors import AssayError
from assay.evaluate.evaluate import evaluate
from assay.evaluate.suite import Item, Suite
from assay.evaluate.suites import judgebench
from assay.pairs.schema import Message, answer_text
from assay.score import judge
from assay.score.judge import Judge, PairJudge, choice_in, grade_in
from assay.score.scorer import load_scorer
from conftest import turn

Say = Callable[[str, dict[str, Any]], str]


class Model(ThreadingHTTPServer):
    """What answers, and what it was asked."""

    daemon_threads = True

    def __init__(self, say: Say) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say = say
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failures = 0
        """Requests that are still answered with 500."""
        self.raw: tuple[str, bytes] | None = None
        """Content type and body sent instead of a completion."""
        self.finish = "stop"
        self.no_temperature = False
        """Whether a request with a temperature is refused."""
        self.usage = True
        self.lock = threading.Lock()

    @property
    def at(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            failing = self.server.failures > 0
            self.server.failures -= failing
        if self.path != "/v1/chat/completions":
            self.reply(404, "application/json", b'{"error": {"message": "no such path"}}')
        elif failing:
            self.reply(500, "application/json", b'{"error": {"message": "the model is on fire"}}')
        elif self.server.no_temperature and "temperature" in body:
            self.reply(400, "application/json", b'{"error": {"message": "Unsupported parameter: \'temperature\' is not supported with this model.", "param": "temperature"}}')
        elif self.server.raw:
            self.reply(200, *self.server.raw)
        else:
            self.reply(200, "application/json", self.completion(body))

    def completion(self, body: dict[str, Any]) -> bytes:
        text = self.server.say(body["messages"][-1]["content"], body)
        found: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [{"index": 0, "finish_reason": self.server.finish, "message": {"role": "assistant", "content": text}}]}
        if self.server.usage:
            found["usage"] = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        return json.dumps(found).encode()

    def reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Say], Model]]:
    """Starts servers; they end with the test."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.setattr(judge, "RETRIES", 1)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    models: list[Model] = []

    def start(say: Say) -> Model:
        models.append(Model(say))
        threading.Thread(target=models[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return models[-1]

    yield start
    for model in models:
        model.shutdown()
        model.server_close()


Serve = Callable[[Say], Model]


def part(shown: str, name: str) -> str:
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", shown, re.DOTALL)
    assert found, shown
    return found[1]


def by_length(shown: str, body: dict[str, Any]) -> str:
    return f"It has a length. [[{len(part(shown, 'answer'))}]]"


def slow_at_first(shown: str, body: dict[str, Any]) -> str:
    """The shortest answers take longest, so that replies come in another order than requests."""
    time.sleep(0.02 * (10 - len(part(shown, "answer"))))
    return by_length(shown, body)


def first_position(shown: str, body: dict[str, Any]) -> str:
    return "The first is always nicer. [[A]]"


def longer(shown: str, body: dict[str, Any]) -> str:
    a, b = len(part(shown, "answer A")), len(part(shown, "answer B"))
    return f"[[{'A' if a > b else 'B' if b > a else 'C'}]]"


def conversation(answer: str, prompt: str = "Why?") -> list[Message]:
    return [turn("user", prompt), turn("assistant", answer)]


def graded(model: Model) -> Judge:
    found = load_scorer(f"judge:some/model@{model.at}")
    assert isinstance(found, Judge)
    return found


def paired(model: Model) -> PairJudge:
    found = load_scorer(f"judge-pairs:some/model@{model.at}")
    assert isinstance(found, PairJudge)
    return found


def of_pairs(n: int, rule: str = "pairs", lengths: Callable[[int], tuple[int, int]] = lambda i: (1 + i % 7, 9)) -> Suite:
    items = []
    for i in range(n):
        a, b = lengths(i)
        items.append(Item(f"i{i}", "all", [turn("user", f"prompt {i}")], [[turn("assistant", "x" * a)], [turn("assistant", "y" * b)]], (1.0, 0.0), f"c{i}"))
    return Suite("s", rule, items)


# Judges of one answer.


def test_grades_keep_their_order_whatever_comes_first(serve: Serve) -> None:
    model = serve(slow_at_first)
    lengths = [1 + (7 * i) % 10 for i in range(24)]
    scores = graded(model).score([conversation("x" * n) for n in lengths])
    assert scores.values.shape == (24, 1)
    assert scores.values[:, 0].tolist() == lengths
    assert scores.reasons == {}
    assert not scores.truncated.any()


def test_what_a_judge_is_asked(serve: Serve) -> None:
    model = serve(by_length)
    said = [turn("system", "Be kind."), turn("user", "Why?"), turn("assistant", "Because."), turn("user", "Really?"), turn("assistant", "Yes.")]
    graded(model).score([said])
    (body,) = model.asked
    assert body["model"] == "some/model"
    assert body["temperature"] == 0
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    shown = body["messages"][1]["content"]
    assert part(shown, "conversation") == "system: Be kind.\n\nuser: Why?\n\nassistant: Because.\n\nuser: Really?"
    assert part(shown, "answer") == "Yes."
    assert model.headers[0]["authorization"] == "Bearer a-key"


@pytest.mark.parametrize("key", [None, ""])
def test_a_local_model_needs_no_key(key: str | None, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    assert graded(serve(by_length)).score([conversation("xxx")]).values.tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("text", "grade", "reason"),
    [
        ("[[4]]", 4.0, None),
        ("At first [[2]], but then\n[[ 7.5 ]]", 7.5, None),
        ("[[10]]", 10.0, None),
        ("[[1]] of course", 1.0, None),
        ("[[11]]", None, "the grade is not between 1 and 10"),
        ("[[0]]", None, "the grade is not between 1 and 10"),
        ("[[-3]]", None, "the grade is not between 1 and 10"),
        ("[[5]] no, [[50]]", None, "the grade is not between 1 and 10"),
        ("7/10", None, "no grade in the judge's text"),
        ("[4]", None, "no grade in the judge's text"),
        ("[[four]]", None, "no grade in the judge's text"),
        ("", None, "no grade in the judge's text"),
        ("<think>Is it [[2]]?</think>It is good. [[8]]", 8.0, None),
        ("Is it [[2]]?\n</think>\n\n[[8]]", 8.0, None),
        ("<think>Is it [[2]]?</think>It is good.", None, "no grade in the judge's text"),
        ("<think>Is it [[2]]?", None, "the judge's thinking never ends"),
        ("<think>a</think>[[3]] <think>or [[2]]?", None, "the judge's thinking never ends"),
    ],
)
def test_reading_a_grade(text: str, grade: float | None, reason: str | None) -> None:
    found, why = grade_in(text)
    assert why == reason
    assert math.isnan(found) if grade is None else found == grade


@pytest.mark.parametrize(("text", "choice"), [("[[A]]", 1.0), ("[[B]] hm [[ A ]]", 1.0), ("[[B]]", -1.0), ("[[C]]", 0.0), ("A", None), ("[[D]]", None), ("[[a]]", None), ("", None)])
def test_reading_a_choice(text: str, choice: float | None) -> None:
    found, why = choice_in(text)
    assert (why == "no choice in the judge's text") == (choice is None)
    assert math.isnan(found) if choice is None else found == choice


def test_thinking_is_no_vote() -> None:
    found, why = choice_in("<think>I have to end with [[A]] or [[B]] or [[C]]. Answer A is w")
    assert math.isnan(found)
    assert why == "the judge's thinking never ends"
    assert choice_in("<think>[[A]] or [[B]] or [[C]]?</think> [[A]]") == (1.0, None)


def test_a_text_that_was_cut_is_a_failure(serve: Serve) -> None:
    model = serve(lambda shown, body: "I would say [[9]] if it were not for")
    model.finish = "length"
    one = graded(model)
    scores = one.score([conversation("x")])
    assert np.isnan(scores.values).all()
    assert scores.reasons == {0: "the judge's text was cut"}
    assert scores.unanswered == frozenset()
    assert one.usage["completion_tokens"] == 7
    answers = ([turn("user", "?")], [turn("assistant", "a")], [turn("assistant", "b")])
    assert paired(model).compare([answers]) == [(0, "the judge's text was cut")]


def test_a_model_that_takes_no_temperature_is_asked_without(serve: Serve) -> None:
    model = serve(by_length)
    model.no_temperature = True
    one = graded(model)
    assert one.score([conversation("x" * (1 + i % 9), f"p{i}") for i in range(20)]).reasons == {}
    refused = len(model.asked) - 20
    assert 1 <= refused <= judge.AT_ONCE
    one.score([conversation("x")])
    assert len(model.asked) == 21 + refused
    assert "temperature" not in model.asked[-1]


def test_a_path_that_is_not_there_is_no_outage(serve: Serve) -> None:
    scores = load_scorer(f"judge:m@{serve(by_length).at}/elsewhere").score([conversation("x")])
    assert "no such path" in scores.reasons[0]
    assert scores.unanswered == frozenset()


def test_what_cannot_be_read_is_a_failure_with_its_reason_and_no_number(serve: Serve) -> None:
    def sometimes(shown: str, body: dict[str, Any]) -> str:
        size = len(part(shown, "answer"))
        return "I would rather not say." if size == 1 else "[[99]]" if size == 2 else by_length(shown, body)

    model = serve(sometimes)
    scores = graded(model).score([conversation("x" * n) for n in (1, 5, 2)])
    assert np.isnan(scores.values[:, 0]).tolist() == [True, False, True]
    assert scores.reasons == {0: "no grade in the judge's text", 2: "the grade is not between 1 and 10"}
    result = evaluate(graded(model), [of_pairs(14, lengths=lambda i: (1 + i % 7, 9))])["suites"]["s"]
    assert result["without_score"] == 4
    assert result["reasons"] == {"no grade in the judge's text": 2, "the grade is not between 1 and 10": 2}
    assert any(w.startswith("4 answers got no score and count as wrong (2: ") for w in result["warnings"])
    assert result["overall"]["value"] == 0


def test_an_empty_answer_of_the_model_is_a_failure(serve: Serve) -> None:
    model = serve(by_length)
    message = {"role": "assistant", "content": None}
    model.raw = ("application/json", json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode())
    assert graded(model).score([conversation("x")]).reasons == {0: "no grade in the judge's text"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": []}'),
        ("application/json", b'{"error": "overloaded"}'),
        ("application/json", b"[]"),
        ("application/json", b'{"id": '),
        ("text/html", b"<html>a login page</html>"),
    ],
    ids=["no choices", "an error with status 200", "a list", "cut short", "a web page"],
)
def test_a_reply_that_is_no_completion_is_a_failure(kind: str, body: bytes, serve: Serve) -> None:
    """One bad reply among thousands must not end the evaluation."""
    model = serve(by_length)
    model.raw = (kind, body)
    scores = graded(model).score([conversation("x"), conversation("xx")])
    assert np.isnan(scores.values).all()
    assert set(scores.reasons) == {0, 1}
    assert all(scores.reasons.values())


# When requests fail.


def test_a_request_is_tried_again(serve: Serve) -> None:
    model = serve(by_length)
    model.failures = 1
    scores = graded(model).score([conversation("xxxx")])
    assert scores.values.tolist() == [[4.0]]
    assert scores.reasons == {}
    assert len(model.asked) == 2


def test_a_server_that_only_fails_gives_reasons(serve: Serve) -> None:
    model = serve(by_length)
    model.failures = 1_000
    scores = graded(model).score([conversation("xxxx"), conversation("xx")])
    assert np.isnan(scores.values).all()
    assert len(model.asked) == 4
    for reason in scores.reasons.values():
        assert reason.startswith("the request failed (")
        assert "the model is on fire" in reason
        assert "\n" not in reason
    assert scores.unanswered == {0, 1}


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "RETRIES", 0)
    scores = load_scorer("judge:m@http://127.0.0.1:9/v1").score([conversation("x")])
    assert np.isnan(scores.values).all()
    assert scores.reasons[0].startswith("the request failed (")
    assert scores.unanswered == {0}


def test_a_server_that_is_too_slow(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "TIMEOUT", 0.2)
    monkeypatch.setattr(judge, "RETRIES", 0)

    def slow(shown: str, body: dict[str, Any]) -> str:
        if len(part(shown, "answer")) == 1:
            time.sleep(1)
        return by_length(shown, body)

    scores = graded(serve(slow)).score([conversation("x"), conversation("xxx")])
    assert scores.values[1, 0] == 3
    assert "timed out" in scores.reasons[0]


def test_a_server_that_only_fails_gives_results_that_say_so(serve: Serve) -> None:
    model = serve(by_length)
    model.failures = 1_000
    result = evaluate(graded(model), [of_pairs(3)])["suites"]["s"]
    assert result["overall"]["value"] == 0
    assert result["without_score"] == 6
    assert any("6 answers got no score and count as wrong" in w and "on fire" in w for w in result["warnings"])


def test_tokens_are_counted_once_each(serve: Serve) -> None:
    model = serve(by_length)
    one = graded(model)
    one.score([conversation("x" * (1 + i % 9), f"p{i}") for i in range(40)])
    assert one.endpoint.tokens == {"prompt": 4_000, "completion": 280}
    model.usage = False
    one.score([conversation("x")])
    assert one.endpoint.tokens == {"prompt": 4_000, "completion": 280}


def test_what_a_judge_used_and_cost_is_in_the_results(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluate(graded(serve(by_length)), [of_pairs(3)])["usage"] == {"requests": 6, "prompt_tokens": 600, "completion_tokens": 42}
    monkeypatch.setenv("ASSAY_JUDGE_PRICE", "0.15,0.60")
    one = graded(serve(by_length))
    one.score([conversation("x" * (1 + i % 9), f"p{i}") for i in range(40)])
    assert one.usage["cost"] == pytest.approx((4_000 * 0.15 + 280 * 0.60) / 1e6)
    monkeypatch.setenv("ASSAY_JUDGE_PRICE", "cheap")
    with pytest.raises(AssayError, match="ASSAY_JUDGE_PRICE is `cheap`; expected the prices of a million tokens"):
        graded(serve(by_length))


def test_as_many_at_once_as_allowed(serve: Serve) -> None:
    state = {"now": 0, "most": 0}
    lock = threading.Lock()

    def busy(shown: str, body: dict[str, Any]) -> str:
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        time.sleep(0.05)
        with lock:
            state["now"] -= 1
        return "[[5]]"

    graded(serve(busy)).score([conversation("x", f"p{i}") for i in range(20)])
    assert 2 <= state["most"] <= judge.AT_ONCE


def test_the_same_text_is_asked_once_in_an_evaluation(serve: Serve) -> None:
    model = serve(by_length)
    suite = of_pairs(6)
    evaluate(graded(model), [suite, Suite("again", "pairs", suite.items)])
    assert len(model.asked) == 12


@pytest.mark.parametrize("spec", ["judge:", "judge:m", "judge:m@", "judge:@http://x/v1", "judge:m@localhost:8000", "judge-pairs:m@ftp://x"])
def test_a_spec_that_names_no_endpoint(spec: str) -> None:
    with pytest.raises(AssayError) as caught:
        load_scorer(spec)
    assert str(caught.value) == f"{spec}: expected MODEL@URL, for example judge:my-model@http://localhost:8000/v1"


def test_a_model_may_have_an_at_in_its_name() -> None:
    assert Judge("judge:org/model@v2@http://localhost:1/v1").endpoint.model == "org/model@v2"


# Judges of pairs.


def test_both_orders_are_asked(serve: Serve) -> None:
    model = serve(longer)
    prompt = [turn("user", "Why?")]
    found = paired(model).compare([(prompt, [turn("assistant", "long answer")], [turn("assistant", "short")])])
    assert found == [(2, None)]
    shown = [body["messages"][1]["content"] for body in model.asked]
    assert sorted((part(s, "answer A"), part(s, "answer B")) for s in shown) == [("long answer", "short"), ("short", "long answer")]
    assert {part(s, "conversation") for s in shown} == {"user: Why?"}


def test_verdicts_keep_their_order(serve: Serve) -> None:
    def late(shown: str, body: dict[str, Any]) -> str:
        time.sleep(0.01 * (len(part(shown, "answer A")) % 4))
        return longer(shown, body)

    sizes = [(1 + (5 * i) % 9, 1 + (7 * i) % 9) for i in range(20)]
    found = paired(serve(late)).compare([([turn("user", str(i))], [turn("assistant", "x" * a)], [turn("assistant", "x" * b)]) for i, (a, b) in enumerate(sizes)])
    assert [total for total, _ in found] == [2 * int(np.sign(a - b)) for a, b in sizes]


def test_a_judge_that_prefers_a_position_is_never_right(serve: Serve) -> None:
    model = serve(first_position)
    result = evaluate(paired(model), [of_pairs(10)])["suites"]["s"]
    assert result["overall"]["value"] == 0
    assert len(model.asked) == 20
    assert result["without_score"] == 20
    assert result["reasons"] == {"the two orders contradict each other, or call it a tie": 20}
    assert any("the two orders contradict each other" in w for w in result["warnings"])


def test_a_judge_of_pairs_is_measured(serve: Serve) -> None:
    suite = of_pairs(20, lengths=lambda i: (9, 3) if i < 13 else (3, 9) if i < 18 else (4, 4))
    result = evaluate(paired(serve(longer)), [suite])["suites"]["s"]
    assert result["overall"]["value"] == pytest.approx(13 / 20)
    assert result["without_score"] == 4
    assert result["reversed"] == pytest.approx(5 / 20)


def test_a_failure_in_one_order_leaves_the_other(serve: Serve) -> None:
    def half(shown: str, body: dict[str, Any]) -> str:
        return "[[A]]" if part(shown, "answer A") == "good" else "no idea"

    found = paired(serve(half)).compare([([turn("user", "?")], [turn("assistant", "good")], [turn("assistant", "bad")])])
    assert found == [(1, "no choice in the judge's text")]


def test_an_item_that_one_order_decided_is_counted(serve: Serve) -> None:
    def half(shown: str, body: dict[str, Any]) -> str:
        return "[[A]]" if len(part(shown, "answer A")) > len(part(shown, "answer B")) else "no idea"

    result = evaluate(paired(serve(half)), [of_pairs(10)])["suites"]["s"]
    assert any("in 10 items one of the judge's two orders failed, and the other alone decided (10: no choice in the judge's text)" in w for w in result["warnings"])


def test_a_judge_of_pairs_that_only_fails(serve: Serve) -> None:
    model = serve(longer)
    model.failures = 1_000
    result = evaluate(paired(model), [of_pairs(2)])["suites"]["s"]
    assert result["overall"]["value"] == 0
    assert any("4 answers got no score" in w and "on fire" in w for w in result["warnings"])


def test_items_of_four_answers_are_refused(serve: Serve) -> None:
    model = serve(longer)
    four = Item("i", "all", [turn("user", "?")], [[turn("assistant", "x" * n)] for n in (4, 3, 2, 1)], (1.0, 0.0, 0.0, 0.0), "c")
    with pytest.raises(AssayError) as caught:
        evaluate(paired(model), [Suite("g", "best-of-n", [four])])
    assert str(caught.value) == "g: a judge of pairs compares two answers, but items here have up to 4; use a pointwise judge, judge:MODEL@URL"
    assert model.asked == []


def test_a_judge_of_pairs_gives_no_scores() -> None:
    spec = "judge-pairs:m@http://localhost:1/v1"
    with pytest.raises(AssayError) as caught:
        load_scorer(spec).score([conversation("x")])
    assert str(caught.value) == f"{spec} compares two answers and scores none by itself; use judge:MODEL@URL"


SAID = {"A>B": "[[A]]", "B>A": "[[B]]", "A=B": "[[C]]", None: "I cannot."}


def test_judgebench_is_measured_by_its_own_rule(serve: Serve) -> None:
    """Every combination of two verdicts and a label: right exactly where the official rule says so."""
    cases = [(label, one, two) for label in judgebench.LABELS for one in SAID for two in SAID]

    def say(shown: str, body: dict[str, Any]) -> str:
        number, side = part(shown, "answer A").split()
        return SAID[cases[int(number)][1 if side == "a" else 2]]

    items = []
    for i, (label, _, _) in enumerate(cases):
        gold = (1.0, 0.0) if label == "A>B" else (0.0, 1.0)
        items.append(Item(f"i{i}", "mmlu-pro", [turn("user", f"p{i}")], [[turn("assistant", f"{i} a")], [turn("assistant", f"{i} b")]], gold, f"c{i}", {"label": label}))
    judged = paired(serve(say))
    right = []
    for item in items:
        value = evaluate(judged, [Suite("s", "judgebench", [item])])["suites"]["s"]["overall"]["value"]
        right.append(bool(value))
    assert right == [judgebench.is_right(label, [one, two]) for label, one, two in cases]
    whole = evaluate(judged, [Suite("s", "judgebench", items)])["suites"]["s"]["overall"]["value"]
    assert whole == pytest.approx(np.mean(right))


def test_an_evaluation_tells_how_far_it_is(serve: Serve) -> None:
    told: list[tuple[int, int]] = []
    evaluate(paired(serve(longer)), [of_pairs(5)], tick=lambda done, of: told.append((done, of)))
    assert told == [(i, 10) for i in range(1, 11)]


def test_an_answer_of_several_messages_is_shown_whole(serve: Serve) -> None:
    model = serve(lambda shown, body: "[[C]]")
    answer = [turn("assistant", "first"), turn("assistant", "second")]
    paired(model).compare([([turn("user", "?")], answer, [turn("assistant", "other")])])
    assert {part(b["messages"][1]["content"], "answer A") for b in model.asked} == {answer_text(answer), "other"}
