"""The Scorer protocol, and ``load_scorer``, which makes one from a spec.

A spec is what the command line, a recipe and Python call a scorer: a checkpoint folder, a hub id of a checkpoint with a contract,
or ``rule:length``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def load_scorer(spec: str | Path, *, precision: str = "auto", tokens_per_batch: int = 4_096, tick: Tick | None = None) -> Scorer:
    """The scorer that ``spec`` names.

    Args:
        spec: a checkpoint folder, a hub id, or ``rule:length``.
        precision: ``fp32``, ``bf16``, or ``auto`` (bf16 where the processor multiplies it fast).
        tokens_per_batch: tokens that go through the model at once, padding included.
        tick: called with (conversations scored, conversations in all) as scoring goes on.

    Raises:
        AssayError: nothing is there, or the checkpoint breaks its contract.
    """
    name = str(spec)
    if name.startswith("rule:"):
        from assay.score.rules import Length

        if name != "rule:length":
            raise AssayError(f"unknown rule `{name}`.{did_you_mean(name, RULES)} Known: {', '.join(RULES)}")
        return Length()
    if precision not in ("auto", "fp32", "bf16"):
        raise AssayError(f"precision is `{precision}`, expected auto, fp32 or bf16")
    try:
        from assay.score.checkpoint import CheckpointScorer
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("torch", "transformers"):
            raise MissingExtra("scoring with a checkpoint", "train") from None
        raise
    return CheckpointScorer(name, precision, tokens_per_batch, tick)
