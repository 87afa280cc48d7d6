"""Bulk scoring: whoever scores the parts, and however often it was interrupted, the table is the same."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assay.cli import run_app
from assay.engine import start
from assay.score import bulk, judge
from assay.score.bulk import loaded, score_file
from assay.score.scorer import Scores, load_scorer
from conftest import RAYS_OWN
from served import checkpoints


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PART", 7)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bulk") / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {i // 2}?", "chosen": "A number. " * (i % 9 + 1), "rejected": f"No {i}."}) + "\n" for i in range(40)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.filterwarnings(one) for one in RAYS_OWN])])
def test_other_processes_give_the_same_scores(rows: Path, engine: str) -> None:
    folder = str(checkpoints()["first"])
    here = load_scorer(folder, precision="fp32")
    expected = score_file(here, str(rows)).table
    with start(engine, 2, models=True) as running:  # type: ignore[arg-type]
        scored = score_file(here, str(rows), engine=running, load=partial(loaded, folder, "fp32", None, 1))
    found = scored.table
    assert (scored.aside, scored.unanswered, scored.usage) == (0, 0, None)
    assert found.drop("chosen_score", "rejected_score", "margin").equals(expected.drop("chosen_score", "rejected_score", "margin"))
    for column in ("chosen_score", "rejected_score", "margin"):
        assert found[column].to_list() == pytest.approx(expected[column].to_list(), abs=1e-5)


class Failing:
    """A scorer that stops after some calls, and remembers what it was asked."""

    attributes = ("reward",)

    def __init__(self, real: object, calls: int, spec: str = "failing") -> None:
        self.real, self.left, self.spec, self.asked = real, calls, spec, 0

    def score(self, conversations: list[list[dict[str, str]]]) -> Scores:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(conversations)
        return self.real.score(conversations)  # type: ignore[attr-defined,no-any-return]


def test_an_interrupted_run_goes_on(rows: Path, tmp_path: Path) -> None:
    real = load_scorer("rule:length")
    expected = score_file(real, str(rows)).table
    with pytest.raises(KeyboardInterrupt):
        score_file(Failing(real, 4), str(rows), parts=tmp_path / "parts")
    rest = Failing(real, 99)
    found = score_file(rest, str(rows), parts=tmp_path / "parts").table
    assert found.equals(expected)
    assert rest.asked == 2 * (40 - 4 * 7)


@pytest.mark.parametrize("other", ["scorer", "data"])
def test_parts_of_another_run_are_not_taken(rows: Path, tmp_path: Path, other: str) -> None:
    real = load_scorer("rule:length")
    with pytest.raises(KeyboardInterrupt):
        score_file(Failing(real, 4), str(rows), parts=tmp_path / "parts")
    changed = tmp_path / "changed.jsonl"
    changed.write_text(rows.read_text().replace("What is 0?", "What is zero?"))
    rest = Failing(real, 99, "another" if other == "scorer" else "failing")
    score_file(rest, str(rows if other == "scorer" else changed), parts=tmp_path / "parts")
    assert rest.asked == 80


class Endpoint(ThreadingHTTPServer):
    """A judge that answers so many requests, and 503 from then on."""

    daemon_threads = True

    def __init__(self, answers: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.left, self.asked, self.lock = answers, 0, threading.Lock()
        self.spec = f"judge:m@http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        shown = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked += 1
            up = self.server.left > 0
            self.server.left -= up
        text = "I won't say." if "answer 3" in shown else "[[7]]"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
        said = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage} if up else {"error": {"message": "asleep"}}).encode()
        self.send_response(200 if up else 503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Endpoint]]:
    """Starts judges; they end with the test."""
    monkeypatch.setattr(judge, "RETRIES", 0)
    loaded.cache_clear()
    made: list[Endpoint] = []

    def start_one(answers: int) -> Endpoint:
        made.append(Endpoint(answers))
        threading.Thread(target=made[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return made[-1]

    yield start_one
    for one in made:
        one.shutdown()
        one.server_close()


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Twenty answers."""
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {i}?", "response": f"answer {i}."}) + "\n" for i in range(20)))
    return path


def test_after_an_outage_the_same_command_asks_for_the_rest_alone(endpoint: Callable[[int], Endpoint], talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, out = endpoint(8), tmp_path / "out" / "scores.jsonl"
    command = ["score", one.spec, str(talks), "-o", str(out)]
    assert run_app(command) == 1
    said = capsys.readouterr()
    assert "7 rows scored, 13 without a score (column reason)" in said.out
    assert "the judge answered 8 requests: 800 tokens of prompt, 56 of completion" in said.out
    assert "assay: 12 rows have no score because nobody answered; run the same command again to ask for these alone" in said.err
    one.left, before = 1_000, one.asked
    assert run_app(command) == 0
    assert one.asked - before == 12
    assert "19 rows scored, 1 without a score" in capsys.readouterr().out
    table = pl.read_ndjson(out)
    assert table["row"].to_list() == sorted(table["row"].to_list())
    assert table.filter(pl.col("reason").is_not_null())["reason"].to_list() == ["no grade in the judge's text"]
    assert [path.name for path in out.parent.iterdir()] == ["scores.jsonl"]


def test_rows_of_a_part_keep_their_places(rows: Path, tmp_path: Path) -> None:
    """What is asked for again goes where it belongs, both sides of a pair."""
    real = load_scorer("rule:length")

    class Half:
        spec, attributes, down = "half", ("reward",), True

        def score(self, conversations: list[list[dict[str, str]]]) -> Scores:
            found = real.score(conversations)
            missing = frozenset(i for i in range(len(conversations)) if self.down and i % 3 == 0)
            values = found.values.copy()
            values[list(missing)] = np.nan
            return Scores(values, found.truncated, dict.fromkeys(missing, "status 503"), missing)

    half = Half()
    first = score_file(half, str(rows), parts=tmp_path / "parts")
    assert 0 < first.unanswered < 40
    assert first.table["reason"].is_not_null().sum() == first.unanswered
    half.down = False
    again = score_file(half, str(rows), parts=tmp_path / "parts")
    assert again.unanswered == 0
    assert again.table.equals(score_file(real, str(rows)).table)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.filterwarnings(one) for one in RAYS_OWN])])
def test_what_a_judge_used_in_other_processes_is_told(endpoint: Callable[[int], Endpoint], talks: Path, tmp_path: Path, engine: str) -> None:
    one = endpoint(1_000)
    with start(engine, 2) as running:  # type: ignore[arg-type]
        scored = score_file(load_scorer(one.spec), str(talks), engine=running, load=partial(loaded, one.spec))
    assert scored.usage == {"requests": 20, "prompt_tokens": 2_000, "completion_tokens": 140}


def test_no_workers_are_refused(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["score", "rule:length", str(rows), "-o", str(tmp_path / "x.csv"), "--workers", "0"]) == 2
    assert "workers: expected at least 1, found 0" in capsys.readouterr().err


def test_the_command_leaves_no_parts(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.parquet"
    assert run_app(["score", "rule:length", str(rows), "-o", str(out)]) == 0
    assert "40 rows scored" in capsys.readouterr().out
    assert pl.read_parquet(out).height == 40
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]
