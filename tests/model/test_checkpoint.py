"""One score everywhere: a checkpoint gives the same reward to Assay and to plain transformers, whatever the batch, and a broken contract is named."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assay.errors import AssayError
from assay.model import checkpoint, contract
from assay.model.doctor import Finding, examine
from assay.model.reward_model import from_backbone, from_checkpoint
from assay.score.checkpoint import score_with
from assay.train.config import TrainConfig
from assay.train.train import train

KINDS = ["encoder", "decoder"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_decoder: Path, make_pairs: Callable[..., pl.DataFrame]) -> dict[str, Path]:
    """A trained tiny checkpoint of each kind; do not change it, copy it."""
    made = {}
    for kind, backbone in (("encoder", tiny_encoder), ("decoder", tiny_decoder)):
        config = TrainConfig(model=str(backbone), max_length=96, max_steps=8, batch_size=8, learning_rate=3e-3, precision="fp32", validation=0.1)
        made[kind] = train(make_pairs(64), config, tmp_path_factory.mktemp(f"trained-{kind}"))
    return made


@pytest.fixture
def copy_of(trained: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of a trained checkpoint that may be broken."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(trained[kind], tmp_path / kind))

    return copy


def plain(folder: Path, conversations: list[contract.Conversation], batch: int, side: str) -> list[float]:
    """Scores by transformers alone, in batches of ``batch``, padded on ``side``."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    said = contract.read(folder)
    texts = [tokenizer.apply_chat_template(c, tokenize=False) for c in conversations]
    scores: list[float] = []
    with torch.inference_mode():
        for i in range(0, len(texts), batch):
            ids = tokenizer(texts[i : i + batch], padding=True, truncation=True, max_length=said.max_length, add_special_tokens=said.add_special_tokens, return_tensors="pt")
            scores += [float(x) for x in model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits[:, 0]]
    return scores


@pytest.mark.parametrize(("kind", "side"), [("encoder", "right"), ("decoder", "right"), ("decoder", "left")])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_plain_transformers_gives_the_golden_scores(trained: dict[str, Path], kind: str, side: str, batch: int) -> None:
    said = contract.read(trained[kind])
    order = list(range(8))
    random.Random(batch).shuffle(order)
    scores = plain(trained[kind], [said.canaries[i].conversation for i in order], batch, side)
    assert scores == pytest.approx([said.canaries[i].score for i in order], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_score_does_not_depend_on_batch_order_or_company(trained: dict[str, Path], kind: str) -> None:
    reward_model, said = checkpoint.load(trained[kind])
    conversations = [c.conversation for c in said.canaries] * 2
    golden = [c.score for c in said.canaries] * 2
    for tokens in (1, 100, 10_000):
        scores = score_with(reward_model, conversations, "fp32", tokens)
        assert scores.values[:, 0].tolist() == pytest.approx(golden, abs=1e-5)
        assert scores.truncated.tolist() == [c.tokens == said.max_length for c in said.canaries] * 2
        assert scores.truncated[7]
    assert score_with(reward_model, conversations[::-1], "fp32", 300).values[::-1, 0].tolist() == pytest.approx(golden, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_is_standard(trained: dict[str, Path], kind: str) -> None:
    folder = trained[kind]
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["problem_type"] == "regression"
    assert list(config["id2label"].values()) == ["reward"]
    assert tokenizer["pad_token"] != tokenizer.get("eos_token")
    assert (tokenizer["padding_side"], tokenizer["truncation_side"]) == ("right", "left")
    weights = load_file(folder / "model.safetensors")
    assert ("score.weight" if kind == "decoder" else "classifier.weight") in weights
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.pt"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_head_is_never_drawn_anew(trained: dict[str, Path], kind: str) -> None:
    head = "score.weight" if kind == "decoder" else "classifier.weight"
    saved = load_file(trained[kind] / "model.safetensors")[head]
    again = from_backbone(str(trained[kind]), 96, seed=123).model.state_dict()[head]
    assert torch.equal(saved, again)


def test_a_lost_head_is_an_error(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssayError, match=r"weights are missing: score\.weight"):
        from_checkpoint(folder, 96, False)
    assert "loads" in wrong(examine(folder))


def test_two_labels_are_an_error(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    edit(folder / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(AssayError, match="2 labels"):
        from_checkpoint(folder, 96, False)
    wide = load_file(folder / "model.safetensors")
    wide["score.weight"] = torch.zeros(2, wide["score.weight"].shape[1])
    save_file(wide, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssayError, match="another number of labels than the 1 asked for"):
        from_backbone(str(folder), 96, 0)


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def wrong(findings: list[Finding]) -> set[str]:
    """What the doctor found wrong."""
    return {f.check for f in findings if not f.ok}


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_finds_nothing_wrong_with_a_good_checkpoint(trained: dict[str, Path], kind: str) -> None:
    findings = examine(trained[kind])
    assert wrong(findings) == set()
    assert {"weights", "tokenizer", "chat template", "pad token", "canaries", "plain transformers"} <= {f.check for f in findings}


def test_the_doctor_names_changed_weights(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("encoder")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert wrong(examine(folder)) == {"weights", "head", "canaries", "plain transformers"}
    with pytest.raises(AssayError, match="weights: .*Run `assay doctor"):
        checkpoint.load(folder)


def test_the_doctor_names_pad_equal_to_eos(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    edit(folder / "tokenizer_config.json", pad_token="<|im_end|>")
    assert "pad token" in wrong(examine(folder))


def test_the_doctor_names_a_sigmoid(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("encoder")
    edit(folder / "config.json", problem_type=None)
    assert wrong(examine(folder)) == {"activation"}


def test_the_doctor_names_another_template(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("{% for", "Today is a good day. {% for", 1))
    assert {"chat template", "token ids", "canaries"} <= wrong(examine(folder))


def test_the_doctor_names_a_dated_template(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    template = folder / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + template.read_text())
    assert "dated template" in wrong(examine(folder))


def test_the_doctor_names_truncation_on_the_wrong_side(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("decoder")
    edit(folder / "tokenizer_config.json", truncation_side="right")
    assert wrong(examine(folder)) == {"truncation side", "plain transformers"}


@pytest.mark.parametrize(("change", "says"), [({"add_special_tokens": False}, "special tokens are missing"), ({"max_length": 128}, "truncated at 128 tokens instead of 96")])
def test_the_doctor_explains_other_token_ids(copy_of: Callable[[str], Path], change: dict[str, object], says: str) -> None:
    folder = copy_of("encoder")
    edit(folder / contract.FILE, **change)
    found = {f.check: f for f in examine(folder)}
    assert not found["token ids"].ok
    assert says in found["token ids"].detail


def test_a_damaged_contract_is_one_clear_error(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("encoder")
    edit(folder / contract.FILE, canaries="none")
    with pytest.raises(AssayError, match=r"scoring\.json: damaged at canaries"):
        checkpoint.load(folder)
    (folder / contract.FILE).unlink()
    with pytest.raises(AssayError, match=r"no scoring\.json"):
        checkpoint.load(folder)
