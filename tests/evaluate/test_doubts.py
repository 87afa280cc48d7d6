"""The doubts beside the figures, where the truth is known: length and style, calibration, baselines, contamination, turned labels and warnings."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from assay.evaluate import baselines
from assay.evaluate.bias import lean
from assay.evaluate.calibration import calibrate, sigmoid
from assay.evaluate.contamination import FILE, contamination, prompt_hash, read_hashes, write_hashes
from assay.evaluate.evaluate import evaluate
from assay.evaluate.intervals import Floats
from assay.evaluate.suite import Item, Suite
from assay.evaluate.suites import RULES, best_of_n, pairs
from assay.files import read_json
from assay.model.onnx import export
from assay.pairs.schema import Message, answer_text, prompt_id
from assay.score.checkpoint import CheckpointScorer
from assay.score.scorer import Scores, load_scorer
from assay.train.config import TrainConfig
from assay.train.soup import soup
from assay.train.train import train
from conftest import turn

WORDS = ["red", "green", "blue", "old", "new", "fast", "slow", "warm", "cold", "round"]


class By:
    """Scores an answer by a function of its text."""

    spec = "by"
    attributes: tuple[str, ...] = ("reward",)

    def __init__(self, rule: Callable[[str], float]) -> None:
        self.rule = rule

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        values = np.array([[self.rule(answer_text(c[-1:]))] for c in conversations], dtype=np.float32)
        return Scores(values, np.zeros(len(values), dtype=bool))


def item(prompt: str, answers: Sequence[str], gold: Sequence[float], name: str = "") -> Item:
    asked = [turn("user", prompt)]
    return Item(name or prompt, "all", asked, [[turn("assistant", a)] for a in answers], tuple(gold), prompt_id(asked))


def suite_of(answers: Sequence[Sequence[str]], prompts: Sequence[str] | None = None, rule: str = "pairs") -> Suite:
    """A suite whose first answers are the right ones."""
    return Suite("s", rule, [item(prompts[i] if prompts else f"p{i}", several, [1.0, *([0.0] * (len(several) - 1))], f"i{i}") for i, several in enumerate(answers)])


def of_lengths(longer: Any) -> Suite:
    """Pairs whose better answer has 30 characters where ``longer``, the other 10; or the other way round."""
    return suite_of([("x" * 30, "y" * 10) if b else ("x" * 10, "y" * 30) for b in longer])


def phi(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def inside(truth: float, figure: dict[str, float]) -> bool:
    return figure["low"] <= truth <= figure["high"]


def scores_of(margin: Floats) -> Floats:
    """Scores of pairs with these margins."""
    return np.stack([margin, np.zeros(len(margin))], axis=1)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.2])
def test_length_controlled_is_what_remains_if_length_told_nothing(share: float) -> None:
    rng = np.random.default_rng(0)
    held = raw_held = 0
    for _ in range(50):
        longer = rng.random(300) < share
        margin = rng.normal(0.8, 1, 300) + np.where(longer, 1.0, -1.0)
        found = lean(of_lengths(longer), scores_of(margin))
        assert found is not None
        held += inside((phi(1.8) + phi(-0.2)) / 2, found["length_controlled"])
        raw_held += inside(float(np.mean(margin > 0)), found["length_controlled"])
    assert held >= 43
    assert (raw_held >= 43) == (share == 0.5)


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("lean_on", [0.0, 0.2])
def test_length_controlled_recovers_the_accuracy_of_the_quality(share: float, lean_on: float) -> None:
    rng = np.random.default_rng(5)
    longer = rng.random(1_500) < share
    found = lean(of_lengths(longer), scores_of(rng.normal(0.8, 1, 1_500) + lean_on * np.where(longer, 1.0, -1.0)))
    assert found is not None
    assert inside(phi(0.8), found["length_controlled"])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_scorer_of_length_alone(sign: int) -> None:
    longer = np.random.default_rng(0).random(300) < 0.8
    result = evaluate(By(lambda text: sign * len(text)), [of_lengths(longer)])["suites"]["s"]
    assert result["overall"]["value"] == pytest.approx(longer.mean() if sign > 0 else 1 - longer.mean())
    assert result["lean"]["length_controlled"]["value"] == 0.5
    assert result["lean"]["length"]["value"] == pytest.approx(sign)
    assert result["lean"]["chosen_longer"] == {"comparisons": int(longer.sum()), "accuracy": float(sign > 0)}
    assert result["lean"]["chosen_shorter"] == {"comparisons": int((~longer).sum()), "accuracy": float(sign < 0)}


def test_length_controlled_is_the_mean_of_the_two_accuracies_shown() -> None:
    answers = [("x" * 20, "y" * 10, "y" * 11, "y" * 30), ("x" * 20, "y" * 10, "y" * 30, "y" * 31), ("x" * 20, "y" * 30)]
    found = lean(suite_of(answers, rule="best-of-n"), np.array([[1.0, 0, 0, 2], [1, 2, 0, 0], [1, 0, np.nan, np.nan]]))
    assert found is not None
    assert found["chosen_longer"]["comparisons"] + found["chosen_shorter"]["comparisons"] == found["comparisons"] == 7
    assert found["length_controlled"]["value"] == pytest.approx((found["chosen_longer"]["accuracy"] + found["chosen_shorter"]["accuracy"]) / 2)


def mirrored(n: int, plain: str, rich: str) -> Suite:
    """Each prompt twice: once the better answer is the plain one, once the rich one."""
    answers = [pair for i in range(n) for pair in ((f"{plain} {i % 7}", f"{rich} {i % 7}"), (f"{rich} {i % 7}", f"{plain} {i % 7}"))]
    return suite_of(answers, [f"p{i // 2}" for i in range(2 * n)])


STYLES = {"length": "a much longer answer than the other", "markdown": "**a** b\n- c\n- d", "lines": "a\nb\nc\nd", "code": "```\nx\n```"}


@pytest.mark.parametrize("style", list(STYLES))
def test_a_style_term_beside_a_clean_quality_is_removed_exactly(style: str) -> None:
    one = mirrored(60, "answer", STYLES[style])
    rich = np.array([any(a in answer_text(i.answers[0]) for a in (STYLES[style],)) for i in one.items])
    scores = scores_of(np.where(rich, 0.1 + 5.0, 0.1 - 5.0))
    assert pairs.measure(one, scores).values()["overall"] == 0.5
    found = lean(one, scores)
    assert found is not None
    assert found["style_controlled"]["value"] == 1.0
    assert found["style_controlled"]["low"] > 0.9


def test_what_is_left_of_a_style_term_with_noise_is_the_quality() -> None:
    rng = np.random.default_rng(2)
    lengths = rng.integers(5, 200, (1_500, 2))
    one = suite_of([("x" * a, "y" * b) for a, b in lengths])
    quality = rng.normal(0.7, 1, 1_500)
    found = lean(one, scores_of(quality + 2 * (np.log1p(lengths[:, 0]) - np.log1p(lengths[:, 1]))))
    assert found is not None
    assert inside(phi(0.7), found["style_controlled"])


def test_style_control_leaves_a_scorer_alone_that_leans_on_no_style() -> None:
    rng = np.random.default_rng(3)
    one = suite_of([("x" * a, "y" * b) for a, b in rng.integers(5, 200, (400, 2))])
    margin = rng.normal(0.7, 1, 400)
    found = lean(one, scores_of(margin))
    assert found is not None
    assert found["style_controlled"]["value"] == pytest.approx(float(np.mean(margin > 0)), abs=0.02)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("name", "other"), [("length", "x" * 40), ("markdown", "**bold** and\n- list"), ("refusal", "I'm sorry, but I cannot help")])
def test_leanings_have_the_sign_of_what_is_preferred(name: str, other: str, sign: int) -> None:
    one = mirrored(40, "plain", other)
    found = lean(one, scores_of(np.array([sign * (1.0 if answer_text(i.answers[0]).startswith(other) else -1.0) for i in one.items])))
    assert found is not None
    assert found[name]["value"] == pytest.approx(sign)


def test_no_leaning_where_scores_are_drawn() -> None:
    rng = np.random.default_rng(4)
    one = suite_of([("x" * a, "y" * b) for a, b in rng.integers(5, 200, (600, 2))])
    found = lean(one, rng.normal(size=(600, 2)))
    assert found is not None
    assert inside(0.0, found["length"])
    assert found["length"]["high"] - found["length"]["low"] < 0.2
    assert found["markdown"] is None
    assert found["refusal"] is None


def test_nothing_is_said_of_too_little() -> None:
    assert lean(Suite("s", "pairs", [item("p", ["a", "b"], [1, 1])]), np.zeros((1, 2))) is None
    found = lean(of_lengths([True] * 10), scores_of(np.ones(10)))
    assert found is not None
    assert [found[key] for key in ("length_controlled", "style_controlled", "length")] == [None, None, None]


def drawn(n: int, temperature: float, seed: int = 0) -> tuple[Suite, Floats, Floats]:
    """Pairs whose label is drawn from sigmoid(margin / temperature); also the probability of each first answer."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(0, 2 * temperature, n)
    chance = sigmoid(margin / temperature)
    first = rng.random(n) < chance
    return suite_of([("a", "b")] * n), scores_of(np.where(first, margin, -margin)), chance


@pytest.mark.parametrize("truth", [0.01, 0.5, 3.0, 400.0])
def test_a_calibrated_scorer_is_found_calibrated(truth: float) -> None:
    one, scores, chance = drawn(6_000, truth)
    found = calibrate(one, scores, None)
    assert found is not None
    assert found["fitted_here"]
    assert found["temperature"] == pytest.approx(truth, rel=0.1)
    assert found["ece"] < 0.02
    expected = chance * (1 - chance)
    assert found["brier"] == pytest.approx(expected.mean(), abs=4 * float(np.std((chance - 0.5) ** 2) + 0.25) / 6_000**0.5)
    assert sum(b["comparisons"] for b in found["by_margin"]) == 6_000
    assert sum(p["comparisons"] for p in found["reliability"]) == 6_000
    assert sum(p["weight"] for p in found["reliability"]) == pytest.approx(1)
    assert [b["accuracy"] for b in found["by_margin"]] == sorted(b["accuracy"] for b in found["by_margin"])
    assert all(a["to"] <= b["from"] for a, b in zip(found["by_margin"], found["by_margin"][1:], strict=False))


@pytest.mark.parametrize(("given", "worse"), [(1.0, False), (0.2, True), (5.0, True)])
def test_the_temperature_of_the_contract_is_taken_as_it_is(given: float, worse: bool) -> None:
    one, scores, _ = drawn(4_000, 1.0)
    found = calibrate(one, scores, given)
    assert found is not None
    assert (found["temperature"], found["fitted_here"]) == (given, False)
    assert (found["ece"] > 0.05) == worse


def test_calibration_of_scorers_that_say_nothing_or_all() -> None:
    one = suite_of([("a", "b")] * 100)
    assert calibrate(one, np.zeros((100, 2)), None) is None
    assert calibrate(one, np.full((100, 2), np.nan), None) is None
    assert calibrate(suite_of([("a", "b")] * 39), scores_of(np.ones(39)), None) is None
    found = calibrate(one, scores_of(np.linspace(0.1, 2, 100)), None)
    assert found is not None
    assert found["ece"] == pytest.approx(0, abs=1e-6)
    assert found["brier"] == pytest.approx(0, abs=1e-6)


def test_calibration_leaves_out_what_has_no_score_and_counts_ties_half() -> None:
    margin = np.where(np.arange(100) < 10, np.nan, np.where(np.arange(100) < 40, 0.0, 1.0))
    found = calibrate(suite_of([("a", "b")] * 100), scores_of(margin), 1.0)
    assert found is not None
    assert sum(b["comparisons"] for b in found["by_margin"]) == 90
    assert found["reliability"][0]["accuracy"] == 0.5
    assert found["reliability"][0]["comparisons"] == 30


def said(rng: np.random.Generator, n: int = 8) -> str:
    return " ".join(rng.choice(WORDS, n))


def test_length_counts_ties_half() -> None:
    equal = suite_of([("ab", "cd")] * 7)
    assert baselines.by_length(equal, pairs.measure)["overall"] == 0.5
    mixed = suite_of([("abc", "d"), ("a", "bcd"), ("ab", "cd")])
    assert baselines.by_length(mixed, pairs.measure)["overall"] == pytest.approx(0.5)
    groups = suite_of([("abc", "d", "efg", "h"), ("a", "b"), ("abcd", "b", "c")], rule="best-of-n")
    assert baselines.by_length(groups, best_of_n.measure)["overall"] == pytest.approx((0.5 + 0.5 + 1) / 3)


@pytest.mark.parametrize(("several", "rule", "chance"), [(2, "pairs", 0.5), (4, "best-of-n", 0.25), (10, "best-of-n", 0.1)])
def test_lots_lie_around_chance(several: int, rule: str, chance: float) -> None:
    one = suite_of([["a"] * several] * 400, rule=rule)
    low, high = baselines.by_lot(one, RULES[rule].measure)["overall"]
    assert low < chance < high
    assert high - low == pytest.approx(2 * 1.96 * (chance * (1 - chance) / 400) ** 0.5, rel=0.35)


def test_the_probe_finds_a_planted_word() -> None:
    rng = np.random.default_rng(0)
    found = baselines.by_surface(suite_of([(f"{said(rng)} indeed {said(rng)}", f"{said(rng)} {said(rng)}") for _ in range(200)]), pairs.measure)
    assert found is not None
    assert found["overall"] > 0.95
    groups = suite_of([(f"{said(rng)} indeed {said(rng)}", *(said(rng, 16) for _ in range(3))) for _ in range(200)], rule="best-of-n")
    found = baselines.by_surface(groups, best_of_n.measure)
    assert found is not None
    assert found["overall"] > 0.95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_probe_is_at_chance_on_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = baselines.by_surface(suite_of([(said(rng), said(rng)) for _ in range(400)]), pairs.measure)
    assert found is not None
    assert found["overall"] == pytest.approx(0.5, abs=3 * 0.5 / 400**0.5)


def test_the_probe_knows_nothing_of_the_prompt_it_is_asked_about() -> None:
    rng = np.random.default_rng(1)
    answers = [(f"{said(rng)} secret{i // 10} {said(rng)}", f"{said(rng)} public{i // 10} {said(rng)}") for i in range(400)]
    found = baselines.by_surface(suite_of(answers, [f"p{i // 10}" for i in range(400)]), pairs.measure)
    assert found is not None
    assert found["overall"] == pytest.approx(0.5, abs=0.1)


def test_no_probe_of_too_little() -> None:
    rng = np.random.default_rng(1)
    assert baselines.by_surface(suite_of([(said(rng), said(rng)) for _ in range(59)]), pairs.measure) is None


def test_no_probe_where_no_other_prompt_can_teach_it() -> None:
    rng = np.random.default_rng(1)
    assert baselines.by_surface(suite_of([(said(rng), said(rng)) for _ in range(80)], ["p"] * 80), pairs.measure) is None


def test_prompts_are_the_same_whatever_case_spacing_and_punctuation() -> None:
    plain = [turn("user", "What is red, and why?")]
    for variant in ("what is RED and why", "  What   is red,\nand why? ", "What is red - and why?!"):
        assert prompt_hash([turn("user", variant)]) == prompt_hash(plain)
    assert prompt_hash([turn("user", "What is blue, and why?")]) != prompt_hash(plain)
    assert prompt_hash([turn("user", "質問です。")]) == prompt_hash([turn("user", "質問です")])


class Trained:
    """A scorer with a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def test_a_prompt_of_the_training_set_is_warned_of(tmp_path: Path) -> None:
    write_hashes(tmp_path, [[turn("user", f"Seen {i}?")] for i in (3, 1, 1)])
    assert pl.read_parquet(tmp_path / FILE).height == 2
    dirty = Suite("s", "pairs", [item(p, ["a", "b"], [1, 0]) for p in ("SEEN 1", "seen   3?", "new")])
    (warning,) = contamination(Trained(tmp_path), dirty)
    assert warning.startswith("the model was trained on the prompts of 2 of 3 items (such as SEEN 1, seen   3?): the figures flatter it.")
    assert contamination(Trained(tmp_path), Suite("s", "pairs", [item("new", ["a", "b"], [1, 0])])) == []
    assert contamination(Trained(tmp_path / "nowhere"), dirty) == []
    assert contamination(By(len), dirty) == []


def test_the_training_prompts_of_the_members_of_an_ensemble_are_known(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_hashes(tmp_path / name, [[turn("user", f"Seen by {name}")]])
    dirty = Suite("s", "pairs", [item(p, ["a", "b"], [1, 0]) for p in ("seen by one", "seen by two", "new")])
    inner = SimpleNamespace(members=[Trained(tmp_path / "two"), By(len)])
    (warning,) = contamination(SimpleNamespace(members=[Trained(tmp_path / "one"), inner]), dirty)
    assert "on the prompts of 2 of 3 items" in warning


def test_what_is_made_from_a_checkpoint_knows_its_training_prompts(tmp_path: Path, tiny_encoder: Path, make_pairs: Callable[..., pl.DataFrame]) -> None:
    def trained(name: str, seed: int, model: Path = tiny_encoder) -> Path:
        config = TrainConfig(model=str(model), max_length=96, max_steps=1, batch_size=8, learning_rate=3e-3, precision="fp32")
        return train(make_pairs(12, seed), config, tmp_path / name)

    one, two = trained("one", 1), trained("two", 2)
    soup([one, two], tmp_path / "soup")
    assert read_hashes(tmp_path / "soup") == read_hashes(one) | read_hashes(two)
    soup([one], tmp_path / "further", start=two, scale=1.5)
    assert read_hashes(tmp_path / "further") == read_hashes(one) | read_hashes(two)
    third = trained("third", 3, model=one)
    assert read_hashes(one) < read_hashes(third)
    export(third, tmp_path / "onnx")
    assert read_hashes(tmp_path / "onnx") == read_hashes(third)


def test_a_checkpoint_measured_on_its_own_training_pairs_says_so(tiny_encoder: Path, make_pairs: Callable[..., pl.DataFrame], tmp_path: Path) -> None:
    config = TrainConfig(model=str(tiny_encoder), max_length=96, max_steps=2, batch_size=8, learning_rate=3e-3, precision="fp32")
    folder = train(make_pairs(40), config, tmp_path / "trained")
    suites = []
    for name, seed in (("own", 0), ("other", 1)):
        rows = [pairs.item({**row, "subset": "all", "prompt_id": prompt_id(row["prompt"])}) for row in make_pairs(40, seed).iter_rows(named=True)]
        suites.append(Suite(name, "pairs", rows))
    results = evaluate(CheckpointScorer(str(folder), "fp32"), suites, tmp_path / "out", cache=False)["suites"]
    trained_on = pl.read_parquet(folder / FILE).height
    assert any(f"the model was trained on the prompts of {trained_on} of 40 items" in warning for warning in results["own"]["warnings"])
    assert not any("trained on" in warning for warning in results["other"]["warnings"])
    assert read_json(tmp_path / "out" / "results.json")["suites"]["own"]["warnings"] == results["own"]["warnings"]


def numbers(rows: Sequence[tuple[float, float]]) -> Suite:
    """Pairs of answers that are numbers."""
    return suite_of([(f"{a:g}", f"{b:g}") for a, b in rows])


def test_swapped_labels_give_one_minus_the_accuracy_minus_the_ties() -> None:
    rows = [(float(a), float(b)) for a, b in np.random.default_rng(0).integers(0, 6, (300, 2))]
    forward, backward = (evaluate(By(float), [one])["suites"]["s"] for one in (numbers(rows), numbers([(b, a) for a, b in rows])))
    ties = sum(a == b for a, b in rows)
    assert forward["ties"] == backward["ties"] == ties > 20
    assert backward["overall"]["value"] == pytest.approx(1 - forward["overall"]["value"] - ties / 300)
    assert forward["reversed"] == pytest.approx(backward["overall"]["value"])
    assert any(f"in {ties} of 300 items a better and a worse answer got the same score" in warning for warning in forward["warnings"])


@pytest.mark.parametrize("rule", ["pairs", "best-of-n"])
def test_a_scorer_that_says_one_thing_is_called_out(rule: str) -> None:
    rng = np.random.default_rng(0)
    result = evaluate(By(lambda _: 0.25), [suite_of([(said(rng), said(rng)) for _ in range(100)], rule=rule)])["suites"]["s"]
    assert result["overall"]["value"] == (0 if rule == "pairs" else 0.5)
    assert result["ties"] == 100
    assert "every answer got the same score, 0.25: the scorer says nothing about these items, and under a strict rule none is right" in result["warnings"]
    assert result["calibration"] is None
    assert result["reversed"] == result["overall"]["value"]


def test_a_scorer_that_ranks_the_wrong_way_round_is_called_out() -> None:
    rng = np.random.default_rng(0)
    rows = [(float(x) + 1, float(y)) for x, y in rng.normal(size=(150, 2))]
    right, wrong = (evaluate(By(lambda text, sign=sign: sign * float(text)), [numbers(rows)])["suites"]["s"] for sign in (1, -1))  # type: ignore[misc]
    assert right["warnings"] == []
    assert wrong["reversed"] == pytest.approx(right["overall"]["value"])
    assert any(warning.startswith(f"the scorer ranks the wrong way round: with its sign changed it would get {wrong['reversed']:.3f}") for warning in wrong["warnings"])


def test_a_scorer_that_draws_is_seldom_called_wrong() -> None:
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(100):
        result = evaluate(By(float), [numbers([(float(a), float(b)) for a, b in rng.normal(size=(55, 2))])])["suites"]["s"]
        called += any("wrong way round" in warning for warning in result["warnings"])
        low, high = result["overall"]["random"]
        assert 0.3 < low < 0.5 < high < 0.7
    assert called <= 7


def test_the_length_rule_is_its_own_baseline() -> None:
    rng = np.random.default_rng(0)
    result = evaluate(load_scorer("rule:length"), [suite_of([("x" * a, "y" * b) for a, b in rng.integers(1, 300, (120, 2)) if a != b])])["suites"]["s"]
    assert result["overall"]["value"] == pytest.approx(result["overall"]["length"])
    assert result["lean"]["length_controlled"]["value"] == 0.5
