"""Fixtures: the real server with its checkpoints, a factory for servers with other limits, and scorers to compare with."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import served
from assay.score.checkpoint import CheckpointScorer
from assay.serve.app import create_app


@pytest.fixture(scope="session")
def checkpoints() -> dict[str, Path]:
    """The checkpoints that are served, by their names."""
    return served.checkpoints()


@pytest.fixture(scope="session")
def scorers(checkpoints: dict[str, Path]) -> dict[str, CheckpointScorer]:
    """The same, loaded here."""
    return {name: CheckpointScorer(str(folder), "fp32") for name, folder in checkpoints.items()}


@pytest.fixture(scope="session")
def server() -> served.Server:
    """The real server; don't stop it."""
    return served.shared()


@pytest.fixture(scope="session")
def client(server: served.Server) -> Iterator[httpx2.Client]:
    """A client of it."""
    with httpx2.Client(base_url=server.url, timeout=30) as one:
        yield one


@pytest.fixture
def start_server() -> Iterator[Callable[..., served.Server]]:
    """Starts servers with options of their own, and ends them."""
    with contextlib.ExitStack() as stack:

        def begin(*specs: str, **options: Any) -> served.Server:
            one = served.start(*specs, **options)
            stack.callback(one.stop)
            return one

        yield begin


@pytest.fixture
def app_url(scorers: dict[str, CheckpointScorer]) -> Iterator[Callable[..., str]]:
    """Puts the app with other limits or a key behind a port of this process; gives the URL."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(served.in_thread(create_app({"first": scorers["first"]}, **options)))
