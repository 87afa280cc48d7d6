"""The model card: its snippet, run as it stands, prints the score that the contract holds, and its figures are those of the manifest."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import polars as pl
import pytest

from assay.cli import run_app
from assay.errors import AssayError
from assay.files import MANIFEST, read_json
from assay.model import checkpoint, contract
from assay.model.reward_model import from_backbone
from assay.pairs.schema import prompt_id
from assay.report.card import FILE, model_card, push
from assay.train.config import TrainConfig
from assay.train.train import train

KINDS = ["encoder", "decoder", "attributes", "length_head"]


def rated(pairs: pl.DataFrame) -> pl.DataFrame:
    """The answers of ``pairs``, the better one with the better rating."""
    sides = [pairs.select("id", "prompt", "weight", response=side).with_columns(attr_help=pl.lit(help_), attr_verb=pl.lit(verb)) for side, help_, verb in (("chosen", 4.0, 1.0), ("rejected", 0.0, 2.0))]
    table = pl.concat(sides)
    return table.with_columns(prompt_id=pl.Series([prompt_id(p) for p in table["prompt"]]))


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tiny_decoder: Path, make_pairs: Callable[..., pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained checkpoint of each kind; do not change them."""
    pairs = make_pairs(50)

    def made(kind: str, backbone: Path, rows: pl.DataFrame, **more: object) -> Path:
        config = TrainConfig.model_validate({"model": str(backbone), "max_length": 96, "max_steps": 8, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0.3, **more})
        return train(rows, config, tmp_path_factory.mktemp(f"card-{kind}"))

    return {
        "encoder": made("encoder", tiny_encoder, pairs),
        "decoder": made("decoder", tiny_decoder, pairs, max_length=40),
        "attributes": made("attributes", tiny_encoder, rated(pairs), attributes=["help", "verb"]),
        "length_head": made("length_head", tiny_encoder, pairs, loss={"kind": "hinge", "length_head": 1.0}),
    }


def snippet(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return str(code)


@pytest.mark.parametrize("kind", ["encoder", "decoder", "attributes"])
def test_the_snippet_of_an_export_prints_it_too(trained: dict[str, Path], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["export", str(trained[kind]), "-o", str(tmp_path / "onnx")]) == 0
    capsys.readouterr()
    exec(snippet((tmp_path / "onnx" / FILE).read_text()), {})
    assert float(capsys.readouterr().out) == pytest.approx(contract.read(trained[kind]).canaries[0].score, abs=1e-4)
    assert 'snapshot_download("me/model")' in model_card(tmp_path / "onnx", "me/model")


@pytest.mark.parametrize("kind", KINDS)
def test_the_snippet_prints_the_score_of_the_first_canary(trained: dict[str, Path], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    score = contract.read(trained[kind]).canaries[0].score
    code = snippet((trained[kind] / FILE).read_text())
    exec(code, {})
    printed = capsys.readouterr().out.strip()
    assert re.fullmatch(r"-?\d+\.\d{4}", printed)
    assert float(printed) == pytest.approx(score, abs=0.9e-4)
    assert code.rstrip().endswith(f"# {score:.4f}")
    assert "assay" not in code.replace(str(trained[kind]), "")


def test_the_snippet_stands_alone(trained: dict[str, Path]) -> None:
    code = snippet((trained["decoder"] / FILE).read_text())
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(contract.read(trained["decoder"]).canaries[0].score, abs=0.9e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_those_of_the_manifest(trained: dict[str, Path], kind: str) -> None:
    card, said, manifest = (trained[kind] / FILE).read_text(), contract.read(trained[kind]), read_json(trained[kind] / MANIFEST)
    assert card == model_card(trained[kind])
    what = "rated answers" if kind == "attributes" else "pairs"
    assert f"| {what} | {manifest['pairs']}, and {manifest['held_out']} held out by prompt |" in card
    assert manifest["pairs"] + manifest["held_out"] == (100 if kind == "attributes" else 50)
    assert f"| accuracy on held-out pairs | {100 * manifest['accuracy']:.1f}% |" in card
    assert f"| steps | {manifest['steps']} of 8, learning rate 0.003 |" in card
    assert f"| longest conversation | {said.max_length} tokens; longer ones lose their beginning ({manifest['truncated_pairs']} did) |" in card
    assert said.temperature is None  # too few pairs are held out
    assert "sigmoid(difference" not in card
    assert said.std is not None
    assert f"On `validation` rewards have the mean {said.mean:.3f} and the standard deviation {said.std:.3f}." in card
    loss = {"attributes": "squared error of the ratings", "length_head": "hinge"}.get(kind, "bradley_terry")
    assert f"| loss | {loss} |" in card
    assert ("weighted sum of the outputs" in card) == (kind in ("attributes", "length_head"))
    assert manifest["truncated_pairs"] > 0 or kind != "decoder"


def test_the_temperature_is_told_where_there_is_one(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained["encoder"], tmp_path / "copy"))
    contract.write(folder, contract.read(folder).model_copy(update={"temperature": 0.25}))
    assert "sigmoid(difference / 0.250), fitted there." in model_card(folder)


def test_the_weights_of_the_outputs_are_told(trained: dict[str, Path]) -> None:
    weights = contract.read(trained["attributes"]).weights
    assert f"help ({weights['help']:.3f}), verb ({weights['verb']:.3f})." in (trained["attributes"] / FILE).read_text()
    assert "quality (1.000), length (0.000)." in (trained["length_head"] / FILE).read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_markdown_is_whole(trained: dict[str, Path], kind: str) -> None:
    card = (trained[kind] / FILE).read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "{{" not in card
    assert "{%" not in card
    for heading in ("## A score, with plain transformers", "## What a score means", "## Training"):
        assert f"\n{heading}\n\n" in card
    assert re.search(r"\n\n\| \| \|\n\|---\|---\|\n(\| .+ \| .+ \|\n){4,5}\Z", card)


def test_what_was_not_trained_here_has_a_card_too(tiny_encoder: Path, tmp_path: Path) -> None:
    checkpoint.save(from_backbone(str(tiny_encoder), 96, 0), tmp_path / "soup", manifest={"soup": ["a", "b"]})
    card = model_card(tmp_path / "soup", "me/soup")
    assert "\n# me/soup\n" in card
    assert "from `other checkpoints`" in card
    assert 'from_pretrained("me/soup"' in card
    assert "See `manifest.json`." in card
    assert "sigmoid(" not in card


def test_no_card_without_a_contract(tiny_encoder: Path) -> None:
    with pytest.raises(AssayError, match=r"no scoring\.json"):
        model_card(tiny_encoder)
    with pytest.raises(AssayError, match=r"no scoring\.json"):
        push(tiny_encoder, "me/model")


def test_push_uploads_a_card_that_names_the_repository(trained: dict[str, Path], tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, done = tmp_path / "model", []
    checkpoint.save(from_backbone(str(tiny_encoder), 96, 0), folder)

    class Hub:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            if repository == "not/mine":
                raise OSError("403 Forbidden\nand more")
            done.append((repository, private))

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            done.append((repo_id, folder_path))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push(folder, "me/model") == "https://hub/me/model"
    assert done == [("me/model", True), ("me/model", folder)]
    assert 'from_pretrained("me/model"' in (folder / FILE).read_text()
    with pytest.raises(AssayError, match=r"not/mine: the hub refused \(403 Forbidden\); is there a token \(`hf auth login`\)\?$"):
        push(folder, "not/mine")
