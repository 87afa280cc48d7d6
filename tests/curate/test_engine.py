"""Engines: the same results in the same order, exceptions as they were raised, and a curation whose bytes depend on neither engine nor kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assay import engine as engines
from assay.curate import runner
from assay.curate.runner import OUTPUTS, curate
from assay.curate.steps import (
    AnyStep,
    agree,
    balance,
    contradictions,
    decontaminate,
    duplicates,
    filter,
    markers,
    mix,
    near_duplicates,
    select,
    semantic_duplicates,
    shortcuts,
)
from assay.errors import AssayError, MissingExtra
from assay.files import write_parquet
from assay.pairs.schema import from_rows
from conftest import RAYS_OWN, pair

from .conftest import contents


def slowly_twice(task: int) -> tuple[int, str]:
    time.sleep(0.02 * (task % 3))
    return 2 * task, f"task {task}"


def fails_at_three(task: int) -> int:
    if task == 3:
        raise AssayError("task 3 is wrong")
    return task


def lacks_an_extra(task: int) -> int:
    raise MissingExtra("the task", "audit")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    told: list[tuple[int, int]] = []
    with engines.start("local", workers) as engine:
        assert engine.map(slowly_twice, range(9), lambda *at: told.append(at)) == [(2 * i, f"task {i}") for i in range(9)]
        assert told == [(i, 9) for i in range(1, 10)]
        assert engine.map(slowly_twice, []) == []
        assert engine.map(slowly_twice, [4]) == [(8, "task 4")]


@pytest.mark.parametrize("workers", [1, 2])
def test_exceptions_reach_the_caller(workers: int) -> None:
    with engines.start("local", workers) as engine:
        with pytest.raises(AssayError, match="^task 3 is wrong$"):
            engine.map(fails_at_three, range(6))
        with pytest.raises(ZeroDivisionError):
            engine.map((1).__floordiv__, [1, 0, 2])
        assert engine.map(fails_at_three, [1, 2]) == [1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_missing_extra_in_another_process_is_named(workers: int) -> None:
    with engines.start("local", workers) as engine, pytest.raises(MissingExtra, match=r"assay\[audit\]"):
        engine.map(lacks_an_extra, range(3))


def _killed(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_worker_that_is_killed_is_no_bug_of_ours() -> None:
    with engines.start("local", 2) as engine, pytest.raises(AssayError, match=r"a worker process ended by itself.*fewer workers"):
        engine.map(_killed, [1, 2, 3])


@pytest.mark.parametrize(("name", "workers", "message"), [("locall", 1, "unknown engine `locall`. Known: local, ray"), ("local", 0, "workers: expected at least 1, found 0"), ("ray", -1, "workers: expected at least 1")])
def test_what_is_no_engine(name: Any, workers: int, message: str) -> None:
    with pytest.raises(AssayError, match=message), engines.start(name, workers):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r'the engine `ray` needs .*pip install "assay\[ray\]"'), engines.start("ray", 1):
        pass


# a whole curation


WORDS = ["river", "hill", "town", "snow", "light", "bread", "stone", "winter", "garden", "music", "paper", "window", "silver", "engine", "planet", "forest"]


def rows(n: int = 240) -> list[dict[str, Any]]:
    rng = random.Random(0)
    made = []
    for i in range(n):
        prompt = " ".join(rng.choices(WORDS, k=14)) + f" {i}"
        good, bad = (" ".join(rng.choices(WORDS, k=rng.randint(3, 20))) for _ in range(2))
        mark = "<|im_end|>" if i % 29 == 0 else ""
        made.append(pair(prompt, f"Sure! {good}", bad + mark, source="abc"[i % 3], category="xy"[i % 2], score=float(rng.random()), better=rng.uniform(-0.4, 1), worse=0.0))
    again = [{**row, "score": 0.5} for row in made[:12]]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in made[20:26]]
    near = [{**row, "prompt": [{"role": "user", "content": row["prompt"][0]["content"] + " indeed"}]} for row in made[30:40]]
    return made + again + turned + near


def bench(folder: Path) -> Path:
    path = folder / "bench.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["prompt"][0]["content"]}) + "\n" for row in rows()[50:56]))
    return path


def steps(folder: Path) -> list[AnyStep]:
    """Every step that needs no model, in an order in which each has something to do."""
    return [
        filter.Config(column="category", values=["x", "y"]),
        markers.Config(),
        contradictions.Config(),
        duplicates.Config(best="score"),
        near_duplicates.Config(jaccard=0.7),
        semantic_duplicates.Config(cosine=0.97),
        decontaminate.Config(against={"bench": str(bench(folder))}, ngram=7, cosine=0.9),
        shortcuts.Config(action="report"),
        agree.Config(columns=("better", "worse"), action="flip", flip_below=0.2),
        balance.Config(),
        select.Config(by="score", others=0.8, clusters=4),
        mix.Config(size=100, weights={"a": 2.0}),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The rows as a file, the steps' benchmark beside it, and the hashes one process makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    pytest.importorskip("wordllama")
    write_parquet(folder / "pairs.parquet", from_rows(rows()))
    done = curate(folder / "pairs.parquet", steps(folder), folder / "c")
    dropped = {a["step"][3:]: a["dropped"] for a in done.manifest["accounts"]}
    assert all(dropped[kind] for kind in dropped if kind not in ("shortcuts", "filter", "semantic_duplicates")), dropped
    return folder, done.manifest["sha256"]


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are large enough for several processes."""
    monkeypatch.setattr(runner, "SMALL", 0)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize(("workers", "shards"), [(1, 5), (2, 1), (4, 4)])
def test_workers_and_shards_change_no_byte(workers: int, shards: int, whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, hashes = whole
    assert curate(folder / "pairs.parquet", steps(folder), tmp_path / "c", workers=workers, shards=shards).manifest["sha256"] == hashes


@pytest.mark.slow
@pytest.mark.filterwarnings(*RAYS_OWN)
def test_ray_changes_no_byte(whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder, hashes = whole
    assert curate(folder / "pairs.parquet", steps(folder), tmp_path / "c", workers=2, shards=3, engine="ray").manifest["sha256"] == hashes


@pytest.mark.slow
@pytest.mark.filterwarnings(*RAYS_OWN)
def test_ray_gives_results_in_order_and_exceptions_as_they_were_raised() -> None:
    pytest.importorskip("ray")
    told: list[tuple[int, int]] = []

    def twice(task: int) -> tuple[int, str]:  # a function of this module would have to be importable where Ray's workers are
        return 2 * task, f"task {task}"

    def fails(task: int) -> int:
        if task == 3:
            raise AssayError("task 3 is wrong")
        return task

    with engines.start("ray", 2) as engine:
        assert [tuple(r) for r in engine.map(twice, range(9), lambda *at: told.append(at))] == [(2 * i, f"task {i}") for i in range(9)]
        assert told == [(i, 9) for i in range(1, 10)]
        assert engine.map(twice, []) == []
        with pytest.raises(AssayError, match="^task 3 is wrong$"):
            engine.map(fails, range(6))


RUN = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {curate!r}]
from tests.curate.test_engine import steps, runner
if __name__ == "__main__":
    runner.SMALL = 0
    runner.curate(Path({pairs!r}), steps(Path({folder!r})), Path({out!r}), shards=4, workers={workers})
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_and_resumed(workers: int, whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = whole
    tests = Path(__file__).parents[1]
    script = tmp_path / "run.py"
    script.write_text(RUN.format(tests=str(tests.parent), curate=str(tests), pairs=str(folder / "pairs.parquet"), folder=str(folder), out=str(tmp_path / "c"), workers=workers))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng, kills = random.Random(time.time_ns()), 0
    marks = ["pool/manifest.json", *(f"steps/{i:02d}-*/manifest.json" for i in (1, 4, 6, 8, 11))]
    for mark in marks:
        process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, start_new_session=True)
        while process.poll() is None and not list((tmp_path / "c").glob(mark)):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.15)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        _, error = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), error.decode()
    assert kills >= 3
    subprocess.run([sys.executable, str(script)], env=environment, check=True)
    for name, content in contents(tmp_path / "c").items():
        assert content == (folder / "c" / name).read_bytes(), name
    assert not [p for p in (tmp_path / "c").iterdir() if p.name not in (*OUTPUTS, "manifest.json", "pool", "steps", ".started") and not p.name.startswith(".")]


def test_the_rows_do_not_depend_on_who_counts_them(whole: tuple[Path, dict[str, str]]) -> None:
    folder, _ = whole
    ledger = pl.read_parquet(folder / "c" / "ledger.parquet")
    assert ledger.height == len(rows())
    assert ledger.select("id", "copy").is_unique().all()
