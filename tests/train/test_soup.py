"""Soups: the mean of weights and nothing else, task arithmetic from a start, a greedy choice that can only gain, and refusals of what does not fit together."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

import tiny
from assay.errors import AssayError
from assay.files import MANIFEST, read_json
from assay.model import checkpoint, contract
from assay.model.doctor import examine
from assay.model.reward_model import RewardModel, from_backbone
from assay.score.checkpoint import score_with
from assay.train.config import TrainConfig
from assay.train.soup import cook, greedy, judge_on, mean_weights, soup
from assay.train.train import train

Make = Callable[..., pl.DataFrame]


@dataclass
class Kitchen:
    """A start, and checkpoints that lie around it."""

    start: Path
    runs: list[Path]


def near(start: Path, folder: Path, seed: int, merge: dict[str, float] | None = None) -> Path:
    """A checkpoint at some distance from ``start``."""
    reward_model, _ = checkpoint.load(start)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in reward_model.model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    reward_model.merge = merge or reward_model.merge
    checkpoint.save(reward_model, folder, manifest={"config": None})
    return folder


def scores(folder: Path | RewardModel) -> np.ndarray[Any, Any]:
    """Rewards of the canaries in one batch."""
    reward_model = checkpoint.load(folder)[0] if isinstance(folder, Path) else folder
    return score_with(reward_model, contract.canary_conversations(60), "fp32", 10_000).values[:, 0]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def flipped(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.with_columns(chosen="rejected", rejected="chosen")


@pytest.fixture(scope="module")
def kitchens(tiny_encoder: Path, tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kitchen]:
    """Three checkpoints around a start, of an encoder and of a decoder; do not change them."""
    made = {}
    for kind, backbone in (("encoder", tiny_encoder), ("decoder", tiny_decoder)):
        folder = tmp_path_factory.mktemp(f"soup-{kind}")
        checkpoint.save(from_backbone(str(backbone), 96, 0), folder / "start", manifest={"config": None})
        made[kind] = Kitchen(folder / "start", [near(folder / "start", folder / f"run-{i}", i) for i in range(3)])
    return made


@pytest.fixture(params=["encoder", "decoder"])
def kitchen(request: pytest.FixtureRequest, kitchens: dict[str, Kitchen]) -> Kitchen:
    """A start and three checkpoints of each kind."""
    return kitchens[request.param]


def test_a_soup_of_the_same_checkpoint_is_that_checkpoint(kitchen: Kitchen, tmp_path: Path) -> None:
    one = kitchen.runs[0]
    soup([one, Path(shutil.copytree(one, tmp_path / "again")), one], tmp_path / "soup")
    assert scores(tmp_path / "soup") == pytest.approx(scores(one), abs=1e-6)


def test_the_weights_are_the_mean(kitchen: Kitchen, tmp_path: Path) -> None:
    about = soup(kitchen.runs, tmp_path / "soup")
    each = [weights(run) for run in kitchen.runs]
    cooked = weights(tmp_path / "soup")
    assert set(cooked) == set(each[0])
    for name, weight in cooked.items():
        torch.testing.assert_close(weight, torch.stack([one[name] for one in each]).mean(dim=0), rtol=0, atol=1e-6)
    assert about["soup"] == read_json(tmp_path / "soup" / MANIFEST)["soup"] == [str(run) for run in kitchen.runs]
    assert about["greedy"] == []
    assert "accuracy_on_choosing_pairs" not in about


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.52])
def test_with_a_start_it_is_task_arithmetic(kitchen: Kitchen, tmp_path: Path, scale: float) -> None:
    soup(kitchen.runs, tmp_path / "soup", start=kitchen.start, scale=scale)
    base, mean = weights(kitchen.start), mean_weights(kitchen.runs)
    for name, weight in weights(tmp_path / "soup").items():
        torch.testing.assert_close(weight, base[name] + scale * (mean[name] - base[name]), rtol=0, atol=1e-6)
        if scale == 1:
            torch.testing.assert_close(weight, mean[name], rtol=0, atol=1e-6)


def test_a_scale_of_zero_is_the_start(kitchen: Kitchen, tmp_path: Path) -> None:
    soup(kitchen.runs, tmp_path / "soup", start=kitchen.start, scale=0.0)
    assert scores(tmp_path / "soup") == pytest.approx(scores(kitchen.start), abs=1e-6)


def test_one_checkpoint_goes_further_from_its_start_and_is_refused_without(kitchen: Kitchen, tmp_path: Path) -> None:
    run = kitchen.runs[0]
    soup([run], tmp_path / "same", start=kitchen.start)
    assert scores(tmp_path / "same") == pytest.approx(scores(run), abs=1e-6)
    with pytest.raises(AssayError, match="at least two checkpoints, found 1"):
        soup([run], tmp_path / "alone")
    with pytest.raises(AssayError, match="found 0"):
        soup([], tmp_path / "alone", start=kitchen.start)
    assert not (tmp_path / "alone").exists()


def test_the_order_of_the_checkpoints_plays_no_part(kitchen: Kitchen) -> None:
    assert scores(cook(kitchen.runs)) == pytest.approx(scores(cook(kitchen.runs[::-1])), abs=1e-6)
    assert scores(cook(kitchen.runs)) == pytest.approx(scores(cook([kitchen.runs[i] for i in (1, 2, 0)])), abs=1e-6)


def test_the_doctor_finds_nothing_wrong_with_a_soup(kitchen: Kitchen, tmp_path: Path) -> None:
    soup(kitchen.runs, tmp_path / "plain")
    soup(kitchen.runs, tmp_path / "far", start=kitchen.start, scale=1.5)
    for folder in (tmp_path / "plain", tmp_path / "far"):
        assert [finding for finding in examine(folder) if not finding.ok] == []


def test_half_precision_files_in_pieces_are_summed_in_fp32_and_counters_are_the_firsts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = [torch.randn(50).to(torch.bfloat16) for _ in range(7)]
    for i, value in enumerate(values):
        (tmp_path / str(i)).mkdir()
        save_file({"a": value}, tmp_path / str(i) / "model-00001-of-00002.safetensors")
        save_file({"b": -value, "count": torch.tensor([i + 3])}, tmp_path / str(i) / "model-00002-of-00002.safetensors")
    mean = mean_weights([tmp_path / str(i) for i in range(7)])
    expected = torch.stack([v.float() for v in values]).mean(dim=0)
    assert mean["a"].dtype == torch.float32
    torch.testing.assert_close(mean["a"], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(mean["b"], -expected, rtol=0, atol=1e-6)
    assert mean["count"].tolist() == [3]


@pytest.mark.parametrize(
    ("field", "value"),
    [("attributes", ["helpfulness"]), ("template_sha256", "other"), ("tokenizer_sha256", "other"), ("max_length", 95), ("add_special_tokens", False)],
)
def test_models_that_read_otherwise_are_refused(kitchens: dict[str, Kitchen], tmp_path: Path, field: str, value: object) -> None:
    first = kitchens["encoder"].runs[0]
    other = Path(shutil.copytree(kitchens["encoder"].runs[1], tmp_path / "other"))
    said = json.loads((other / contract.FILE).read_text())
    (other / contract.FILE).write_text(json.dumps({**said, field: value, "merge": {"reward": 1.0, "helpfulness": 1.0}}))
    with pytest.raises(AssayError, match=f"other: its {field} is not that of .*run-0; only models that read the same text the same way"):
        soup([first, other], tmp_path / "soup")


def test_other_backbones_are_refused(kitchens: dict[str, Kitchen], tiny_encoder: Path, tmp_path: Path) -> None:
    narrow = Path(shutil.copytree(tiny_encoder, tmp_path / "narrow-backbone"))
    deep = Path(shutil.copytree(tiny_encoder, tmp_path / "deep-backbone"))
    settings = BertConfig.from_pretrained(tiny_encoder).to_dict()
    BertModel(BertConfig(**{**settings, "intermediate_size": 32})).save_pretrained(narrow)
    BertModel(BertConfig(**{**settings, "num_hidden_layers": 3})).save_pretrained(deep)
    for backbone in (narrow, deep):
        checkpoint.save(from_backbone(str(backbone), 96, 0), tmp_path / "new")
        near(tmp_path / "new", tmp_path / backbone.name.removesuffix("-backbone"), 0)
    first = kitchens["encoder"].runs[0]
    with pytest.raises(AssayError, match=r"narrow: its weight bert\.encoder\S+ \[\d+.*\] is not in .*run-0; only models of the same backbone"):
        soup([first, tmp_path / "narrow"], tmp_path / "soup")
    with pytest.raises(AssayError, match=r"deep: its weight bert\.encoder\.layer\.2\S+ .* is not in"):
        soup([first, tmp_path / "deep"], tmp_path / "soup")
    with pytest.raises(AssayError, match=r"run-0: has \d+ weights, .*deep has \d+"):
        soup([tmp_path / "deep", first], tmp_path / "soup")
    with pytest.raises(AssayError, match="only models that read the same text the same way"):
        soup([first, kitchens["decoder"].runs[0]], tmp_path / "soup")
    with pytest.raises(AssayError, match=r"deep: its weights are not those of .*run-0 by name and shape"):
        soup(kitchens["encoder"].runs, tmp_path / "soup", start=tmp_path / "deep", scale=0.5)
    with pytest.raises(AssayError, match=r"nowhere: no scoring\.json"):
        soup([first, tmp_path / "nowhere"], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_the_weights_of_attributes_are_averaged(tiny_encoder: Path, tmp_path: Path) -> None:
    checkpoint.save(from_backbone(str(tiny_encoder), 96, 0, ["helpfulness", "verbosity"]), tmp_path / "start")
    merges = [{"helpfulness": 0.9, "verbosity": -0.1}, {"helpfulness": 0.5, "verbosity": 0.3}]
    runs = [near(tmp_path / "start", tmp_path / str(i), i, merge) for i, merge in enumerate(merges)]
    soup(runs, tmp_path / "soup")
    said = contract.read(tmp_path / "soup")
    assert said.attributes == ["helpfulness", "verbosity"]
    assert said.merge == pytest.approx({"helpfulness": 0.7, "verbosity": 0.1})
    reward_model, _ = checkpoint.load(tmp_path / "soup")
    values = score_with(reward_model, contract.canary_conversations(60), "fp32", 10_000).values
    assert values[:, 0] == pytest.approx(0.7 * values[:, 1] + 0.1 * values[:, 2], abs=1e-6)
    assert [finding for finding in examine(tmp_path / "soup") if not finding.ok] == []


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, make_pairs: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs from one start: two that learned the rule, and one that learned it the wrong way round."""
    folder = tmp_path_factory.mktemp("trained-for-soup")

    def run(name: str, rows: pl.DataFrame, model: Path, steps: int, seed: int) -> Path:
        config = TrainConfig(model=str(model), max_length=96, max_steps=steps, batch_size=8, learning_rate=3e-3, precision="fp32", validation=0, seed=seed)
        return train(rows, config, folder / name)

    rows = make_pairs(64)
    start = run("start", rows, tiny_encoder, 4, 0)
    return {"one": run("one", rows, start, 14, 1), "two": run("two", rows, start, 10, 2), "wrong": run("wrong", flipped(rows), start, 14, 3)}


def test_what_learned_the_wrong_way_round_is_left_out(trained: dict[str, Path], make_pairs: Make, tmp_path: Path) -> None:
    choosing = make_pairs(24, seed=5)
    judge = judge_on(choosing)
    given = [trained["wrong"], trained["two"], trained["one"]]
    about = soup(given, tmp_path / "soup", by=choosing)
    decisions = about["greedy"]
    assert sorted(d["checkpoint"] for d in decisions) == sorted(map(str, given))
    assert {d["checkpoint"] for d in decisions if d["taken"]} == set(about["soup"])
    assert str(trained["wrong"]) not in about["soup"]
    assert {d["checkpoint"]: d["accuracy"] for d in decisions}[str(trained["wrong"])] < 0.5
    alone = [judge(cook([folder])) for folder in given]
    best = max(alone, key=lambda found: (found[0], -found[1]))
    assert (decisions[0]["accuracy"], decisions[0]["loss"]) == pytest.approx(best)
    assert decisions[0]["taken"]
    assert [(-d["accuracy"], d["loss"]) for d in decisions] == sorted((-d["accuracy"], d["loss"]) for d in decisions)
    kept = [d["accuracy_with"] for d in decisions if d["taken"]]
    assert kept == sorted(kept)
    assert about["accuracy_on_choosing_pairs"] == pytest.approx(kept[-1])
    assert about["accuracy_on_choosing_pairs"] >= best[0]
    assert [one["seed"] for one in about["trained_with"]] == [read_json(Path(f) / MANIFEST)["config"]["seed"] for f in about["soup"]]


def test_greedy_never_lowers_the_accuracy_on_the_choosing_pairs(kitchens: dict[str, Kitchen], trained: dict[str, Path], make_pairs: Make) -> None:
    for given in ([trained["one"], trained["wrong"], trained["two"]], kitchens["encoder"].runs):
        judge = judge_on(make_pairs(16, seed=20))
        pool, decisions = greedy(given, judge)
        assert len(decisions) == len(given)
        assert judge(cook(pool))[0] >= max(d.accuracy for d in decisions)
        assert pool[0] == Path(decisions[0].checkpoint)
        assert pool == [Path(d.checkpoint) for d in decisions if d.taken]


def test_a_tie_is_taken_if_ties_are(kitchens: dict[str, Kitchen], make_pairs: Make, tmp_path: Path) -> None:
    one = kitchens["encoder"].runs[0]
    copies = [one, *(Path(shutil.copytree(one, tmp_path / str(i))) for i in range(2))]
    judge = judge_on(make_pairs(20))
    pool, decisions = greedy(copies, judge, ties=True)
    assert len(pool) == 3
    assert all(d.taken for d in decisions)
    pool, decisions = greedy(copies, judge, ties=False)
    assert len(pool) == 1
    assert [d.taken for d in decisions] == [True, False, False]


@pytest.mark.parametrize(("with_it", "taken"), [((0.6, 0.9), False), ((0.7, 0.6), False), ((0.7, 0.4), True), ((0.8, 0.9), True)])
def test_accuracy_decides_and_the_loss_where_accuracies_are_equal(kitchens: dict[str, Kitchen], with_it: tuple[float, float], taken: bool) -> None:
    first, second, _ = kitchens["encoder"].runs
    known = {float(scores(cook([first]))[0]): (0.7, 0.5), float(scores(cook([second]))[0]): (0.7, 0.55)}

    def judge(reward_model: RewardModel) -> tuple[float, float]:
        return known.get(float(scores(reward_model)[0]), with_it)

    for ties in (True, False):
        pool, decisions = greedy([second, first], judge, ties=ties)
        assert pool == ([first, second] if taken else [first])
        assert [d.taken for d in decisions] == [True, taken]
        assert (decisions[1].accuracy_with, decisions[1].loss_with) == with_it


def test_the_tokenizer_is_saved_with_the_soup(kitchens: dict[str, Kitchen], tmp_path: Path) -> None:
    soup(kitchens["decoder"].runs, tmp_path / "soup")
    said = contract.read(tmp_path / "soup")
    assert said.tokenizer_sha256 == contract.read(kitchens["decoder"].runs[0]).tokenizer_sha256
    assert tiny.CHATML in (tmp_path / "soup" / "chat_template.jinja").read_text()


def test_a_start_may_have_called_its_output_otherwise(tiny_encoder: Path, tmp_path: Path) -> None:
    checkpoint.save(from_backbone(str(tiny_encoder), 96, 0, ["helpfulness"]), tmp_path / "start", manifest={"config": None})
    run = near(tmp_path / "start", tmp_path / "run", 1, {"reward": 1.0})
    soup([run], tmp_path / "further", start=tmp_path / "start", scale=1.52)
    base, end = weights(tmp_path / "start"), weights(run)
    for name, weight in weights(tmp_path / "further").items():
        torch.testing.assert_close(weight, base[name] + 1.52 * (end[name] - base[name]), rtol=0, atol=1e-6)
    assert contract.read(tmp_path / "further").attributes == contract.read(run).attributes
