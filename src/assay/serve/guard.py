"""What stands before every request: the key, the size of its body, the time it may take to arrive, and whether it is JSON at all.

A body is read whole before anything looks at it, within limits of bytes and seconds; what is too large, too slow, no UTF-8, no JSON, or nested too deep gets one clear answer. When a client goes away its request is cancelled, so that nobody computes for it.
"""

import asyncio
import base64
import hmac
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

GONE = 499
"""What proxies call a client that went away."""
OPEN = ("/", "/health", "/healthz", "/readyz", "/docs", "/openapi.json")
"""What needs no key: it holds no data."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
log = logging.getLogger("assay.serve")


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, reason: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


class Guard:
    """ASGI middleware around the app."""

    def __init__(self, app: App, *, key: str | None, most_bytes: int, seconds: float, most_under_way: int, seen: Callable[[str, str, int, float], None]) -> None:
        self.app, self.key, self.most_bytes, self.seconds, self.most_under_way, self.seen = app, key, most_bytes, seconds, most_under_way, seen
        self.under_way = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), GONE

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.under_way += 1
        try:
            self._check_key(scope)
            if self.under_way > self.most_under_way and scope["path"] not in OPEN:
                raise Refused(429, "too many requests at once; try again in 1 s", ((b"retry-after", b"1"),))
            body = await self._body(scope, receive)
            await self._through(scope, body, receive, sending)
        except Refused as refusal:
            await _answer(sending, refusal)
        except asyncio.CancelledError:  # the server ends, and its grace is over
            if status == GONE:
                await _answer(sending, Refused(503, "the server ended before it could answer; try again in 5 s", ((b"retry-after", b"5"),)))
        finally:
            self.under_way -= 1
            self._log(scope, status, time.perf_counter() - start)

    def _check_key(self, scope: MutableMapping[str, Any]) -> None:
        if self.key is None or scope["path"] in OPEN:
            return
        if not hmac.compare_digest(_given_key(dict(scope["headers"])), self.key.encode("utf-8")):
            raise Refused(401, "the API key is missing or wrong; send it as `Authorization: Bearer KEY`", ((b"www-authenticate", b"Bearer"),))

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            raise Refused(413, f"the body has {int(length):,} bytes, allowed are {self.most_bytes:,}; send fewer conversations at once")
        try:
            body = await asyncio.wait_for(self._read(receive), self.seconds)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.seconds:g} s") from None
        if body:
            _check_json(body)
        return body

    async def _read(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the client went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.most_bytes:
                raise Refused(413, f"the body has more than the {self.most_bytes:,} bytes allowed; send fewer conversations at once")
            if not message.get("more_body"):
                return b"".join(parts)

    async def _through(self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        answering = asyncio.ensure_future(self.app(scope, replay, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            leaving.cancel()
        await asyncio.wait({answering})
        if not answering.cancelled():
            answering.exception()  # it has been answered with 500 and logged

    def _log(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        path, method = scope["path"], scope["method"]
        self.seen(method, path, status, seconds)
        client = scope.get("client")
        log.info(json.dumps({"method": method, "path": path, "status": status, "ms": round(1000 * seconds, 1), "client": client[0] if client else None}))


async def _left(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_json(body: bytes) -> None:
    try:
        value = json.loads(body.decode("utf-8"))
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(400, "a text contains a lone surrogate, which is no character") from None
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deep") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON ({error})") from None


def _given_key(headers: dict[bytes, bytes]) -> bytes:
    """The key of a request: a bearer's, or the password in the URL of a client that has no field for a key, ``http://any:KEY@host``."""
    kind, _, given = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"basic":
        return given
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except ValueError:
        return b""


async def _answer(send: Send, refusal: Refused) -> None:
    body = json.dumps({"error": {"message": str(refusal), "code": refusal.status}}).encode("utf-8")
    await send({"type": "http.response.start", "status": refusal.status, "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *refusal.headers]})
    await send({"type": "http.response.body", "body": body})
