"""Scorers behind a URL, in the wire formats of reward servers.

``assay:URL``: a server of ours, attributes and truncation included. ``vllm:URL``: any server with vLLM's ``/classify`` that takes messages. ``openrlhf:URL#CHECKPOINT``: a server with ``/get_reward``, which takes whole texts;
the chat template is that of the checkpoint. Behind ``#`` stands, for the first two, the model's name there. The key is read from ``ASSAY_API_KEY``.

Several requests are under way at once; what comes back keeps the order. Answers of 429 and 5xx and broken connections are tried again, after the time the server asks for; a request that
fails for good leaves its conversations without a score, each with the reason.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from assay.errors import AssayError, MissingExtra
from assay.files import first_line
from assay.pairs.schema import Message
from assay.score.scorer import Scores, Tick

KINDS = ("assay:", "vllm:", "openrlhf:")
AT_ONCE = 8
"""Requests under way at the same time."""
TOGETHER = 32
"""Conversations in a request, where the format takes several."""
TRIES = 6
LONGEST_WAIT = 30.0
"""Seconds to wait at most before the next try."""
TIMEOUT = 300.0


class Failed(Exception):
    """A request that failed for good."""


class Remote:
    """A scorer behind a URL."""

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str, tick: Tick | None = None) -> None:
        kind, _, rest = spec.partition(":")
        url, _, self.name = rest.partition("#")
        if not url.startswith(("http://", "https://")):
            raise AssayError(f"{spec}: expected {kind}:URL, for example {kind}:http://localhost:8000")
        try:
            import httpx2
        except ImportError:
            raise MissingExtra("a scorer behind a URL", "client") from None
        key = os.environ.get("ASSAY_API_KEY")
        self.errors: tuple[type[Exception], ...] = (httpx2.HTTPError,)
        self.client = httpx2.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, headers={"Authorization": f"Bearer {key}"} if key else {}, limits=httpx2.Limits(max_connections=AT_ONCE))
        self.spec, self.tick = spec, tick
        ask: dict[str, tuple[Callable[[list[Any]], list[Any]], int]] = {"assay": (self._assay, TOGETHER), "vllm": (self._vllm, 1), "openrlhf": (self._openrlhf, TOGETHER)}
        self.ask, self.together = ask[kind]
        if kind == "assay":
            self._introduce()
        if kind == "openrlhf":
            self.render = _template_of(spec, self.name)

    @property
    def fingerprint(self) -> str | None:
        """The server's own name for its contract, if it says one; scores of other servers are not kept."""
        return getattr(self, "_fingerprint", None)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Shape [n, 1], or [n, 1 + k] of a server of ours with k attributes; NaN with the reason where there is no score."""
        parts = [[[dict(m) for m in c] for c in conversations[i : i + self.together]] for i in range(0, len(conversations), self.together)]
        values = np.full((len(conversations), len(self.attributes)), np.nan, dtype=np.float32)
        truncated, reasons, done = np.zeros(len(conversations), dtype=bool), {}, 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for part, found in zip(parts, pool.map(self._tried, parts), strict=True):
                here = range(done, done + len(part))
                if isinstance(found, Failed):
                    reasons.update(dict.fromkeys(here, str(found)))
                else:
                    values[here.start : here.stop] = [row for row, _ in found]
                    truncated[here.start : here.stop] = [cut for _, cut in found]
                done += len(part)
                if self.tick:
                    self.tick(done, len(conversations))
        return Scores(values, truncated, reasons)

    def _tried(self, part: list[Any]) -> Any:
        try:
            return self.ask(part)
        except Failed as failure:
            return failure

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request, after as many tries as it takes.

        Raises:
            Failed: it is refused, or all tries failed.
        """
        for attempt in range(TRIES):
            wait = min(LONGEST_WAIT, 0.2 * 2**attempt) * (0.5 + random.random())
            try:
                response = self.client.post(path, json=body)
            except self.errors as error:
                reason = first_line(error)
            else:
                if response.status_code == 200:
                    return _json(response)
                reason = f"status {response.status_code}: {response.text[:200]}"
                if response.status_code != 429 and response.status_code < 500:
                    break
                after = response.headers.get("retry-after", "")
                wait = min(LONGEST_WAIT, float(after)) if after.isdigit() else wait
            if attempt + 1 < TRIES:
                time.sleep(wait)
        raise Failed(f"{self.client.base_url}{path.lstrip('/')}: {reason}")

    def _introduce(self) -> None:
        """Ask a server of ours for the attributes and the fingerprint of the model."""
        wrong: tuple[type[Exception], ...] = (*self.errors, Failed, KeyError, TypeError)
        try:
            response = self.client.get("/v1/models")
            models = {model["id"]: model for model in _json(response)["data"]}
        except wrong as error:
            raise AssayError(f"{self.spec}: no server of Assay answers there ({first_line(error)})") from None
        if self.name and self.name not in models:
            raise AssayError(f"{self.spec}: the server has no model `{self.name}`, only {', '.join(models)}")
        model = models[self.name] if self.name else next(iter(models.values()))
        self._fingerprint = f"{model['fingerprint']}"
        self.attributes = ("reward", *model["attributes"][1:]) if len(model["attributes"]) > 1 else ("reward",)

    def _assay(self, part: list[Any]) -> list[Any]:
        found = self._post("/v1/rewards", {"conversations": part, **({"model": self.name} if self.name else {})})
        return _rows(lambda: [([one["reward"], *(one["attributes"][a] for a in self.attributes[1:])], one["truncated"]) for one in found["scores"]], len(part))

    def _vllm(self, part: list[Any]) -> list[Any]:
        found = self._post("/classify", {"messages": part[0], "use_activation": False, **({"model": self.name} if self.name else {})})
        return _rows(lambda: [([one["probs"][-1]], False) for one in found["data"]], len(part))

    def _openrlhf(self, part: list[Any]) -> list[Any]:
        found = self._post("/get_reward", {"query": [self.render(c) for c in part]})
        return _rows(lambda: [([float(reward)], False) for reward in found["rewards"]], len(part))


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Failed(f"the answer is not JSON: {response.text[:200]!r}") from None


def _rows(read: Callable[[], list[Any]], expected: int) -> list[Any]:
    try:
        rows = read()
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise Failed(f"the answer has another shape than expected ({type(error).__name__}: {error})") from None
    if len(rows) != expected:
        raise Failed(f"{len(rows)} scores for {expected} conversations")
    return rows


def _template_of(spec: str, folder: str) -> Callable[[Any], str]:
    if not folder:
        raise AssayError(f"{spec}: this format takes whole texts, so it needs a chat template: openrlhf:URL#CHECKPOINT")
    from transformers import AutoTokenizer

    from assay.model.template import render

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise AssayError(f"{spec}: the tokenizer of {folder} cannot be loaded ({first_line(error)})") from None
    return lambda conversation: render(tokenizer, conversation)
