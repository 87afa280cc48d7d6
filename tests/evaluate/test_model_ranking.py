"""Rankings of models against scipy, and against truth that was planted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kendalltau

from assay.evaluate.evaluate import evaluate
from assay.evaluate.load import load_suite
from assay.evaluate.model_ranking import kendall, model_ranking, strengths
from assay.evaluate.suite import Item, Suite
from assay.files import write_text
from assay.score.scorer import load_scorer
from conftest import turn


def battles(n: int, models: int, seed: int) -> tuple[Suite, Any]:
    """Votes by planted strengths 0, 0.7, 1.4, ...; and the strengths."""
    rng = np.random.default_rng(seed)
    true = 0.7 * np.arange(models)
    items = []
    for i in range(n):
        a, b = rng.choice(models, 2, replace=False)
        if rng.random() > 1 / (1 + np.exp(true[b] - true[a])):
            a, b = b, a
        items.append(Item(f"i{i}", "English", [turn("user", f"{i}")], [[turn("assistant", "x")], [turn("assistant", "y")]], (1.0, 0.0), f"c{i}", {"models": (f"m{a}", f"m{b}")}))
    return Suite("s", "ppe-preference", items), true


def test_strengths_are_those_of_the_greatest_likelihood() -> None:
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 20, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)

    def loss(s: Any) -> float:
        s = s - s.mean()
        with_average = (np.logaddexp(0, -s) + np.logaddexp(0, s)).sum() / 2
        return float((wins * np.logaddexp(0, -np.subtract.outer(s, s))).sum() + with_average)

    found = minimize(loss, np.zeros(5)).x
    assert strengths(wins) == pytest.approx(found - found.mean(), abs=1e-2)


def test_kendall_is_scipys() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.integers(0, 5, (2, 9)).astype(float)
        assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic)


def test_who_chooses_by_the_planted_order_ranks_as_people_do_and_the_reverse() -> None:
    suite, true = battles(1_500, 8, 2)
    of = np.array([[true[int(name[1:])] for name in item.about["models"]] for item in suite.items])
    right, wrong = model_ranking(suite, of), model_ranking(suite, -of)
    assert right is not None
    assert wrong is not None
    assert (right["models"], right["votes"]) == (8, 1_500)
    assert right["spearman"]["value"] > 0.95
    assert right["spearman"]["low"] <= right["spearman"]["value"] <= right["spearman"]["high"]
    assert wrong["kendall"]["high"] < -0.8
    lots = model_ranking(suite, np.random.default_rng(3).normal(size=(1_500, 2)))
    assert lots is not None
    assert lots["spearman"]["low"] < 0.5


def test_published_votes_are_ranked_by_evaluate(tmp_path: Path) -> None:
    suite, _ = battles(60, 4, 4)
    rows = [{"question_id": str(i), "prompt": f"q{i}", "response_1": "long answer" if item.about["models"][0] > item.about["models"][1] else "a", "response_2": "middle", "model_a": item.about["models"][0], "model_b": item.about["models"][1], "winner": "model_a", "language": "English"} for i, item in enumerate(suite.items)]
    write_text(tmp_path / "votes.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    result = evaluate(load_scorer("rule:length"), [load_suite(f"ppe-preference={tmp_path / 'votes.jsonl'}")])["suites"]["ppe-preference"]
    assert result["model_ranking"]["models"] == 4
    assert result["model_ranking"]["spearman"]["value"] > 0.9
    nameless = [{key: value for key, value in row.items() if not key.startswith("model_")} for row in rows]
    write_text(tmp_path / "nameless.jsonl", "".join(json.dumps(row) + "\n" for row in nameless))
    assert evaluate(load_scorer("rule:length"), [load_suite(f"ppe-preference={tmp_path / 'nameless.jsonl'}")])["suites"]["ppe-preference"]["model_ranking"] is None
