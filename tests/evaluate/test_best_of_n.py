"""Best of n against brute force over all subsets and against simulation, and the curves made of it."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assay.errors import AssayError
from assay.evaluate import best_of_n as module
from assay.evaluate.best_of_n import best_of_n, chances, chosen, kl, voted
from assay.evaluate.intervals import Floats
from assay.evaluate.load import load_groups
from assay.evaluate.scoring import score_suites
from assay.evaluate.suite import Item, Suite, padded
from assay.pairs.schema import Message, answer_text
from assay.score.scorer import Scores
from conftest import turn


def groups(gold: Sequence[Sequence[float]], results: Sequence[Sequence[Any]] | None = None, lengths: Sequence[Sequence[int]] | None = None) -> Suite:
    """Answers with gold values; an answer's length is ``lengths``, by default equal."""
    items = []
    for i, values in enumerate(gold):
        sizes = lengths[i] if lengths else [6] * len(values)
        rows = [{"prediction": r} for r in results[i]] if results else []
        items.append(Item(f"i{i}", "all", [turn("user", f"p{i}")], [[turn("assistant", str(j).rjust(n, "x"))] for j, n in enumerate(sizes)], tuple(map(float, values)), f"c{i}", {"rows": rows}))
    return Suite("g", "best-of-n", items)


def slow_chances(scores: Sequence[float], n: int) -> list[Any]:
    """How often each answer has the highest score over all subsets of n; where several have it, a share of it."""
    found = [0.0] * len(scores)
    subsets = list(itertools.combinations(range(len(scores)), n))
    for subset in subsets:
        top = max(scores[i] for i in subset)
        winners = [i for i in subset if scores[i] == top]
        for i in winners:
            found[i] += 1 / len(winners) / len(subsets)
    return found


def value(found: dict[str, Any], name: str) -> list[float]:
    return [point["value"] for point in found["curves"][name]]


@pytest.mark.parametrize("seed", range(12))
def test_chances_are_those_of_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = int(rng.integers(1, 9))
    scores = rng.integers(0, [2, 4, 100][seed % 3], total).astype(float)
    if seed % 4 == 3:
        scores[rng.random(total) < 0.4] = -np.inf
    for n in range(1, total + 1):
        assert chances(scores, n) == pytest.approx(slow_chances(scores.tolist(), n))
        assert chances(scores, n).sum() == pytest.approx(1)


def test_chances_of_many_answers_do_not_overflow() -> None:
    for total, n in ((1_024, 1), (1_024, 512), (2_000, 1_000), (2_000, 2_000)):
        found = chances(np.arange(total, dtype=float), n)
        assert np.isfinite(found).all()
        assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_chosen_of_uneven_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 8, 20)
    scores, gold = (padded([rng.integers(0, 5, n).astype(float) for n in sizes], int(sizes.max())) for _ in range(2))
    there = np.isfinite(gold)
    for n in (1, 2, 3):
        expected = [np.dot(slow_chances(scores[i, there[i]].tolist(), n), gold[i, there[i]]) for i in range(20)]
        assert chosen(scores, gold, there, n) == pytest.approx(expected)


def test_one_answer_is_the_mean_and_all_are_the_best() -> None:
    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(30, 9)), rng.normal(size=(30, 9))
    there = np.ones((30, 9), dtype=bool)
    assert chosen(scores, gold, there, 1) == pytest.approx(gold.mean(axis=1))
    assert chosen(scores, gold, there, 9) == pytest.approx(gold[np.arange(30), scores.argmax(axis=1)])


def test_the_estimate_is_without_bias() -> None:
    """Of fresh answers the best of n has, over many prompts, the value that is estimated from 12 answers."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(6_000, 12))
    gold = scores + rng.normal(size=scores.shape) - 0.3 * scores**2
    there = np.ones(scores.shape, dtype=bool)
    fresh = rng.normal(size=(200_000, 4))
    worth = fresh + rng.normal(size=fresh.shape) - 0.3 * fresh**2
    for n in (2, 4):
        picked = worth[np.arange(len(worth)), fresh[:, :n].argmax(axis=1)]
        estimate = chosen(scores, gold, there, n)
        error = (estimate.var() / len(estimate) + picked.var() / len(picked)) ** 0.5
        assert abs(estimate.mean() - picked.mean()) < 4 * error


def slow_voted(results: Sequence[Any], weights: Sequence[float], gold: Sequence[float], n: int) -> float:
    values = []
    for subset in itertools.combinations(range(len(results)), n):
        ballot = {r: sum(weights[j] for j in subset if results[j] == r) for r in {results[j] for j in subset}}
        winners = [r for r, w in ballot.items() if w >= max(ballot.values()) - 1e-12]
        values.append(np.mean([gold[list(results).index(r)] for r in winners]))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(6))
def test_votes_are_those_of_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    results = [rng.choice(["1", "2", "3"], 6).tolist() for _ in range(10)]
    right = [rng.choice(["1", "2", "3"]) for _ in range(10)]
    gold = np.array([[float(r == good) for r in group] for group, good in zip(results, right, strict=True)])
    weights = [rng.random(6) for _ in range(10)] if seed % 2 else [np.ones(6) for _ in range(10)]
    for n in range(1, 7):
        expected = np.array([slow_voted(r, w, g, n) for r, w, g in zip(results, weights, gold.tolist(), strict=True)])
        found = voted(results, weights, gold, n)
        if n == 6:
            assert found == pytest.approx(expected)
        assert np.abs(found - expected).max() < 5 * 0.5 / module.VOTES**0.5
        assert abs(found.mean() - expected.mean()) < 4 * 0.5 / (10 * module.VOTES) ** 0.5


def test_a_vote_by_hand() -> None:
    gold = np.array([[1.0, 0.0, 0.0, 1.0]])
    assert voted([["7", "8", "8", "7"]], [np.ones(4)], gold, 4) == pytest.approx([0.5])
    assert voted([["7", "8", "8", "7"]], [np.array([1, 1, 1, 2.0])], gold, 4) == pytest.approx([1.0])
    assert voted([["7", "8", "8", "9"]], [np.ones(4)], gold, 4) == pytest.approx([0.0])


def test_kl() -> None:
    assert kl(1) == 0
    assert kl(2) == pytest.approx(math.log(2) - 0.5)
    assert all(kl(n) < kl(n + 1) < math.log(n + 1) for n in range(1, 50))


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_above_any_scorer_and_a_scorer_above_its_inverse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=(60, 8))
    rewards = gold + 2 * rng.normal(size=gold.shape)
    suite = groups(gold.tolist())
    found, inverse = best_of_n(suite, rewards), best_of_n(suite, -rewards)
    assert found["n"] == [1, 2, 3, 4, 6, 8]
    assert found["kl"] == [kl(n) for n in found["n"]]
    for k in range(len(found["n"])):
        assert value(found, "oracle")[k] >= value(found, "scorer")[k] - 1e-12
        assert value(found, "scorer")[k] >= value(inverse, "scorer")[k] - 1e-12
        assert value(found, "random answer")[k] == pytest.approx(gold.mean())
    assert value(found, "scorer")[0] == pytest.approx(gold.mean())
    assert value(found, "oracle")[-1] == pytest.approx(gold.max(axis=1).mean())
    assert value(found, "longest answer") == pytest.approx([gold.mean()] * 6)
    proxy = value(found, "proxy")
    assert proxy == sorted(proxy)
    assert proxy[0] == pytest.approx(0, abs=1e-9)


def test_the_longest_answer_is_chosen_by_its_length() -> None:
    rng = np.random.default_rng(3)
    lengths = [rng.permutation(np.arange(5, 9)).tolist() for _ in range(40)]
    found = best_of_n(groups(lengths, lengths=lengths), rng.normal(size=(40, 4)))
    assert value(found, "longest answer") == pytest.approx(value(found, "oracle"))
    assert value(found, "longest answer")[-1] == 8


def overdone(rng: np.random.Generator, prompts: int, answers: int) -> tuple[Floats, Floats]:
    """A proxy that rises with the gold value, but for the highest tenth of it, where the gold value falls."""
    proxy = rng.normal(size=(prompts, answers))
    gold = np.where(proxy < 1.2, proxy, 1.2 - 4 * (proxy - 1.2)) + 0.3 * rng.normal(size=proxy.shape)
    return proxy, gold


def test_over_optimisation_is_found_where_it_is() -> None:
    proxy, gold = overdone(np.random.default_rng(4), 120, 64)
    found = best_of_n(groups(gold.tolist()), proxy)
    assert found["n"][-1] == 64
    assert 2 <= found["peak"] <= 8
    assert found["peak"] < found["over_optimised"] <= 24
    assert value(found, "scorer")[-1] < value(found, "scorer")[0]
    assert value(found, "proxy") == sorted(value(found, "proxy"))


def test_over_optimisation_is_not_found_where_it_is_not() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        gold = rng.normal(size=(80, 16))
        assert best_of_n(groups(gold.tolist()), gold + rng.normal(size=gold.shape))["over_optimised"] is None


def test_a_scorer_of_lots_is_seldom_called_over_optimised() -> None:
    """Its peak is where luck was greatest, so what comes behind looks lower: 2.5% of 300 simulations, less what two standard errors allow."""
    rng = np.random.default_rng(6)
    ns, clusters, said = (1, 2, 3, 4, 6, 8, 12, 16), [str(i) for i in range(80)], 0
    for _ in range(300):
        gold = rng.normal(size=(80, 16))
        curve = [gold @ chances(np.arange(16.0), n) for n in ns]
        said += module._over(curve, int(np.argmax([one.mean() for one in curve])), clusters) is not None
    assert said / 300 <= 0.025 + 2 * (0.025 * 0.975 / 300) ** 0.5


def test_over_optimisation_lasts_to_the_last_n() -> None:
    """A dip that is made good again is none."""
    rng = np.random.default_rng(7)
    noise = 0.01 * rng.normal(size=(4, 100))
    clusters = [str(i) for i in range(100)]
    assert module._over([level + one for level, one in zip((0, 1, 0.5, 0.5), noise, strict=True)], 1, clusters) == 2
    assert module._over([level + one for level, one in zip((0, 1, 0.5, 1), noise, strict=True)], 1, clusters) is None


def test_groups_of_uneven_size() -> None:
    """A prompt with few answers is left out, and does not shorten the curves of the others."""
    rng = np.random.default_rng(6)
    sizes = [1, 2] + [8] * 20 + [12] * 10
    gold = [rng.integers(0, 2, n).astype(float).tolist() for n in sizes]
    suite = groups(gold)
    rewards = padded([rng.normal(size=n) for n in sizes], 12)
    found = best_of_n(suite, rewards)
    assert (found["n"][-1], found["prompts"], found["left_out"], found["answers"], found["without_score"]) == (8, 30, 2, 280, 0)
    expected = [np.dot(slow_chances(rewards[i, : sizes[i]].tolist(), 3), gold[i]) for i in range(2, 32)]
    assert value(found, "scorer")[2] == pytest.approx(np.mean(expected))


def test_answers_without_a_score_are_never_chosen() -> None:
    rng = np.random.default_rng(7)
    gold = rng.normal(size=(40, 6))
    rewards = rng.normal(size=(40, 6)) + 100
    gold[:, 2] = 1_000
    rewards[:, 2] = np.nan
    found = best_of_n(groups(gold.tolist()), rewards)
    assert found["without_score"] == 40
    kept = np.delete(gold, 2, axis=1)
    assert value(found, "scorer")[-1] == pytest.approx(kept[np.arange(40), np.delete(rewards, 2, axis=1).argmax(axis=1)].mean())
    assert all(v < 400 for v in value(found, "scorer")[1:])


def test_the_proxy_of_an_answer_without_a_score_is_that_of_the_lowest() -> None:
    """In standard deviations, like every other proxy, whatever the scale of the rewards."""
    rng = np.random.default_rng(8)
    gold = rng.normal(size=(40, 6))
    rewards = rng.normal(size=(40, 6))
    rewards[::2, 2] = np.nan
    small, large = (best_of_n(groups(gold.tolist()), r) for r in (rewards, 1_000 * rewards + 50_000))
    assert value(large, "proxy") == pytest.approx(value(small, "proxy"))
    assert -1 < value(small, "proxy")[0] < 0.1


def test_without_a_single_score_the_curve_is_that_of_a_random_answer() -> None:
    gold = np.random.default_rng(9).normal(size=(20, 4))
    found = best_of_n(groups(gold.tolist(), [["a", "b", "b", "c"]] * 20), np.full((20, 4), np.nan))
    assert found["without_score"] == 80
    assert value(found, "scorer") == pytest.approx(value(found, "random answer"))
    json.dumps(found, allow_nan=False)


def test_a_constant_scorer_is_a_random_answer() -> None:
    gold = np.random.default_rng(9).normal(size=(20, 4))
    found = best_of_n(groups(gold.tolist()), np.ones((20, 4)))
    assert value(found, "scorer") == pytest.approx([gold.mean()] * 4)
    assert found["over_optimised"] is None


def test_without_results_nothing_is_voted_on() -> None:
    gold = [[1.0, 0.0, 0.0]] * 6
    scores = np.array([[3.0, 2.0, 1.0]] * 6)
    assert set(best_of_n(groups(gold), scores)["curves"]) == {"scorer", "random answer", "longest answer", "oracle", "proxy"}
    one_missing = [["1", "2", "2"]] * 5 + [["1", "2", None]]
    assert "self-consistency" not in best_of_n(groups(gold, one_missing), scores)["curves"]
    with_results = best_of_n(groups(gold, [["1", "2", "2"]] * 6), scores)
    assert value(with_results, "self-consistency")[-1] == 0
    assert value(with_results, "self-consistency")[0] == pytest.approx(1 / 3, abs=0.1)


def test_weighted_votes_follow_the_scores() -> None:
    """Two wrong answers of the lowest rewards are outvoted by one of the highest."""
    gold = [[1.0, 0.0, 0.0]] * 6
    found = best_of_n(groups(gold, [["1", "2", "2"]] * 6), np.array([[50.0, -30.0, -31.0]] * 6))
    assert value(found, "weighted voting")[-1] == 1
    assert value(found, "self-consistency")[-1] == 0


def test_intervals_hold_the_values_and_shares_stay_shares() -> None:
    rng = np.random.default_rng(10)
    gold = (rng.random((40, 8)) < 0.4).astype(float)
    found = best_of_n(groups(gold.tolist()), rng.normal(size=gold.shape))
    for name, points in found["curves"].items():
        for point in points:
            assert point["low"] <= point["value"] + 1e-12
            assert point["value"] <= point["high"] + 1e-12
            assert name == "proxy" or 0 <= point["low"] <= point["high"] <= 1
    assert found["peak"] == found["n"][int(np.argmax(value(found, "scorer")))]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_intervals_of_gold_values_of_any_scale_scale_with_them() -> None:
    rng = np.random.default_rng(11)
    gold, rewards = rng.normal(size=(40, 6)), rng.normal(size=(40, 6))
    small, large = (best_of_n(groups((scale * gold).tolist()), rewards) for scale in (1, 100))
    for one, hundred in zip(small["curves"]["scorer"], large["curves"]["scorer"], strict=True):
        assert one["low"] < one["value"] < one["high"]
        assert [hundred[key] for key in ("value", "low", "high")] == pytest.approx([100 * one[key] for key in ("value", "low", "high")])


def test_a_prompt_with_one_answer_is_no_group() -> None:
    with pytest.raises(AssayError, match="g: no prompt has two answers; rows of the same prompt are one group"):
        best_of_n(groups([[1.0], [0.0]]), np.zeros((2, 1)))


class Known:
    """Scores by a table of (question, answer)."""

    spec = "known"
    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, table: dict[tuple[str, str], float]) -> None:
        self.table = table

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([self.table[c[0]["content"], answer_text(c[-1:])] for c in conversations], dtype=np.float32)
        return Scores(values.reshape(-1, 1), np.zeros(len(values), dtype=bool))


def test_a_real_reward_model_chooses_better_than_chance(shared_data: Path) -> None:
    rows = pl.read_parquet(shared_data / "reason_math_bestofn" / "samples.parquet")
    suite = load_groups(str(shared_data / "reason_math_bestofn"))
    assert (len(suite.items), suite.width) == (rows["question_id"].n_unique(), 8)
    scorer = Known({(q, a): s for q, a, s in rows.select("question", "response", "qwen_rm_score").iter_rows()})
    found = best_of_n(suite, score_suites(scorer, [suite])[0].rewards)
    assert found["n"] == [1, 2, 3, 4, 6, 8]
    best, plain = found["curves"]["scorer"][-1], found["curves"]["random answer"][-1]
    assert plain["value"] == pytest.approx(rows["is_correct"].mean())
    assert best["value"] > plain["value"] + 0.02
    assert found["over_optimised"] is None
    assert value(found, "oracle")[-1] > best["value"]
    assert value(found, "self-consistency")[-1] > plain["value"]
    by_hand = rows.sort("qwen_rm_score", descending=True).unique("question_id", keep="first", maintain_order=True)["is_correct"].mean()
    assert best["value"] == pytest.approx(by_hand, abs=0.02)
