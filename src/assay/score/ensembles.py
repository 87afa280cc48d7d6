"""Several scorers as one.

``mean(A,B)`` and ``min(A,B)`` of any number; ``mean-STD(A,B)``, for instance ``mean-0.5(A,B)``: the mean less so many standard deviations among the members, which trusts an answer less
the more they disagree; ``weighted(0.7*A,0.3*B)``. Where every member is a checkpoint whose contract has the mean and the standard deviation of its rewards, each is brought to mean 0 and standard
deviation 1 first, so that none counts more for the scale of its numbers; otherwise they are taken as they are.

Beside the reward stand the attributes ``mean``, of the members, and ``spread``, their standard deviation: how unsure the reward is.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError
from assay.files import fingerprint
from assay.pairs.schema import Message
from assay.score.scorer import Scorer, Scores

FORM = re.compile(r"(mean|min|weighted|mean-(?P<less>\d+(?:\.\d+)?))\((?P<members>.*)\)$", re.DOTALL)


class Ensemble:
    """A rule over the rewards of its members."""

    attributes: tuple[str, ...] = ("reward", "mean", "spread")

    def __init__(self, spec: str, load: Callable[[str], Scorer]) -> None:
        form = FORM.match(spec)
        parts = members_of(form["members"]) if form else []
        if form is None or not parts:
            raise AssayError(f"{spec}: expected mean(A,B), min(A,B), mean-0.5(A,B) or weighted(0.7*A,0.3*B) with scorers in the brackets")
        self.spec, self.rule, self.less = spec, form[1], float(form["less"] or 0)
        self.weights = [_weight(spec, part) for part in parts] if self.rule == "weighted" else [1 / len(parts)] * len(parts)
        self.members: list[Any] = [load(part.partition("*")[2] if self.rule == "weighted" else part) for part in parts]
        contracts = [getattr(member, "contract", None) for member in self.members]
        self.scales = [(c.mean, c.std) for c in contracts if c is not None and c.mean is not None and c.std]
        if len(self.scales) < len(self.members):
            self.scales = [(0.0, 1.0)] * len(self.members)

    @property
    def fingerprint(self) -> str | None:
        """Names the members; None if one of them has no name."""
        names = [getattr(member, "fingerprint", None) for member in self.members]
        return fingerprint(self.spec, names) if all(names) else None

    @property
    def precision(self) -> str | None:
        """What models among the members are computed in; None if there are none."""
        return ", ".join(sorted({one for member in self.members if (one := getattr(member, "precision", None))})) or None

    @property
    def usage(self) -> dict[str, float] | None:
        """What judges among the members have used, together; None if there are none."""
        found = [usage for member in self.members if (usage := getattr(member, "usage", None))]
        return {key: sum(one.get(key, 0) for one in found) for key in found[0]} if found else None

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Shape [n, 3]; without scores where one of the members has none."""
        found = [member.score(conversations) for member in self.members]
        reasons = {i: f"{member.spec}: {why}" for member, s in zip(self.members, found, strict=True) for i, why in s.reasons.items()}
        unanswered = frozenset().union(*(s.unanswered for s in found))
        return Scores(self.merged([s.values[:, 0] for s in found]), np.any([s.truncated for s in found], axis=0), reasons, unanswered)

    def merged(self, rewards: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The reward, the mean and the spread, [n, 3], of each member's rewards [n]."""
        scaled: NDArray[np.float64] = np.stack([(one.astype(float) - mean) / std for one, (mean, std) in zip(rewards, self.scales, strict=True)])
        mean, spread = scaled.mean(axis=0), scaled.std(axis=0)
        reward = scaled.min(axis=0) if self.rule == "min" else np.asarray(self.weights) @ scaled - self.less * spread
        return np.stack([reward, mean, spread], axis=1).astype(np.float32)


def members_of(text: str) -> list[str]:
    """What stands between the commas that are in no inner bracket; the comma of ``implicit:A,B`` divides nothing."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0 and not ("implicit:" in parts[-1] and "," not in parts[-1]):
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _weight(spec: str, part: str) -> float:
    number, star, _ = part.partition("*")
    try:
        if star and math.isfinite(float(number)):
            return float(number)
    except ValueError:
        pass
    raise AssayError(f"{spec}: `{part}` has no weight; expected NUMBER*SCORER, for example 0.7*runs/a/checkpoint")
