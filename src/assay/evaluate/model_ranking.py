"""Which model is the better one, by a scorer's choices and by the votes of people: how well the two rankings agree.

Strengths by Bradley and Terry (1952), fitted to who won against whom (Hunter 2004, the MM algorithm); each model has drawn once more with an average one, so that none is without bounds. Of the strengths
the rank correlations of Spearman and Kendall, with intervals over resampled prompts. PPE (arXiv 2410.14872) ranks models so; this is our reading of it, not checked against its code.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Suite
from assay.evaluate.suites.ratings import ranks

FEWEST = 3
"""Models without which there is nothing to rank."""
DRAWS = 200
ROUNDS = 200


def model_ranking(suite: Suite, rewards: Floats) -> dict[str, Any] | None:
    """Agreement of the two rankings on the items whose ``about`` has ``models``, the winner's and the loser's; None with fewer than ``FEWEST`` models.

    A scorer without a score for either answer, or with equal ones, gives half a win to both.
    """
    rows = np.array([i for i, item in enumerate(suite.items) if "models" in item.about], dtype=np.int64)
    names = sorted({name for i in rows for name in suite.items[i].about["models"]})
    if len(names) < FEWEST:
        return None
    number = {name: k for k, name in enumerate(names)}
    won, lost = np.array([[number[name] for name in suite.items[i].about["models"]] for i in rows]).T
    margin = np.nan_to_num(rewards[rows, 0] - rewards[rows, 1])
    share = np.where(margin > 0, 1.0, np.where(margin < 0, 0.0, 0.5))
    _, cluster = np.unique([suite.items[i].cluster for i in rows], return_inverse=True)
    clusters = int(cluster.max()) + 1
    rng = np.random.default_rng(0)

    def agreement(times: Floats) -> tuple[float, float]:
        votes, choices = np.zeros((2, len(names), len(names)))
        np.add.at(votes, (won, lost), times)
        np.add.at(choices, (won, lost), times * share)
        np.add.at(choices, (lost, won), times * (1 - share))
        a, b = strengths(votes), strengths(choices)
        return float(np.corrcoef(ranks(a), ranks(b))[0, 1]), kendall(a, b)

    value = agreement(np.ones(len(rows)))
    drawn = np.array([agreement(rng.multinomial(clusters, np.full(clusters, 1 / clusters))[cluster].astype(float)) for _ in range(DRAWS)])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    figures = {name: {"value": value[k], "low": float(low[k]), "high": float(high[k])} for k, name in enumerate(("spearman", "kendall"))}
    return {"models": len(names), "votes": len(rows), **figures}


def strengths(wins: NDArray[np.float64]) -> Floats:
    """[n]: the logarithms of the strengths, their mean 0, from ``wins`` [n, n] of each over each."""
    games = wins + wins.T
    total = wins.sum(axis=1) + 0.5
    strength = np.ones(len(wins))
    for _ in range(ROUNDS):
        strength = total / ((games / (strength[:, None] + strength)).sum(axis=1) + 1 / (strength + 1))
        strength /= np.exp(np.log(strength).mean())
    return np.log(strength)


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau-b."""
    first, second = (np.sign(np.subtract.outer(x, x))[np.triu_indices(len(x), 1)] for x in (a, b))
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))
