"""Scores that a causal language model gives without having been trained as a reward model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.errors import AssayError
from assay.files import fingerprint
from assay.model.backbones import locate
from assay.pairs.schema import Message
from assay.score.likelihood import CausalModel
from assay.score.scorer import Scores

MOST_TOKENS = 4_096
"""Tokens of a conversation that are read, if the model can read so many."""


class Perplexity:
    """``perplexity:MODEL``: minus the mean negative log likelihood of the answer's tokens given the prompt, in nats; the likelier, the higher."""

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str, precision: str = "auto") -> None:
        self.spec = spec
        self.model = CausalModel(spec.partition(":")[2], precision)
        self.precision = self.model.precision

    @property
    def fingerprint(self) -> str | None:
        """Names the model's files and the precision; None if they are not in a folder of this machine."""
        return _named(self.spec, [self.spec.partition(":")[2]], self.precision)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Shape [n, 1]; an answer without a token has no score."""
        losses, lengths, cut = self.model.answers(conversations, min(MOST_TOKENS, self.model.context))
        return _scores([-loss for loss in losses], lengths, cut)


class Implicit:
    """``implicit:POLICY,REFERENCE``: the log ratio of the answer under a policy trained by DPO and under its reference, in nats.

    Rafailov et al. 2023 (arXiv 2305.18290), equation 5 without its factor beta, which changes no ranking.
    """

    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, spec: str, precision: str = "auto") -> None:
        names = spec.partition(":")[2].split(",")
        if len(names) != 2 or not all(names):
            raise AssayError(f"{spec}: expected implicit:POLICY,REFERENCE, two causal language models")
        self.spec, self.names = spec, [name.strip() for name in names]
        self.policy, self.reference = (CausalModel(name, precision) for name in self.names)
        self.precision = self.policy.precision

    @property
    def fingerprint(self) -> str | None:
        """Names the files of both models and the precision; None if they are not in folders of this machine."""
        return _named(self.spec, self.names, self.precision)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Shape [n, 1]; an answer without a token has no score."""
        most = min(MOST_TOKENS, self.policy.context, self.reference.context)
        (policy, lengths, cut), (reference, others, also_cut) = (model.answers(conversations, most) for model in (self.policy, self.reference))
        ratios = [b * m - a * n for a, b, n, m in zip(policy, reference, lengths, others, strict=True)]
        return _scores(ratios, lengths, [a or b for a, b in zip(cut, also_cut, strict=True)])


def _scores(values: list[float], lengths: list[int], cut: list[bool]) -> Scores:
    reasons = {i: "the answer is empty" for i, n in enumerate(lengths) if n == 0}
    return Scores(np.array(values, dtype=np.float32).reshape(-1, 1), np.array(cut, dtype=bool), reasons)


def _named(spec: str, models: Sequence[str], precision: str) -> str | None:
    """A name for the precision and the files of models: these by size and time, since to read them all would cost more than most suites."""
    folders = [Path(locate(model)) for model in models]
    if not all(folder.is_dir() for folder in folders):
        return None
    return fingerprint(spec, [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for folder in folders for f in sorted(folder.iterdir()) if f.is_file()], precision)
