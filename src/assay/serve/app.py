"""The app: dialects, health, metrics, and the errors they share."""

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from assay import __version__
from assay.serve import page
from assay.serve.dialects import own, trainers, vllm
from assay.serve.guard import Guard, log
from assay.serve.models import Models, Served, Unfit, checkpoints_of
from assay.serve.queue import Busy, TooMuch

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
TOKENS = (64, 256, 1_024, 2_048, 4_096, 8_192, 16_384)
REPEATED = 2
"""Characters that are scored, for each byte a body may have: by repeating its prompt a small body may cost about what the largest one does, and not a thousand times that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost."""

    body_bytes: int = 8 << 20
    body_seconds: float = 30.0
    """Seconds a body may take to arrive."""
    items: int = 1_024
    """Conversations in a request."""
    request_seconds: float = 300.0
    """Seconds until a request is given up."""
    batch_tokens: int = 2_048
    """Tokens scored at once: on a CPU more are slower, since they leave its cache, and later requests wait longer. ``serve`` takes more on a GPU."""
    waiting_tokens: int = 262_144
    """Tokens that may wait; beyond it, or where they would take half of ``request_seconds`` or make a request take longer than that, it is told to come back."""
    under_way: int = 2_000
    """Requests at once; beyond it they are told to come back."""


class Failure(BaseModel):
    """What went wrong, for a person."""

    message: str
    code: int


class Failed(BaseModel):
    """The form of all errors."""

    error: Failure


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failed, "description": why}
    for status, why in {
        400: "What is asked for can't be: no JSON, nothing to score, roles the template refuses.", 401: "The API key is missing or wrong.", 404: "No such model.",
        408: "The body arrived too slowly.", 413: "The body or the text in it is too large, or takes longer than a request may.", 422: "A field is missing or of the wrong type.", 429: "Too much is waiting; come back after Retry-After.",
        503: "No answer in time.",
    }.items()
}  # fmt: skip


class Metrics:
    """What is counted, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("assay_requests", "Requests answered.", ["method", "path", "status"], registry=self.registry)
        self.seconds = Histogram("assay_request_seconds", "From the first byte of a request to the last of its answer.", ["path"], buckets=SECONDS, registry=self.registry)
        self.items = Counter("assay_items", "Conversations scored.", registry=self.registry)
        self.tokens = Counter("assay_tokens", "Tokens scored.", registry=self.registry)
        self.batch = Histogram("assay_batch_tokens", "Tokens in a batch.", buckets=TOKENS, registry=self.registry)
        self.waiting = Gauge("assay_waiting_tokens", "Tokens that wait.", registry=self.registry)

    def scored(self, items: int, tokens: int, seconds: float) -> None:
        """A batch is done."""
        self.items.inc(items)
        self.tokens.inc(tokens)
        self.batch.observe(tokens)


def create_app(scorers: dict[str, Served], *, key: str | None = None, limits: Limits | None = None) -> Any:
    """The ASGI app that serves ``scorers`` by their names, the first one by default.

    Args:
        scorers: loaded checkpoints, whose contracts have been checked, or ensembles of such.
        key: what requests must send as ``Authorization: Bearer KEY``; None to ask for nothing.
        limits: what a request may cost.
    """
    limits, metrics = limits or Limits(), Metrics()
    models = Models(scorers, batch_tokens=limits.batch_tokens, waiting_tokens=limits.waiting_tokens, request_seconds=limits.request_seconds, most_items=limits.items, most_characters=REPEATED * limits.body_bytes, observe=metrics.scored)
    metrics.waiting.set_function(lambda: float(sum(queue.tokens for queue in models.queues.values())))

    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(queue.run()) for queue in models.queues.values()]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(title="Assay", version=__version__, description="Rewards of conversations, in the wire formats of the field.", lifespan=running)
    for dialect in (own, vllm, trainers):
        app.include_router(dialect.router(models), responses=ERRORS)
    app.include_router(page.router())
    _errors(app, limits)
    _health(app, models, metrics)
    paths = {*app.openapi()["paths"], "/docs", "/openapi.json"}

    def seen(method: str, path: str, status: int, seconds: float) -> None:
        known = path if path in paths else "other"
        metrics.requests.labels(method if method in ("GET", "POST", "HEAD", "OPTIONS") else "other", known, str(status)).inc()
        metrics.seconds.labels(known).observe(seconds)

    return Guard(app, key=key, most_bytes=limits.body_bytes, seconds=limits.body_seconds, most_under_way=limits.under_way, seen=seen)


def _errors(app: FastAPI, limits: Limits) -> None:
    """One form for all errors, and a limit to how long a request takes."""

    def answer(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"message": reason, "code": status}}, status, headers)

    @app.exception_handler(Unfit)
    async def unfit(_: Request, error: Unfit) -> Response:
        return answer(error.status, str(error))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> Response:
        return answer(429, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(TooMuch)
    async def too_much(_: Request, error: TooMuch) -> Response:
        return answer(413, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(422, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error(json.dumps({"path": request.url.path, "error": "".join(traceback.format_exception(error))}))
        return answer(500, "the server failed on this request; its log says why")

    @app.middleware("http")
    async def limited(request: Request, call_next: Any) -> Response:
        try:
            response: Response = await asyncio.wait_for(call_next(request), limits.request_seconds)
        except TimeoutError:
            response = answer(503, f"no answer within {limits.request_seconds:g} s", {"Retry-After": "5"})
        return response


def _health(app: FastAPI, models: Models, metrics: Metrics) -> None:
    @app.get("/health", tags=["health"])
    @app.get("/healthz", tags=["health"])
    async def healthz() -> PlainTextResponse:
        """The process answers; vLLM and SGLang call it ``/health``."""
        return PlainTextResponse("ok")

    @app.get("/readyz", tags=["health"])
    async def readyz() -> PlainTextResponse:
        """The models are loaded, and not too much is waiting."""
        full = any(queue.tokens >= queue.waiting_tokens for queue in models.queues.values())
        return PlainTextResponse("busy" if full else "ok", 503 if full else 200)

    @app.get("/metrics", tags=["health"])
    async def metrics_() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", tags=["health"])
    async def list_models() -> dict[str, Any]:
        """The served models and their contracts."""
        data = [{"id": name, "object": "model", "owned_by": "assay", "attributes": list(s.attributes), "max_length": min(c.contract.max_length for c in checkpoints_of(s)), "fingerprint": s.fingerprint} for name, s in models.scorers.items()]
        return {"object": "list", "data": data}
