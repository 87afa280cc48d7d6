"""Scorers behind a URL, in the wire formats of reward servers.

``assay:URL``: a server of ours, attributes and truncation included. ``vllm:URL``: any server with vLLM's ``/classify`` that takes messages. ``openrlhf:URL#CHECKPOINT``: a server with ``/get_reward``, which takes whole texts;
the chat template is that of the checkpoint, and the server must give its canaries the scores of its contract. Behind ``#`` stands, for the first two, the model's name there; vLLM calls a model by its path, and where that is a checkpoint here too, its canaries
are checked as well. The key is read from ``ASSAY_API_KEY``.

Several requests are under way at once; what comes back keeps the order. Answers of 429 and 5xx and broken connections are tried again, after the time the server asks for; a request that
fails for good leaves its conversations without a score, each with the reason.
"""

import math
import os
import random
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.errors import AssayError, MissingExtra
from assay.files import first_line
from assay.pairs.schema import Message
from assay.score.scorer import Scores, Tick

if TYPE_CHECKING:
    from assay.model.contract import Contract

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
    """A request that failed for good, with its status if there was an answer, and whether to ask again later may help."""

    def __init__(self, reason: str, status: int = 0, *, unanswered: bool = False) -> None:
        super().__init__(reason)
        self.status, self.unanswered = status, unanswered


class Remote:
    """A scorer behind a URL."""

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str, tick: Tick | None = None, allow_drift: float | None = None) -> None:
        kind, _, rest = spec.partition(":")
        url, _, self.name = rest.partition("#")
        if not url.startswith(("http://", "https://")):
            raise AssayError(f"{spec}: expected {kind}:URL, for example {kind}:http://localhost:8000")
        try:
            import httpx2
        except ImportError:
            raise MissingExtra("a scorer behind a URL", "client") from None
        self.url = url.rstrip("/")
        self.errors: tuple[type[Exception], ...] = (httpx2.HTTPError,)
        try:
            httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise AssayError(f"{spec}: not a URL ({first_line(error)})") from None
        self.spec, self.tick = spec, None
        ask: dict[str, tuple[Callable[[Any, list[Any]], list[Any]], int]] = {"assay": (self._assay, TOGETHER), "vllm": (self._vllm, 1), "openrlhf": (self._openrlhf, TOGETHER)}
        self.ask, self.together = ask[kind]
        if kind == "assay":
            self._introduce()
        if kind == "openrlhf":
            self.render = _template_of(spec, self.name)
        is_checkpoint = kind == "openrlhf" or (kind == "vllm" and self.name and Path(self.name).is_dir())
        if is_checkpoint and (contract := _contract_of(self.name)):
            self._check(contract, allow_drift)
        self.tick = tick

    @property
    def fingerprint(self) -> str | None:
        """The server's own name for its contract, if it says one; scores of other servers are not kept."""
        return getattr(self, "_fingerprint", None)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Shape [n, 1], or [n, 1 + k] of a server of ours with k attributes; NaN with the reason where there is no score."""
        parts = [[[dict(m) for m in c] for c in conversations[i : i + self.together]] for i in range(0, len(conversations), self.together)]
        values = np.full((len(conversations), len(self.attributes)), np.nan, dtype=np.float32)
        truncated, reasons, unanswered, done = np.zeros(len(conversations), dtype=bool), {}, set(), 0
        with _client() as client, ThreadPoolExecutor(AT_ONCE) as pool:
            for part, found in zip(parts, pool.map(partial(self._tried, client), parts), strict=True):
                for i, one in enumerate(found, done):
                    if isinstance(one, Failed):
                        reasons[i] = str(one)
                        if one.unanswered:
                            unanswered.add(i)
                    else:
                        values[i], truncated[i] = one
                done += len(part)
                if self.tick:
                    self.tick(done, len(conversations))
        return Scores(values, truncated, reasons, frozenset(unanswered))

    def _tried(self, client: Any, part: list[Any]) -> list[Any]:
        """For each conversation its scores and whether it was cut, or why there is none. What is refused as a whole is asked for in halves: one bad conversation shall not cost the others their scores."""
        try:
            return self.ask(client, part)
        except UnicodeEncodeError:
            failure = Failed("a text contains a lone surrogate, which is no character", 400)
        except Failed as failed:
            failure = failed
        if len(part) > 1 and failure.status in (400, 413, 422):
            return self._tried(client, part[: len(part) // 2]) + self._tried(client, part[len(part) // 2 :])
        return [failure] * len(part)

    def _post(self, client: Any, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request, after as many tries as it takes.

        Raises:
            Failed: it is refused, or all tries failed.
        """
        status = 0
        for attempt in range(TRIES):
            wait = min(LONGEST_WAIT, 0.2 * 2**attempt) * (0.5 + random.random())
            try:
                response = client.post(self.url + path, json=body)
            except self.errors as error:
                reason, status = first_line(error), 0
            else:
                if response.status_code == 200:
                    return _json(response)
                status = response.status_code
                reason = f"status {status}: {response.text[:200]}"
                if not _passes(status):
                    break
                after = response.headers.get("retry-after", "")
                wait = min(LONGEST_WAIT, float(after)) if after.isdigit() else wait
            if attempt + 1 < TRIES:
                time.sleep(wait)
        raise Failed(f"{self.url}{path}: {reason}", status, unanswered=_passes(status))

    def _introduce(self) -> None:
        """Ask a server of ours for the attributes and the fingerprint of the model."""
        wrong: tuple[type[Exception], ...] = (*self.errors, Failed, KeyError, TypeError)
        try:
            with _client() as client:
                response = client.get(f"{self.url}/v1/models")
            if response.status_code != 200:
                raise Failed(f"status {response.status_code}: {response.text[:200]}")
            models = {model["id"]: (model["fingerprint"], model["attributes"]) for model in _json(response)["data"]}
            if not models:
                raise Failed("it serves no model")
        except wrong as error:
            raise AssayError(f"{self.spec}: no server of Assay answers there ({first_line(error)})") from None
        if self.name and self.name not in models:
            raise AssayError(f"{self.spec}: the server has no model `{self.name}`, only {', '.join(models)}")
        self._fingerprint, attributes = models[self.name] if self.name else next(iter(models.values()))
        self.attributes = tuple(attributes)

    def _check(self, contract: "Contract", allow_drift: float | None) -> None:
        """Score the canaries of the checkpoint whose rewards these should be."""
        found = self.score([canary.conversation for canary in contract.canaries])
        if found.reasons:
            raise AssayError(f"{self.spec}: the server gives the canaries of {self.name} no score ({next(iter(found.reasons.values()))})")
        worst = float(np.abs(found.values[:, 0] - [canary.score for canary in contract.canaries]).max())
        if worst <= contract.tolerance:
            return
        said = f"{self.spec}: the server's scores of the canaries of {self.name} differ by up to {worst:.2g} from those of its contract"
        if allow_drift is None or worst > allow_drift:
            raise AssayError(f"{said}. `assay doctor {self.name} --against {self.spec}` names the cause; or allow it with --allow-drift (now {allow_drift or contract.tolerance:g})")
        warnings.warn(said, stacklevel=2)

    def _assay(self, client: Any, part: list[Any]) -> list[Any]:
        found = self._post(client, "/v1/rewards", {"conversations": part, **({"model": self.name} if self.name else {})})
        return _rows(lambda: [([one["reward"], *(one["attributes"][a] for a in self.attributes[1:])], one["truncated"]) for one in found["scores"]], len(part))

    def _vllm(self, client: Any, part: list[Any]) -> list[Any]:
        found = self._post(client, "/classify", {"messages": part[0], "use_activation": False, **({"model": self.name} if self.name else {})})
        return _rows(lambda: [([one["probs"][-1]], False) for one in found["data"]], len(part))

    def _openrlhf(self, client: Any, part: list[Any]) -> list[Any]:
        found = self._post(client, "/get_reward", {"query": [self.render(c) for c in part]})
        return _rows(lambda: [([float(reward)], False) for reward in found["rewards"]], len(part))


def _passes(status: int) -> bool:
    """Whether the same request may succeed later; a status of 0 stands for no answer at all."""
    return status in (0, 429) or status >= 500


@cache
def _trusted() -> Any:
    """The certificates that are trusted, read once: that takes longer than a request."""
    import httpx2

    return httpx2.create_ssl_context()


def _client() -> Any:
    import httpx2

    key = os.environ.get("ASSAY_API_KEY")
    return httpx2.Client(verify=_trusted(), timeout=TIMEOUT, headers={"Authorization": f"Bearer {key}"} if key else {}, limits=httpx2.Limits(max_connections=AT_ONCE))


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Failed(f"the answer is not JSON: {response.text[:200]!r}") from None


def _rows(read: Callable[[], list[Any]], expected: int) -> list[Any]:
    try:
        rows = [([float(value) for value in row], cut) for row, cut in read()]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise Failed(f"the answer has another shape than expected ({type(error).__name__}: {error})") from None
    if len(rows) != expected:
        raise Failed(f"{len(rows)} scores for {expected} conversations")
    if not all(math.isfinite(value) for row, _ in rows for value in row):
        raise Failed("a score is not a finite number")
    return rows


def _contract_of(checkpoint: str) -> "Contract | None":
    """The contract of a folder or a hub id; None where there is none, as with a tokenizer alone."""
    from transformers.utils import cached_file

    from assay.model import contract

    file = cached_file(checkpoint, contract.FILE, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    return contract.read(Path(file).parent) if file else None


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
