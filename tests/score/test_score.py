"""The scorers and the verb ``score``."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from assay.cli import run_app
from assay.errors import AssayError
from assay.score.bulk import score_file
from assay.score.checkpoint import CheckpointScorer, score_with
from assay.score.scorer import load_scorer
from assay.train.config import TrainConfig
from assay.train.train import train


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, make_pairs: Callable[..., pl.DataFrame]) -> Path:
    config = TrainConfig(model=str(tiny_encoder), max_length=96, max_steps=4, batch_size=8, learning_rate=3e-3, precision="fp32")
    return train(make_pairs(40), config, tmp_path_factory.mktemp("scored"))


def test_specs_that_name_nothing(tmp_path: Path) -> None:
    for spec, message in [
        ("rule:lenght", "unknown rule `rule:lenght`. Did you mean `rule:length`? Known: rule:length"),
        (str(tmp_path), f"{tmp_path}: no scoring.json; this checkpoint was not made by Assay, or the file was lost"),
        ("nowhere", "nowhere: no such folder, and not a hub id or a rule"),
    ]:
        with pytest.raises(AssayError) as error:
            load_scorer(spec)
        assert str(error.value) == message
    with pytest.raises(AssayError, match="precision is `fp8`, expected auto, fp32 or bf16"):
        load_scorer("somewhere", precision="fp8")


def test_pairs_and_conversations_get_the_same_scores(checkpoint: Path, tmp_path: Path) -> None:
    pairs, conversations = tmp_path / "pairs.jsonl", tmp_path / "conversations.jsonl"
    pairs.write_text(json.dumps({"prompt": "red?", "chosen": "yes red", "rejected": "no"}) + "\n" + json.dumps({"prompt": "x", "chosen": "", "rejected": "b"}) + "\n")
    said = [[{"role": "user", "content": "red?"}, {"role": "assistant", "content": a}] for a in ("yes red", "no")]
    conversations.write_text("".join(json.dumps({"messages": m}) + "\n" for m in said) + "not json\n")
    scorer = load_scorer(checkpoint, precision="fp32")
    scored = score_file(scorer, str(pairs))
    table, aside = scored.table, scored.aside
    assert aside == 1
    assert table.columns == ["id", "source", "subset", "category", "chosen_score", "rejected_score", "truncated", "margin"]
    scored = score_file(scorer, str(conversations))
    alone, aside = scored.table, scored.aside
    assert aside == 1
    assert alone["row"].to_list() == [1, 2]
    assert alone["score"].to_list() == pytest.approx([table["chosen_score"][0], table["rejected_score"][0]], abs=1e-6)


def test_matrices_rounded_once_score_as_if_rounded_in_every_pass(checkpoint: Path) -> None:
    said = [[{"role": "user", "content": "red?"}, {"role": "assistant", "content": answer}] for answer in ("yes red", "no", "a longer answer that is red", "x " * 40)]
    rounded, exact = CheckpointScorer(str(checkpoint), "bf16"), CheckpointScorer(str(checkpoint), "fp32")
    expected = score_with(exact.reward_model, said, "bf16", 4_096)
    np.testing.assert_array_equal(rounded.score(said).values, expected.values)
    assert not np.array_equal(expected.values, exact.score(said).values)
    assert rounded.reward_model.best_layout() == exact.reward_model.best_layout() == "packed"
    dtypes = {name: p.dtype for name, p in rounded.reward_model.model.named_parameters()}
    assert dtypes["bert.encoder.layer.0.attention.self.query.weight"] == torch.bfloat16
    assert dtypes["classifier.weight"] == dtypes["bert.embeddings.word_embeddings.weight"] == torch.float32


def test_further_outputs_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "four", "rejected": "no"}, {"prompt": "q2", "chosen": "x", "rejected": "longer"}]
    pairs, answers = tmp_path / "pairs.jsonl", tmp_path / "answers.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers.write_text("".join(json.dumps({"prompt": row["prompt"], "response": row[side]}) + "\n" for row in rows for side in ("chosen", "rejected")))
    scorer = load_scorer("mean-0.5(rule:length,weighted(3*rule:length))")
    table = score_file(scorer, str(answers)).table
    assert table.columns == ["row", "score", "attr_mean", "attr_spread", "truncated"]
    assert table["attr_mean"].to_list() == [8, 4, 2, 12]
    assert table["attr_spread"].to_list() == [4, 2, 1, 6]
    assert table["score"].to_list() == [6, 3, 1.5, 9]
    table = score_file(scorer, str(pairs)).table
    assert table["chosen_attr_spread"].to_list() == [4, 1]
    assert table["rejected_attr_mean"].to_list() == [4, 12]


def test_the_command_writes_what_it_is_asked_for(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"q{i}", "response": "yes"}) + "\n" for i in range(3)))
    for suffix, reader in ((".parquet", pl.read_parquet), (".jsonl", pl.read_ndjson), (".csv", pl.read_csv)):
        out = tmp_path / f"scores{suffix}"
        assert run_app(["score", str(checkpoint), str(data), "-o", str(out)]) == 0
        assert reader(out).height == 3
    assert run_app(["score", str(checkpoint), str(data), "-o", "scores.txt"]) == 2
    assert "cannot write `.txt`" in capsys.readouterr().err


def test_length_rule() -> None:
    scores = load_scorer("rule:length").score([[{"role": "user", "content": "long question"}, {"role": "assistant", "content": "abc"}]])
    assert scores.values.tolist() == [[3.0]]
