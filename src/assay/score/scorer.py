"""The Scorer protocol, and ``load_scorer``, which makes one from a spec.

A spec is what the command line, a recipe and Python call a scorer:

- a checkpoint folder, or the hub id of a checkpoint with a contract;
- ``openvino:FOLDER``: an ONNX export, run by OpenVINO (extra ``openvino``);
- ``rule:length``: characters of the answer;
- ``perplexity:MODEL``: how likely a causal language model finds the answer;
- ``implicit:POLICY,REFERENCE``: the reward a model trained by DPO stands for;
- ``judge:MODEL@URL``: a language model that grades; ``judge-pairs:MODEL@URL``: one that compares, in both orders (for evaluation only);
- ``assay:URL``, ``vllm:URL``, ``openrlhf:URL#CHECKPOINT``: a model behind a server;
- ``mean(A,B)``, ``min(A,B)``, ``mean-0.5(A,B)`` (the mean less half the standard deviation), ``weighted(0.7*A,0.3*B)``: of any of these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError, MissingExtra, did_you_mean
from assay.pairs.schema import Message

Tick = Callable[[int, int], None]
RULES = ("rule:length",)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of n conversations."""

    values: NDArray[np.float32]
    """Shape [n, 1]: the reward; or [n, 1 + k], the reward and the attributes it is made of."""
    truncated: NDArray[np.bool_]
    """Shape [n]: the conversation was longer than the scorer reads."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why a conversation has no score (its values are NaN), by its number."""
    unanswered: frozenset[int] = frozenset()
    """Those of them for which nobody answered (no connection, 429, 5xx): to ask again later may help."""

    @property
    def outputs(self) -> NDArray[np.float32]:
        """Shape [n, k]: the attributes, or the reward if it is the only one."""
        return self.values[:, 1:] if self.values.shape[1] > 1 else self.values


class Scorer(Protocol):
    """Anything that gives an answer a number."""

    spec: str
    attributes: tuple[str, ...]

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Score whole conversations, each ending with the answer; in the order given, whatever the batching."""
        ...


def check_precision(precision: str) -> None:
    """Check that there is such a precision.

    Raises:
        AssayError: there is not.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise AssayError(f"precision is `{precision}`, expected auto, fp32 or bf16")


def load_scorer(spec: str | Path, *, precision: str = "auto", tokens_per_batch: int = 4_096, allow_drift: float | None = None, tick: Tick | None = None) -> Scorer:
    """The scorer that ``spec`` names.

    Args:
        spec: see the docstring of ``assay.score.scorer``.
        precision: ``fp32``, ``bf16``, or ``auto`` (bf16 where the processor multiplies it fast), for models that are computed here.
        tokens_per_batch: tokens that go through the model at once, padding included.
        allow_drift: how far a checkpoint's canaries may be from their golden scores, also behind a server of which the checkpoint is named; within it a warning names the cause, otherwise it is refused.
        tick: called with (conversations scored, conversations in all) as scoring goes on.

    Raises:
        AssayError: nothing is there, or the checkpoint breaks its contract.
    """
    name = str(spec)
    check_precision(precision)
    if name.startswith("rule:"):
        from assay.score.rules import Length

        if name != "rule:length":
            raise AssayError(f"unknown rule `{name}`.{did_you_mean(name, RULES)} Known: {', '.join(RULES)}")
        return Length()
    if name.startswith(("judge:", "judge-pairs:")):
        from assay.score.judge import Judge, PairJudge

        return (Judge if name.startswith("judge:") else PairJudge)(name, tick)
    if name.startswith(("assay:", "vllm:", "openrlhf:")):
        from assay.score.http import Remote

        return Remote(name, tick, allow_drift)
    if name.startswith(("mean(", "mean-", "min(", "weighted(")) and name.endswith(")"):
        from assay.score.ensembles import Ensemble

        return Ensemble(name, lambda member: load_scorer(member, precision=precision, tokens_per_batch=tokens_per_batch, allow_drift=allow_drift, tick=tick))
    try:
        if name.startswith(("perplexity:", "implicit:")):
            from assay.score.causal import Implicit, Perplexity

            return (Perplexity if name.startswith("perplexity:") else Implicit)(name, precision)
        from assay.score.checkpoint import CheckpointScorer
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("torch", "transformers"):
            raise MissingExtra("scoring with a model", "train") from None
        raise
    return CheckpointScorer(name, precision, tokens_per_batch, tick, allow_drift)
