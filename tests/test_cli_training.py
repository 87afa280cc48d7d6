"""The verbs that train, average, import and export, from the command line: what they print, what they write, and one line for every mistake."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from assay.cli import run_app
from assay.files import read_json, write_parquet
from assay.model import checkpoint, contract
from assay.model.doctor import examine
from assay.model.reward_model import from_backbone
from assay.recipes.recipe import load_recipe
from assay.train.config import LoraConfig, LossConfig
from assay.train.train import train

Make = Callable[..., pl.DataFrame]
Captured = pytest.CaptureFixture[str]
RATED, PAIRED = 40, 24


def only_line(text: str) -> str:
    """The one line that was said."""
    (line,) = text.splitlines()
    return line


@pytest.fixture
def recipe(tiny_encoder: Path, make_pairs: Make, tmp_path: Path) -> Path:
    """A recipe of two trainings: on 40 rated answers and on 24 pairs."""
    rng = random.Random(0)
    rated = [{"prompt": f"ask {i // 2}?", "response": "yes " * (1 + i % 2) + str(i), "helpfulness": 4 - 3 * (i % 2), "verbosity": rng.randint(0, 4)} for i in range(RATED)]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))
    write_parquet(tmp_path / "made.parquet", make_pairs(PAIRED))
    settings = {"model": str(tiny_encoder), "max_length": 96, "max_steps": 2, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0.3}
    data = {
        "name": "small",
        "sources": [{"path": "ratings.jsonl"}, {"path": "made.parquet", "name": "made"}],
        "first": {**settings, "attributes": ["helpfulness"], "only": ["ratings"]},
        "train": {**settings, "only": ["made"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "recipe.yaml"


@pytest.fixture(scope="module")
def checkpoints(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A start and two checkpoints around it; do not change them."""
    folder = tmp_path_factory.mktemp("cli-training")
    checkpoint.save(from_backbone(str(tiny_encoder), 96, 0), folder / "new")
    checkpoint.save(checkpoint.load(folder / "new")[0], folder / "start")
    for seed in (1, 2):
        reward_model, _ = checkpoint.load(folder / "start")
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in reward_model.model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        checkpoint.save(reward_model, folder / f"run-{seed}")
    return [folder / name for name in ("start", "run-1", "run-2")]


@pytest.fixture
def foreign(tiny_decoder: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Writes a folder as OpenRLHF does, with a head of so many rows."""

    def write(rows: int) -> Path:
        folder = Path(shutil.copytree(tiny_decoder, tmp_path / "foreign"))
        weights = {f"model.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
        torch.manual_seed(0)
        save_file({**weights, "value_head.weight": torch.randn(rows, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


def test_a_dry_run_says_what_it_would_take_and_trains_nothing(recipe: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    rows, layout, weights, memory = capsys.readouterr().out.splitlines()
    found = re.match(r"(\d+) rows to train on, (\d+) held out, 0 longer than the model reads; 2 steps of 8$", rows)
    assert found is not None
    assert int(found[1]) + int(found[2]) == PAIRED
    found = re.match(r"layout packed: ([\d,]+) tokens an epoch of ([\d,]+) if each answer had its own prompt; (\d+\.\d)% padding in what is computed$", layout)
    assert found is not None
    assert found[1] == found[2]
    assert float(found[3]) == 0
    assert re.match(r"([\d,]+) weights, \1 of them trained, in fp32 on cpu$", weights) or torch.cuda.is_available()
    assert re.match(r"memory: about \d+\.\d GB, of which 0\.\d GB are the program", memory)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"read", "curate"}


def test_a_dry_run_of_lora_and_shared_prompts(recipe: Path, tiny_decoder: Path, tmp_path: Path, capsys: Captured) -> None:
    changes = [f"first.model={tiny_decoder}", "train.lora={rank: 2}", "train.max_length=100"]
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out"), "--dry-run", *(part for change in changes for part in ("--set", change))]) == 0
    rows, layout, weights, _ = capsys.readouterr().out.splitlines()
    assert 0 < int(re.findall(r"(\d+) longer than", rows)[0]) < PAIRED
    tokens, apart = (int(number.replace(",", "")) for number in re.findall(r"layout shared: ([\d,]+) tokens an epoch of ([\d,]+)", layout)[0])
    assert tokens < apart
    every, trained = (int(number.replace(",", "")) for number in re.findall(r"^([\d,]+) weights, ([\d,]+) of them trained", weights)[0])
    assert trained < every / 5


def test_two_trainings_from_the_command_line(recipe: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out")]) == 0
    said, shown = capsys.readouterr()
    manifest = read_json(tmp_path / "out" / "checkpoint" / "manifest.json")
    assert manifest["pairs"] + manifest["held_out"] == PAIRED
    assert said.splitlines()[0] == f"trained on {manifest['pairs']} pairs for 2 steps in fp32; 0 were longer than the model reads"
    assert said.splitlines()[1] == f"accuracy on {manifest['held_out']} held-out pairs: {100 * manifest['accuracy']:.1f}%"
    assert said.splitlines()[-1] == f"checkpoint: {tmp_path / 'out' / 'checkpoint'}"
    assert f"train (curated, first): {RATED} rated answers, 2 steps of 8" in shown
    assert f"train (curated): {PAIRED} pairs, 2 steps of 8" in shown
    assert all(finding.ok for finding in examine(tmp_path / "out" / "checkpoint"))


def test_training_on_ratings_says_how_much_of_each_is_explained(recipe: Path, tmp_path: Path, capsys: Captured) -> None:
    changes = ["first=null", "train.only=[ratings]", "train.attributes=[helpfulness, verbosity]"]
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out"), *(part for change in changes for part in ("--set", change))]) == 0
    said = capsys.readouterr().out.splitlines()
    manifest = read_json(tmp_path / "out" / "checkpoint" / "manifest.json")
    assert said[0].startswith(f"trained on {manifest['pairs']} rated answers for 2 steps")
    for line, name in zip(said[1:3], ("helpfulness", "verbosity"), strict=True):
        value, (low, high) = manifest["ratings"][f"r2_{name}"], manifest["ratings_intervals"][name]
        assert line == f"  {name}: {100 * value:.1f}% of its variance explained on held-out answers ({100 * low:.1f}% to {100 * high:.1f}%)"
    assert said[3] == f"accuracy on the pairs of {manifest['held_out']} held-out rated answers: {100 * manifest['accuracy']:.1f}%"
    assert len(said) == 5


def test_training_on_given_pairs(recipe: Path, make_pairs: Make, tmp_path: Path, capsys: Captured) -> None:
    write_parquet(tmp_path / "given.parquet", make_pairs(16, source="given"))
    changes = ["--set", "first=null", "--set", "train.only=null"]
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out"), "--pairs", str(tmp_path / "given.parquet"), *changes]) == 0
    manifest = read_json(tmp_path / "out" / "checkpoint" / "manifest.json")
    assert manifest["pairs"] + manifest["held_out"] == 16
    assert not (tmp_path / "out" / "read").exists()
    assert f"checkpoint: {tmp_path / 'out' / 'checkpoint'}" in capsys.readouterr().out


def test_given_pairs_leave_out_the_rated_answers_that_the_curation_dropped(tiny_encoder: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 prompts with two answers 5 are dropped, and 3 with a single answer make no pair and stay. No process waits for what another writes."""
    rows = [{"prompt": f"ask {i}?", "response": f"{word} {i}", "helpfulness": rating, "subset": "no" if i < 5 else "yes"} for i in range(20) for word, rating in (("yes", 4), ("no", 1))]
    rows += [{"prompt": f"alone {i}?", "response": "yes", "helpfulness": 3, "subset": "yes"} for i in range(3)]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"model": str(tiny_encoder), "max_length": 96, "max_steps": 2, "batch_size": 8, "validation": 0, "attributes": ["helpfulness"]}
    recipe = {"name": "rated", "sources": [{"path": "ratings.jsonl", "rule": "all"}], "curate": [{"kind": "filter", "column": "subset", "values": ["yes"]}], "train": settings}
    (tmp_path / "rated.yaml").write_text(yaml.safe_dump(recipe))
    plan = ["train", str(tmp_path / "rated.yaml"), "--dry-run", "-o"]
    assert run_app([*plan, str(tmp_path / "curated")]) == 0
    assert capsys.readouterr().out.startswith("33 rows to train on")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_app([*plan, str(tmp_path / "given"), "--pairs", str(tmp_path / "curated" / "curate" / "kept.parquet")]) == 0
    assert capsys.readouterr().out.startswith("33 rows to train on")


def test_an_epoch_from_the_command_line_is_as_many_steps_as_from_python(recipe: Path, make_pairs: Make, tmp_path: Path) -> None:
    """The last step of an epoch, of few pairs, is one too."""
    write_parquet(tmp_path / "given.parquet", make_pairs(20))
    changes = ["first=null", "train.only=null", "train.max_steps=null", "train.epochs=1", "train.batch_size=16", "train.validation=0"]
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out"), "--pairs", str(tmp_path / "given.parquet"), *(part for change in changes for part in ("--set", change))]) == 0
    config = load_recipe(str(recipe), changes)[0].train
    train(make_pairs(20), config, tmp_path / "python")
    assert read_json(tmp_path / "out" / "checkpoint" / "manifest.json")["steps"] == read_json(tmp_path / "python" / "checkpoint" / "manifest.json")["steps"] == 2


def test_soup(checkpoints: list[Path], tmp_path: Path, capsys: Captured) -> None:
    start, *runs = map(str, checkpoints)
    assert run_app(["soup", *runs, "-o", str(tmp_path / "plain")]) == 0
    assert capsys.readouterr().out.splitlines() == [f"the mean of 2: {runs[0]}, {runs[1]}", f"checkpoint: {tmp_path / 'plain'}"]
    assert run_app(["soup", *runs, "-o", str(tmp_path / "far"), "--from", start, "--scale", "1.5"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"the mean of 2: {runs[0]}, {runs[1]}; 1.5 times as far from {start}"
    one, two, base, far = (load_file(Path(f) / "model.safetensors")["classifier.weight"] for f in (*runs, start, tmp_path / "far"))
    torch.testing.assert_close(far, base + 1.5 * ((one + two) / 2 - base))
    assert run_app(["doctor", str(tmp_path / "far")]) == 0


def test_a_greedy_soup_shows_its_decisions(checkpoints: list[Path], make_pairs: Make, tmp_path: Path, capsys: Captured) -> None:
    write_parquet(tmp_path / "choosing.parquet", make_pairs(12))
    arguments = ["soup", *map(str, checkpoints), "--by", str(tmp_path / "choosing.parquet")]
    assert run_app([*arguments, "-o", str(tmp_path / "soup"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert len(about["greedy"]) == 3
    assert about["soup"] == [d["checkpoint"] for d in about["greedy"] if d["taken"]]
    assert about["accuracy_on_choosing_pairs"] >= max(d["accuracy"] for d in about["greedy"])
    assert run_app([*arguments, "-o", str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out
    assert "greedy soup" in shown
    assert shown.count("taken") + shown.count("left out") == 3
    assert f"accuracy on the pairs that chose: {100 * about['accuracy_on_choosing_pairs']:.1f}% (optimistic)" in shown


def test_import(foreign: Callable[[int], Path], tmp_path: Path, capsys: Captured) -> None:
    folder = foreign(1)
    assert run_app(["import", str(folder), "-o", str(tmp_path / "out"), "--max-length", "96"]) == 0
    assert capsys.readouterr().out.splitlines() == ["the head `value_head` is now `score`", f"checkpoint: {tmp_path / 'out'}"]
    assert run_app(["doctor", str(tmp_path / "out")]) == 0


def test_import_of_two_labels_and_of_named_outputs(foreign: Callable[[int], Path], tmp_path: Path, capsys: Captured) -> None:
    folder = str(foreign(2))
    assert run_app(["import", folder, "-o", str(tmp_path / "no"), "--max-length", "96"]) == 2
    assert "Say which label is the better answer with --label 0 or --label 1" in only_line(capsys.readouterr().err)
    assert run_app(["import", folder, "-o", str(tmp_path / "one"), "--max-length", "96", "--label", "1"]) == 0
    assert "two labels became one reward: label 1 minus label 0" in capsys.readouterr().out
    assert run_app(["import", folder, "-o", str(tmp_path / "two"), "--max-length", "96", "--attribute", "help", "--attribute", "verb"]) == 0
    assert contract.read(tmp_path / "two").attributes == ["help", "verb"]


def test_export_says_how_far_the_scores_are_off(checkpoints: list[Path], tmp_path: Path, capsys: Captured) -> None:
    assert run_app(["export", str(checkpoints[1]), "-o", str(tmp_path / "out")]) == 0
    found = re.fullmatch(re.escape(str(tmp_path / "out")) + r": the canaries differ by at most (\S+) from the scores they must get", only_line(capsys.readouterr().out))
    assert found is not None
    assert float(found[1]) < 1e-4
    assert run_app(["doctor", str(tmp_path / "out")]) == 0


def test_an_export_may_not_replace_its_checkpoint_in_a_store(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    assert run_app(["export", "memory://models/one", "-o", "memory://models/one/"]) == 2
    assert only_line(capsys.readouterr().err) == "assay: memory://models/one: writing there would delete the checkpoint it is made from; give another folder"


def test_training_leaves_a_foreign_folder_alone(recipe: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "out" / "checkpoint").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint" / "mine.txt").write_text("precious")
    assert run_app(["train", str(recipe), "-o", str(tmp_path / "out"), "--pairs", str(tmp_path / "made.parquet"), "--set", "first=null"]) == 2
    assert "holds no checkpoint of Assay's" in capsys.readouterr().err
    assert (tmp_path / "out" / "checkpoint" / "mine.txt").read_text() == "precious"


def test_the_doctor_takes_a_hub_id(checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(checkpoints[1]) if name == "owner/name" else None)
    assert run_app(["doctor", "owner/name"]) == 0
    assert "canaries" in capsys.readouterr().out


def test_explain_losses_and_what_stands_with_them(capsys: Captured) -> None:
    def said(topic: str) -> str:
        assert run_app(["explain", topic]) == 0
        return capsys.readouterr().out

    losses = get_args(LossConfig.model_fields["kind"].annotation)
    lines = [line.split(": ", 1) for line in said("losses").splitlines()]
    assert [name for name, _ in lines] == list(losses)
    assert all(len(about) > 10 for _, about in lines)
    for name in losses:
        assert said(name).startswith(dict(lines)[name])
    assert "margin" in said("scaled_bt")
    for topic, model in (("loss", LossConfig), ("lora", LoraConfig)):
        text = said(topic)
        assert all(f"\n{field}: " in text for field in model.model_fields)
    for project in ("OpenRLHF", "LlamaFactory", "ArmoRM", "Two labels"):
        assert project in said("importing")


def mistakes(folder: Path, checkpoints: list[Path], recipe: Path) -> list[tuple[list[str], str]]:
    """Commands that are wrong, and what must be said of each."""
    start, one, two = map(str, checkpoints)
    out = ["-o", str(folder / "out")]
    return [
        (["soup", one, two, *out, "--scale", "1.5"], "--scale goes with --from, the checkpoint that all were trained from"),
        (["soup", one, *out], "a soup needs at least two checkpoints, found 1"),
        (["soup", *out], "a soup needs at least two checkpoints, found 0"),
        (["soup", one, str(folder / "nowhere"), *out], "nowhere: no scoring.json"),
        (["soup", one, two, *out, "--by", str(folder / "nowhere.jsonl")], "nowhere.jsonl: no such file or folder"),
        (["soup", one, two, *out, "--scale", "much", "--from", start], "much"),
        (["soup", one, two], "requires an argument"),
        (["import", str(folder / "nowhere"), *out], "nowhere: no safetensors file"),
        (["import", one, *out, "--attribute", "a", "--attribute", "b"], "the head has 1 outputs, but 2 names are given"),
        (["export", str(folder / "nowhere"), *out], "nowhere: no scoring.json"),
        (["export", one, "-o", one], "which it is made from; give another folder"),
        (["soup", one, two, "-o", two], "which it is made from; give another folder"),
        (["soup", one, two, "--from", start, "-o", start], "which it is made from; give another folder"),
        (["import", one, "-o", one], "which it is made from; give another folder"),
        (["export", one, "-o", str(recipe.parent)], "the folder is not empty and holds no checkpoint of Assay's"),
        (["import", one, "-o", str(recipe.parent)], "the folder is not empty and holds no checkpoint of Assay's"),
        (["soup", one, two, "-o", str(recipe.parent)], "the folder is not empty and holds no checkpoint of Assay's"),
        (["export", one, *out, "--measure", str(recipe)], "--measure goes with --int8"),
        (["train", str(recipe), *out, "--set", "train.only=[mad]"], "there are no rows of the source mad. Did you mean `made`? Sources: made, ratings"),
        (["train", str(recipe), *out, "--set", "train.loss=bradly_terry"], "train.loss.kind"),
        (["train", str(recipe), *out, "--set", "train.loss=scaled_bt", "--dry-run"], "train.loss is scaled_bt, which reads the column `margin`, but no pair has one; use bradley_terry"),
        (["train", str(recipe), *out, "--set", "train.max_length=300", "--dry-run"], "has only 256 positions; set train.max_length to 256 or less"),
        (["explain", "loses"], "nothing is called `loses`. Did you mean `losses`?"),
        (["explain", "scaled"], "nothing is called `scaled`."),
    ]


@pytest.mark.parametrize("number", range(24))
def test_a_mistake_is_one_line_and_exit_code_2(number: int, recipe: Path, checkpoints: list[Path], tmp_path: Path, capsys: Captured) -> None:
    every: list[Any] = mistakes(tmp_path, checkpoints, recipe)
    assert len(every) == 24
    arguments, says = every[number]
    there = sorted([*checkpoints[1].iterdir(), *recipe.parent.iterdir()])
    assert run_app(arguments) == 2
    assert set(there) <= {*checkpoints[1].iterdir(), *recipe.parent.iterdir()}
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("assay: ")
    assert says in last
    assert "Traceback" not in said.err
    assert not (tmp_path / "out" / "checkpoint").exists()
    assert not (tmp_path / "out" / contract.FILE).exists()
