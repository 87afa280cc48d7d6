"""The verb ``serve``: load the checkpoints, check their contracts, and listen."""

import json
import logging
import math
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from assay.errors import AssayError
from assay.model.reward_model import best_device
from assay.score.checkpoint import CheckpointScorer
from assay.score.ensembles import FORM as ENSEMBLE
from assay.score.ensembles import Ensemble
from assay.score.scorer import check_precision
from assay.serve.app import Limits, create_app
from assay.serve.models import Served

HEAD_SECONDS = 10.0
"""Seconds until a connection must have sent the head of a request."""
GPU_BATCH_TOKENS = 16_384
GRACE_SECONDS = 5
"""Seconds that connections have to close after SIGTERM, beyond those that the last request has to arrive and to be answered."""


class Impatient(H11Protocol):
    """Closes connections that send the head of their request too slowly."""

    _late: Any = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stop it where a head is complete, start it where one has begun."""
        super().data_received(data)
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not begun:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class JsonLines(logging.Formatter):
    """A log line as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Ours are JSON already."""
        said = record.getMessage()
        if record.name == "assay.serve":
            return said
        trace = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps({"level": record.levelname.lower(), "logger": record.name, "message": said, **trace})


def load_models(specs: Sequence[str], precision: str, allow_drift: float | None = None) -> dict[str, Served]:
    """Checkpoints, or ensembles of checkpoints, by the names they are served under: ``NAME=SPEC``, or the name of the folder, or the rule of the ensemble. Each checkpoint is loaded once.

    Raises:
        AssayError: none is given, two have the same name, or one breaks its contract.
    """
    if not specs:
        raise AssayError("nothing to serve: give one or more checkpoints")
    check_precision(precision)
    load = cache(partial(CheckpointScorer, precision=precision, allow_drift=allow_drift))

    def loaded(spec: str) -> Any:
        return Ensemble(spec, loaded) if ENSEMBLE.match(spec) else load(spec)

    scorers: dict[str, Served] = {}
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals or Path(spec).exists():
            path = spec
            folder = Path(spec.partition("(")[0] if ENSEMBLE.match(spec) else spec.rstrip("/"))
            name = folder.parent.name if folder.name == "checkpoint" and folder.parent.name else folder.name
        if name in scorers:
            raise AssayError(f"two models would be served as `{name}`; give them names, NAME={path}")
        scorers[name] = loaded(path)
    return scorers


def serve(specs: Sequence[str], *, host: str, port: int, key: str | None, precision: str, limits: Limits, allow_drift: float | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first. While the models load both end it at once."""
    _check_port(host, port)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("assay.serve").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the first process of a container would ignore it
    if best_device().type != "cpu":
        limits = replace(limits, batch_tokens=GPU_BATCH_TOKENS)
    app = create_app(load_models(specs, precision, allow_drift), key=key, limits=limits)
    config = uvicorn.Config(app, host=host, port=port, http=Impatient, ws="none", access_log=False, log_config=None, log_level="warning", timeout_graceful_shutdown=grace(limits))
    server = uvicorn.Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)  # uvicorn takes them itself only while it runs, and raises them again when it is done
    server.run()


def grace(limits: Limits) -> int:
    """Seconds after SIGTERM within which all that was accepted is answered, if only that it took too long."""
    return math.ceil(limits.body_seconds + limits.request_seconds) + GRACE_SECONDS


def _check_port(host: str, port: int) -> None:
    """Check that one can listen there, before any model is loaded."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AssayError(f"cannot listen on {host}:{port} ({error.strerror or error}); choose another with --host and --port") from None
