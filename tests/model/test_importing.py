"""Reward models as other projects save them: after the import they give the numbers that their weights give in plain torch, and what was changed is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    Olmo2Config,
    SmolLM3Config,
)

import tiny
from assay.errors import AssayError
from assay.files import MANIFEST, read_json
from assay.model import checkpoint, contract
from assay.model.doctor import examine
from assay.model.importing import import_model
from assay.model.reward_model import from_backbone
from assay.score.scorer import load_scorer
from assay.train.config import TrainConfig
from assay.train.train import train

LENGTH = 96
CONVERSATIONS = contract.canary_conversations(LENGTH)
WIDE = 32
Foreign = Callable[..., Path]


def head_of(rows: int) -> Tensor:
    torch.manual_seed(rows)
    return torch.randn(rows, WIDE)


@pytest.fixture
def foreign(tiny_decoder: Path, tmp_path: Path) -> Foreign:
    """Writes a causal model's folder with a head of another project; its pad token is its eos."""

    def write(head: dict[str, Tensor], *, apart: str | None = None, prefix: str = "model.", **settings: Any) -> Path:
        folder = Path(shutil.copytree(tiny_decoder, tmp_path / "foreign"))
        backbone = {prefix + name: weight for name, weight in load_file(folder / "model.safetensors").items()}
        save_file(backbone if apart else {**backbone, **head}, folder / "model.safetensors", metadata={"format": "pt"})
        if apart:
            save_file(head, folder / apart, metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"], **settings}))
        return folder

    return write


def plain(backbone: Path, imported: Path, head: Tensor, bias: Tensor | None = None) -> np.ndarray[Any, Any]:
    """What the head gives in plain torch for the last token of each conversation, [n, k]; the token ids are those of ``imported``."""
    model = AutoModel.from_pretrained(backbone, dtype=torch.float32).eval()
    ids, cut = checkpoint.load(imported)[0].encode(CONVERSATIONS)
    assert 0 < sum(cut) < len(ids)
    with torch.inference_mode():
        last = torch.cat([model(torch.tensor([one])).last_hidden_state[:, -1] for one in ids])
        return torch.nn.functional.linear(last, head, bias).numpy()


def scores(folder: Path) -> np.ndarray[Any, Any]:
    return load_scorer(folder, precision="fp32").score(CONVERSATIONS).values


def is_well(folder: Path) -> bool:
    return all(finding.ok for finding in examine(folder))


@pytest.mark.parametrize("name", ["value_head", "score", "reward_head"])
def test_openrlhf(foreign: Foreign, tiny_decoder: Path, tmp_path: Path, name: str) -> None:
    head = head_of(1)
    folder = foreign({f"{name}.weight": head}, num_labels=2, architectures=["RewardModel"], auto_map={"AutoModel": "modeling.RewardModel"})
    said = import_model(folder, tmp_path / "out", max_length=LENGTH)
    assert said == [*([f"the head `{name}` is now `score`"] if name != "score" else []), "config.json said 2 labels, the head has 1"]
    assert scores(tmp_path / "out") == pytest.approx(plain(tiny_decoder, tmp_path / "out", head), abs=1e-5)
    assert is_well(tmp_path / "out")
    manifest = read_json(tmp_path / "out" / MANIFEST)
    assert (manifest["imported_from"], manifest["changes"]) == (str(folder), said)
    config = read_json(tmp_path / "out" / "config.json")
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert "auto_map" not in config
    assert config["id2label"] == {"0": "reward"}


def test_openrlhf_says_that_rewards_are_not_normalised_any_more(foreign: Foreign, tiny_decoder: Path, tmp_path: Path) -> None:
    head = head_of(1)
    said = import_model(foreign({"value_head.weight": head}, mean=0.5, std=2.0), tmp_path / "out", max_length=LENGTH)
    assert "rewards are not normalised any more (mean 0.5, std 2.0 were in config.json)" in said
    assert scores(tmp_path / "out") == pytest.approx(plain(tiny_decoder, tmp_path / "out", head), abs=1e-5)


@pytest.mark.parametrize("prefix", ["model.", "pretrained_model.model."])
def test_llamafactory(foreign: Foreign, tiny_decoder: Path, tmp_path: Path, prefix: str) -> None:
    head, bias = head_of(1), torch.tensor([0.75])
    folder = foreign({"v_head.summary.weight": head, "v_head.summary.bias": bias}, apart="value_head.safetensors", prefix=prefix)
    weights = load_file(folder / "model.safetensors")
    outer = prefix.removesuffix("model.")
    save_file({**weights, f"{outer}lm_head.weight": torch.randn(258, WIDE)}, folder / "model.safetensors", metadata={"format": "pt"})
    said = import_model(folder, tmp_path / "out", max_length=LENGTH)
    assert said[0] == "the head `v_head.summary` is now `score`"
    assert said[1].startswith("the head's bias (0.75) is left out")
    assert said[2] == f"left out, as no part of a reward: {(outer + 'lm_head').split('.')[0]}"
    assert len(said) == 3
    expected, found = plain(tiny_decoder, tmp_path / "out", head, bias), scores(tmp_path / "out")
    assert found - found[0] == pytest.approx(expected - expected[0], abs=1e-5)
    assert found == pytest.approx(expected - 0.75, abs=1e-5)
    assert is_well(tmp_path / "out")


def test_a_bias_of_zero_is_not_worth_a_word(foreign: Foreign, tiny_decoder: Path, tmp_path: Path) -> None:
    head = head_of(1)
    folder = foreign({"v_head.summary.weight": head, "v_head.summary.bias": torch.zeros(1)}, apart="value_head.safetensors")
    assert import_model(folder, tmp_path / "out", max_length=LENGTH) == ["the head `v_head.summary` is now `score`"]
    assert scores(tmp_path / "out") == pytest.approx(plain(tiny_decoder, tmp_path / "out", head), abs=1e-5)


def test_armorm(foreign: Foreign, tiny_decoder: Path, tmp_path: Path) -> None:
    head, names = head_of(3), ["helpfulness", "honesty", "verbosity"]
    gating = {"gating.layers.0.weight": torch.randn(8, WIDE), "gating.layers.0.bias": torch.randn(8), "gating.temperature": torch.tensor([10.0])}
    folder = foreign({"regression_layer.weight": head, **gating}, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    said = import_model(folder, tmp_path / "out", attributes=names, max_length=LENGTH)
    assert said == ["the head `regression_layer` is now `score`", "left out, as no part of a reward: gating"]
    expected = plain(tiny_decoder, tmp_path / "out", head)
    assert scores(tmp_path / "out")[:, 1:] == pytest.approx(expected, abs=1e-5)
    assert scores(tmp_path / "out")[:, 0] == pytest.approx(expected.mean(axis=1), abs=1e-5)
    assert load_scorer(tmp_path / "out").attributes == ("reward", *names)
    assert contract.read(tmp_path / "out").merge == pytest.approx(dict.fromkeys(names, 1 / 3))
    assert is_well(tmp_path / "out")


def test_of_two_labels_one_must_be_said_to_be_the_reward(foreign: Foreign, tiny_decoder: Path, tmp_path: Path) -> None:
    head, bias = head_of(2), torch.tensor([0.25, -0.5])
    folder = foreign({"score.weight": head, "score.bias": bias}, id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    for label in (None, 2, -1):
        with pytest.raises(AssayError, match="the head has two labels, so it is a classifier, not one reward. Say which label is the better answer with --label 0 or --label 1"):
            import_model(folder, tmp_path / "no", label=label, max_length=LENGTH)
    assert not (tmp_path / "no").exists()
    found = []
    for label in (0, 1):
        said = import_model(folder, tmp_path / str(label), label=label, max_length=LENGTH)
        assert said[0] == f"two labels became one reward: label {label} minus label {1 - label}"
        assert said[1].startswith(f"the head's bias ({'0.75' if label == 0 else '-0.75'}) is left out")
        assert said[2:] == ["config.json said 2 labels, the head has 1"]
        assert is_well(tmp_path / str(label))
        found.append(scores(tmp_path / str(label)))
    assert found[0] == pytest.approx(-found[1], abs=1e-5)
    logits = plain(tiny_decoder, tmp_path / "1", head, bias)
    expected = logits[:, 1:] - logits[:, :1]
    assert found[1] - found[1][0] == pytest.approx(expected - expected[0], abs=1e-5)
    probability = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    assert np.log(probability / (1 - probability)) - found[1][:, 0] == pytest.approx(np.full(8, -0.75), abs=1e-4)


def test_two_named_outputs_are_not_two_labels(foreign: Foreign, tiny_decoder: Path, tmp_path: Path) -> None:
    head = head_of(2)
    assert import_model(foreign({"score.weight": head}), tmp_path / "out", attributes=["helpfulness", "verbosity"], max_length=LENGTH) == []
    assert scores(tmp_path / "out")[:, 1:] == pytest.approx(plain(tiny_decoder, tmp_path / "out", head), abs=1e-5)


def test_half_precision_in_several_files(foreign: Foreign, tiny_decoder: Path, tmp_path: Path) -> None:
    head = head_of(1).to(torch.bfloat16)
    folder = foreign({"value_head.weight": head})
    every = {name: weight.to(torch.bfloat16) for name, weight in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(every)
    for part, some in enumerate((names[:5], names[5:])):
        save_file({name: every[name] for name in some}, folder / f"model-0000{part + 1}-of-00002.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}))
    import_model(folder, tmp_path / "out", max_length=LENGTH)
    rounded = Path(shutil.copytree(tiny_decoder, tmp_path / "rounded"))
    save_file({name.removeprefix("model."): weight.float() for name, weight in every.items() if "head" not in name}, rounded / "model.safetensors", metadata={"format": "pt"})
    assert scores(tmp_path / "out") == pytest.approx(plain(rounded, tmp_path / "out", head.float()), abs=1e-5)
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}
    assert is_well(tmp_path / "out")


def test_a_trained_model_comes_back_from_a_foreign_form(tiny_decoder: Path, make_pairs: Callable[..., pl.DataFrame], tmp_path: Path) -> None:
    config = TrainConfig(model=str(tiny_decoder), max_length=LENGTH, max_steps=4, batch_size=8, learning_rate=3e-3, precision="fp32", validation=0)
    trained = train(make_pairs(32), config, tmp_path / "run")
    folder = Path(shutil.copytree(trained, tmp_path / "foreign"))
    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / contract.FILE).unlink()
    import_model(folder, tmp_path / "out", max_length=LENGTH)
    assert [c.score for c in contract.read(tmp_path / "out").canaries] == pytest.approx([c.score for c in contract.read(trained).canaries], abs=1e-6)
    assert [c.ids_sha256 for c in contract.read(tmp_path / "out").canaries] == [c.ids_sha256 for c in contract.read(trained).canaries]


def test_no_head_and_two_heads(foreign: Foreign, tmp_path: Path) -> None:
    folder = foreign({"lm_head.weight": torch.randn(258, WIDE), "my_head.weight": head_of(1)})
    with pytest.raises(AssayError, match=r"no head among its weights .*small matrices there: .*my_head\.weight\. .*train it again"):
        import_model(folder, tmp_path / "out")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "score.weight": head_of(1), "value_head.weight": head_of(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssayError, match="several heads among its weights: score, value_head; delete"):
        import_model(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign"]


def test_a_pickle_is_not_opened(foreign: Foreign, tmp_path: Path) -> None:
    folder = foreign({"value_head.weight": head_of(1)})
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(AssayError, match=r"no safetensors file; pytorch_model\.bin is a pickle, which can run code when it is opened"):
        import_model(folder, tmp_path / "out")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(AssayError, match="foreign: no safetensors file$"):
        import_model(folder, tmp_path / "out")
    with pytest.raises(AssayError, match="nowhere: no safetensors file$"):
        import_model(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(("rows", "names", "says"), [(3, ["reward"], "the head has 3 outputs, but 1 name is given"), (3, ["a", "b"], "the head has 3 outputs, but 2 names are given; name each with --attribute"), (1, ["a", "b"], "the head has 1 outputs, but 2 names")])
def test_as_many_attributes_as_the_head_has_rows(foreign: Foreign, tmp_path: Path, rows: int, names: list[str], says: str) -> None:
    with pytest.raises(AssayError, match=says):
        import_model(foreign({"regression_layer.weight": head_of(rows)}), tmp_path / "out", attributes=names, max_length=LENGTH)
    assert not (tmp_path / "out").exists()


def test_longer_than_the_model_is_refused(foreign: Foreign, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="only 512 positions"):
        import_model(foreign({"value_head.weight": head_of(1)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def classifier(backbone: Path, folder: Path, labels: int) -> Path:
    """An encoder as transformers saves it with a head of so many labels, its bias included."""
    torch.manual_seed(labels)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=labels)
    torch.nn.init.normal_(model.classifier.bias)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("labels", "label"), [(1, None), (2, 0), (2, 1)])
def test_an_encoder_keeps_its_head_and_its_bias(labels: int, label: int | None, tiny_encoder: Path, tmp_path: Path) -> None:
    given = classifier(tiny_encoder, tmp_path / "given", labels)
    said = import_model(given, tmp_path / "imported", label=label, max_length=LENGTH)
    assert any("it had no chat template" in line for line in said)
    assert not any("bias" in line for line in said)
    ids, _ = checkpoint.load(tmp_path / "imported")[0].encode(CONVERSATIONS)
    model = AutoModelForSequenceClassification.from_pretrained(given).eval()
    with torch.inference_mode():
        logits = torch.cat([model(torch.tensor([one])).logits for one in ids]).numpy()
    wanted = logits[:, 0] if label is None else logits[:, label] - logits[:, 1 - label]
    np.testing.assert_allclose(load_scorer(tmp_path / "imported", precision="fp32").score(CONVERSATIONS).values[:, 0], wanted, atol=1e-5)


def test_a_backbone_without_a_head_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no head among its weights"):
        import_model(tiny_encoder, tmp_path / "imported", max_length=LENGTH)


@pytest.mark.parametrize(("kind", "settings"), [(GPT2Config, {"n_embd": WIDE, "n_layer": 2, "n_head": 4, "n_positions": 512}), (Olmo2Config, {}), (SmolLM3Config, {})])
def test_any_decoder_that_transformers_makes_a_classifier_of(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    tiny.backbone(tmp_path / "backbone", kind, **settings)
    head = head_of(1)
    folder = Path(shutil.copytree(tmp_path / "backbone", tmp_path / "foreign"))
    save_file({**load_file(folder / "model.safetensors"), "value_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    assert import_model(folder, tmp_path / "out", max_length=LENGTH)[0] == "the head `value_head` is now `score`"
    assert scores(tmp_path / "out") == pytest.approx(plain(tmp_path / "backbone", tmp_path / "out", head), abs=1e-5)


@pytest.mark.parametrize(("name", "apart"), [("value_head", None), ("v_head.summary", None), ("regression_layer", None), ("v_head.summary", "value_head.safetensors")])
def test_a_trained_head_of_another_name_is_not_passed_over_by_training(foreign: Foreign, name: str, apart: str | None) -> None:
    folder = foreign({f"{name}.weight": head_of(1)}, apart=apart)
    with pytest.raises(AssayError, match=r"holds a trained head under another name .* assay import"):
        from_backbone(str(folder), LENGTH, 0)
