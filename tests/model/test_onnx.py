"""An ONNX export gives the checkpoint's scores, in any batch, and a graph that does not is named."""

import functools
import random
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import polars as pl
import pytest
from safetensors.torch import load_file

from assay.cli import run_app
from assay.errors import AssayError, MissingExtra
from assay.evaluate.contamination import FILE as PROMPTS
from assay.files import MANIFEST, read_json
from assay.model import checkpoint, contract
from assay.model.doctor import examine
from assay.model.onnx import FILE, export, round_to_int8
from assay.pairs.schema import prompt_id
from assay.score.export import export as to_int8
from assay.score.scorer import load_scorer
from assay.train.config import TrainConfig
from assay.train.train import train

KINDS = ["encoder", "decoder", "attributes", "lora"]


def rated(pairs: pl.DataFrame) -> pl.DataFrame:
    """Every answer of ``pairs`` with two ratings."""
    sides = [
        pairs.select("id", "prompt", "weight", response=side).with_columns(attr_help=pl.lit(help_, pl.Float64), attr_verb=pl.col("response").list.first().struct.field("content").str.len_chars().cast(pl.Float64) / 10)
        for side, help_ in (("chosen", 4.0), ("rejected", 0.0))
    ]
    table = pl.concat(sides)
    return table.with_columns(prompt_id=pl.Series([prompt_id(p) for p in table["prompt"]]))


Exports = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def exports(tiny_encoder: Path, tiny_decoder: Path, make_pairs: Callable[..., pl.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Makes, once a kind, a trained checkpoint and its export; do not change them."""
    folder, pairs = tmp_path_factory.mktemp("onnx"), make_pairs(40)
    settings: dict[str, tuple[Path, pl.DataFrame, dict[str, object]]] = {
        "encoder": (tiny_encoder, pairs, {}),
        "decoder": (tiny_decoder, pairs, {}),
        "attributes": (tiny_encoder, rated(pairs), {"attributes": ["help", "verb"], "merge": {"help": 0.8, "verb": -0.3}, "max_steps": 80}),
        "lora": (tiny_decoder, pairs, {"lora": {"rank": 4}}),
    }

    @functools.cache
    def made(kind: str) -> tuple[Path, Path]:
        backbone, rows, more = settings[kind]
        config = TrainConfig.model_validate({"model": str(backbone), "max_length": 96, "max_steps": 4, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32", "validation": 0.2, **more})
        trained = train(rows, config, folder / kind)
        export(trained, folder / f"{kind}-onnx")
        return trained, folder / f"{kind}-onnx"

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_canaries_keep_their_scores(exports: Exports, kind: str) -> None:
    trained, exported = exports(kind)
    reward_model, said = checkpoint.load(exported)
    assert checkpoint.drift(reward_model, said) < 1e-4
    assert said.canaries == contract.read(trained).canaries
    assert said.weights_sha256 != contract.read(trained).weights_sha256


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_finds_nothing_wrong(exports: Exports, kind: str) -> None:
    findings = examine(exports(kind)[1])
    assert [finding for finding in findings if not finding.ok] == []
    assert {"weights", "tokenizer", "pad token", "token ids", "canaries"} <= {finding.check for finding in findings}


def conversations(n: int) -> list[contract.Conversation]:
    """Conversations from one word to longer than the model reads, and an empty answer."""
    rng = random.Random(0)
    made = [[{"role": "user", "content": "ask " * rng.randint(1, 20)}, {"role": "assistant", "content": "yes " * rng.randint(0, 8)}] for _ in range(n)]
    return [*made, *contract.canary_conversations(96)]


@pytest.mark.parametrize("runtime", ["", "openvino:"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_uneven_length_give_the_checkpoints_scores(exports: Exports, kind: str, runtime: str) -> None:
    trained, exported = exports(kind)
    expected = load_scorer(trained, precision="fp32", tokens_per_batch=10_000).score(conversations(30))
    assert load_scorer(f"{runtime}{exported}", precision="bf16").precision == ("bf16" if runtime else "fp32")  # type: ignore[attr-defined]
    for tokens in (1, 400, 10_000):
        scorer = load_scorer(f"{runtime}{exported}", precision="fp32", tokens_per_batch=tokens)
        found = scorer.score(conversations(30))
        assert found.values == pytest.approx(expected.values, abs=1e-4)
        assert found.truncated.tolist() == expected.truncated.tolist()
        assert scorer.attributes == (("reward", "help", "verb") if kind == "attributes" else ("reward",))
    assert 0 < expected.truncated.sum() < 38


def test_an_export_holds_a_graph_a_tokenizer_and_a_contract(exports: Exports) -> None:
    trained, exported = exports("decoder")
    names = {path.name for path in exported.iterdir()}
    assert {FILE, contract.FILE, MANIFEST, "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", PROMPTS} == names
    assert read_json(exported / MANIFEST) == {"contract": contract.FILE, "exported_from": str(trained), "format": "onnx"}
    graph = onnx.load(exported / FILE).graph
    assert [one.name for one in graph.input] == ["input_ids", "attention_mask"]
    assert [one.name for one in graph.output] == ["logits"]
    assert all(dimension.dim_param for one in graph.input for dimension in one.type.tensor_type.shape.dim)


@pytest.mark.parametrize("kind", ["encoder", "attributes"])
def test_weights_in_int8_have_a_contract_of_their_own(exports: Exports, kind: str, make_pairs: Callable[..., pl.DataFrame], tmp_path: Path) -> None:
    """Scores are those of the rounded weights, whatever the company, and what the rounding costs is measured."""
    trained, rounded, pairs = exports(kind)[0], tmp_path / "int8", tmp_path / "pairs.parquet"
    make_pairs(25).write_parquet(pairs)
    lines = to_int8(trained, rounded, str(pairs))
    said = contract.read(rounded)
    assert (said.rounded, said.weights_sha256) == ("int8", contract.weights_sha256(rounded))
    moved = max(abs(a.score - b.score) for a, b in zip(said.canaries, contract.read(trained).canaries, strict=True))
    assert said.tolerance == pytest.approx(max(1e-4, moved))
    assert not [finding for finding in examine(rounded) if not finding.ok]
    assert load_scorer(rounded).precision == "int8"  # type: ignore[attr-defined]
    few, many = (load_scorer(rounded, tokens_per_batch=tokens).score(conversations(20)).values for tokens in (1, 10_000))
    assert (few == many).all()
    before = load_scorer(trained, precision="fp32").score(conversations(20)).values
    cost = read_json(rounded / MANIFEST)["rounding"]
    assert 0 < abs(few - before).max() < 20 * cost["largest"]
    assert cost["pairs"] == 25
    assert 0 < cost["typical"] <= cost["largest"]
    assert len(lines) == 3
    assert not (rounded / FILE).exists()


def test_the_command_asks_what_the_rounding_is_measured_on(exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["export", str(exports("encoder")[0]), "-o", str(tmp_path / "out"), "--int8"]) == 2
    assert "--measure DATA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_rounding_that_fails_leaves_what_was_there(exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, out = exports("encoder")[0], Path(shutil.copytree(exports("encoder")[1], tmp_path / "out"))
    with pytest.raises(AssayError, match="nowhere"):
        to_int8(before, out, str(tmp_path / "nowhere.jsonl"))
    assert (contract.read(out), sorted(path.name for path in tmp_path.iterdir())) == (contract.read(exports("encoder")[1]), ["out"])
    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", lambda *_, **__: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        round_to_int8(exports("encoder")[1], out)
    assert (out / FILE).is_file()


def copy_of(exports: Exports, kind: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exports(kind)[1], tmp_path / kind))


def test_the_graph_of_another_model_is_named(exports: Exports, tmp_path: Path) -> None:
    folder = copy_of(exports, "decoder", tmp_path)
    shutil.copy(exports("lora")[1] / FILE, folder / FILE)
    with pytest.raises(AssayError, match=r"a canary differs by .*: weights: .* Run `assay doctor"):
        load_scorer(folder)
    assert {finding.check for finding in examine(folder) if not finding.ok} == {"weights", "canaries"}


def test_flipped_signs_in_the_graph_are_named(exports: Exports, tmp_path: Path) -> None:
    folder = copy_of(exports, "encoder", tmp_path)
    head = load_file(exports("encoder")[0] / "model.safetensors")["classifier.weight"].numpy().tobytes()
    graph = (folder / FILE).read_bytes()
    assert graph.count(head) == 1
    (folder / FILE).write_bytes(graph.replace(head, bytes(byte ^ 0x80 if i % 4 == 3 else byte for i, byte in enumerate(head))))
    with pytest.raises(AssayError, match=r"a canary differs by .*: weights: .* Run `assay doctor"):
        load_scorer(folder)
    assert {finding.check for finding in examine(folder) if not finding.ok} == {"weights", "canaries"}


def test_what_has_no_contract_is_not_exported(tiny_decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"no scoring\.json"):
        export(tiny_decoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_the_extra_is_named_where_it_cannot_be_exported(exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r'exporting to ONNX needs .* pip install "assay\[onnx\]"'):
        export(exports("encoder")[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_extra_is_named_where_it_cannot_be_run(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r'scoring with an ONNX export needs .* pip install "assay\[onnx\]"'):
        load_scorer(exports("encoder")[1])


def test_openvino_runs_exports_alone_and_names_its_scores(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, exported = exports("encoder")
    assert load_scorer(f"openvino:{exported}", precision="fp32").fingerprint != load_scorer(exported, precision="fp32").fingerprint  # type: ignore[attr-defined]
    with pytest.raises(AssayError, match="OpenVINO runs an ONNX export, which this is not; make one with `assay export"):
        load_scorer(f"openvino:{trained}")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"assay\[openvino\]"):
        load_scorer(f"openvino:{exported}")


def test_openvino_answers_several_threads_at_once(exports: Exports) -> None:
    scorer = load_scorer(f"openvino:{exports('decoder')[1]}", precision="fp32")
    talks = conversations(20)
    wanted = scorer.score(talks).values
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: scorer.score(talks).values, range(16)):
            assert found == pytest.approx(wanted, abs=1e-5)
