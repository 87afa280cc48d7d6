"""The verb ``serve``: load the checkpoints, check their contracts, and listen."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from assay.errors import AssayError
from assay.score.checkpoint import CheckpointScorer
from assay.serve.app import Limits, create_app

HEAD_SECONDS = 10.0
"""Seconds until a connection must have sent the head of a request."""
GRACE_SECONDS = 60
"""Seconds that requests under way have to finish after SIGTERM."""


class Impatient(H11Protocol):
    """Closes connections that send the head of their request too slowly."""

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _too_late(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._late.cancel()
        super().connection_lost(exc)


def load_models(specs: Sequence[str], precision: str) -> dict[str, CheckpointScorer]:
    """Checkpoints by the names they are served under: ``NAME=SPEC``, or the name of the folder.

    Raises:
        AssayError: none is given, two have the same name, or one breaks its contract.
    """
    if not specs:
        raise AssayError("nothing to serve: give one or more checkpoints")
    scorers: dict[str, CheckpointScorer] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals or Path(spec).exists():
            path = spec
            folder = Path(spec.rstrip("/"))
            name = folder.parent.name if folder.name == "checkpoint" and folder.parent.name else folder.name
        if name in scorers:
            raise AssayError(f"two models would be served as `{name}`; give them names, NAME={path}")
        scorers[name] = CheckpointScorer(path, precision)
    return scorers


def serve(specs: Sequence[str], *, host: str, port: int, key: str | None, precision: str, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("assay.serve").setLevel(logging.INFO)
    app = create_app(load_models(specs, precision), key=key, limits=limits)
    config = uvicorn.Config(app, host=host, port=port, http=Impatient, ws="none", access_log=False, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, limit_concurrency=2_000)
    uvicorn.Server(config).run()
