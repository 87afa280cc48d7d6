"""Where kernels run: worker processes of this machine, or a Ray cluster. The same tasks, the same results in the same order.

A task reads files and writes one, whole or not at all, and is skipped when its file is there: so a killed run loses the tasks under way and
no more. On a cluster the folder of the curation must lie where all machines see it.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from assay.errors import AssayError, MissingExtra

Tick = Callable[[int, int], None]


class Engine(Protocol):
    """Runs a function over tasks."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any], tick: Tick | None = None) -> list[Any]:
        """``[function(task) for task in tasks]``; ``tick`` is told (done, total)."""
        ...


Name = Literal["local", "ray"]


@contextmanager
def start(name: Name, workers: int, *, models: bool = False) -> Iterator[Engine]:
    """An engine with ``workers`` processes, stopped at the end of the block.

    Args:
        name: ``local`` or ``ray``.
        workers: processes.
        models: each worker keeps a model: on Ray an actor, with a GPU (or its part of one) where the cluster has any. Otherwise Ray gets tasks, which start sooner.

    Raises:
        AssayError: there is no such engine.
        MissingExtra: Ray is not installed.
    """
    if workers < 1:
        raise AssayError(f"workers: expected at least 1, found {workers}")
    if name == "ray":
        with _ray(workers, models) as engine:
            yield engine
    elif name != "local":
        raise AssayError(f"unknown engine `{name}`. Known: local, ray")
    elif workers == 1:
        yield HERE
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as processes:
            yield _Processes(processes)


class _Here:
    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any], tick: Tick | None = None) -> list[Any]:
        return _ticked(map(function, tasks), len(tasks), tick)


HERE: Engine = _Here()
"""This process."""


class _Processes:
    def __init__(self, processes: ProcessPoolExecutor) -> None:
        self.processes = processes

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any], tick: Tick | None = None) -> list[Any]:
        if len(tasks) == 1:
            return HERE.map(function, tasks, tick)
        try:
            return _ticked(self.processes.map(function, tasks), len(tasks), tick)
        except BrokenProcessPool:
            raise AssayError(
                "a worker process ended by itself, most likely for want of memory: run the same again with fewer workers, it goes on from here. "
                "(A script of your own that asks for workers must do so under `if __name__ == \"__main__\":`.)"
            ) from None


def _ticked(results: Iterator[Any], total: int, tick: Tick | None) -> list[Any]:
    done = []
    for result in results:
        done.append(result)
        if tick:
            tick(len(done), total)
    return done


@contextmanager
def _ray(workers: int, models: bool) -> Iterator[Engine]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtra("the engine `ray`", "ray") from None
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of every actor on the terminal; what fails is raised
        ray.init(num_cpus=workers, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        yield _Ray(ray.data, workers, min(1.0, gpus / workers) if models else None)
    finally:
        if ours:
            ray.shutdown()


class _Ray:
    """Ray Data over the tasks: a row is a task's number, and results come back in the order of the numbers."""

    def __init__(self, data: Any, workers: int, gpus: float | None) -> None:
        """``gpus``: of each actor; None for tasks."""
        self.data, self.workers, self.gpus = data, workers, gpus

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any], tick: Tick | None = None) -> list[Any]:
        if not tasks:
            return []
        rows = self.data.from_items([{"number": i, "task": task} for i, task in enumerate(tasks)], override_num_blocks=min(len(tasks), self.workers * 4))
        if self.gpus is None:
            answered = rows.map(_Numbered(function), num_cpus=1)
        else:
            answered = rows.map(_Numbered, fn_constructor_args=(function,), compute=self.data.ActorPoolStrategy(size=min(self.workers, len(tasks))), num_cpus=1, num_gpus=self.gpus)
        done = sorted(_ticked(answered.iter_rows(), len(tasks), tick), key=lambda row: int(row["number"]))
        for row in done:
            _raise(list(row["error"]))
        return [row["result"] for row in done]


def _raise(said: list[str]) -> None:
    """Raise the error of ours that a task answered with, if it did; only after all tasks, since Ray Data's threads outlive an abandoned iteration and start a new Ray."""
    if said:
        raise MissingExtra(*said) if len(said) == 2 else AssayError(*said)


class _Numbered:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Errors of ours travel as values: Ray would wrap them beyond recognition."""
        try:
            return {"number": row["number"], "result": self.function(row["task"]), "error": []}
        except MissingExtra as error:
            return {"number": row["number"], "result": None, "error": list(error.said)}
        except AssayError as error:
            return {"number": row["number"], "result": None, "error": [str(error)]}
