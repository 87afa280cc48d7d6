"""Scorers that are rules: what any reward model must beat."""

from collections.abc import Sequence

import numpy as np

from assay.pairs.schema import Message, answer_text
from assay.score.scorer import Scores


class Length:
    """The length of the last answer in characters: the commonest thing a reward model leans on."""

    spec = "rule:length"
    attributes: tuple[str, ...] = ("reward",)

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Characters of the last message, as [n, 1]."""
        lengths = [len(answer_text(c[-1:])) for c in conversations]
        return Scores(np.array(lengths, dtype=np.float32).reshape(-1, 1), np.zeros(len(lengths), dtype=bool))
