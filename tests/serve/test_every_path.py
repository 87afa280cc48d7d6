"""One score everywhere: the same real conversations through every path give the same score within 1e-4 in fp32."""

import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import served
import tiny
from assay.model import checkpoint, contract
from assay.model.onnx import export
from assay.score.bulk import score_file
from assay.score.checkpoint import CheckpointScorer, score_with
from assay.score.reward_fn import reward_fn
from assay.score.scorer import Scores, load_scorer
from assay.serve.app import create_app
from serve.test_dialects import ANY, SINGLE, post
from served import Conversation, said, single

N_CONVERSATIONS = int(os.environ.get("ASSAY_CONVERSATIONS", "60"))
AT_ONCE = 16
LIMIT = 1e-4
OTHER_SCRIPTS = r"[\u0400-\u06ff\u3040-\ud7af\U0001f300-\U0001faff]"
Floats = NDArray[np.float64]
Paths = dict[str, Callable[[], Floats]]


def sides(table: pl.DataFrame) -> list[Conversation]:
    """Both sides of pairs, one behind the other, so that answers share their prompt."""
    return [p + answer for p, *both in table.select("prompt", "chosen", "rejected").iter_rows() for answer in both]


def length(table: pl.DataFrame) -> pl.Series:
    """Characters of the prompts."""
    return table["prompt"].list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()


def kinds(data: Path) -> dict[str, list[Conversation]]:
    """Real conversations by what is special about them."""
    hh, oasst, code, demos, feedback = (pl.read_parquet(data / f"train_{name}" / "pairs.parquet") for name in ("hh_rlhf", "oasst", "code_refine", "dpo_demos", "ultrafeedback"))
    written = pl.concat([t.select("prompt", "chosen", "rejected") for t in (demos, feedback)])
    text = written["prompt"].list.last().struct.field("content") + written["chosen"].list.first().struct.field("content")
    one = hh.filter(hh["prompt"].list.len() == 1)
    return {
        "several turns": sides(hh.filter((hh["prompt"].list.len() > 2) & (length(hh) < 600))),
        "several long turns": sides(oasst.filter(oasst["prompt"].list.len() > 2)),
        "long": sides(hh.filter(length(hh) > 2_000)),
        "short": sides(one.filter(length(one) < 60)),
        "empty system": [[{"role": "system", "content": ""}, *talk] for talk in sides(one.filter(length(one) < 200))],
        "system": sides(demos.filter(demos["prompt"].list.first().struct.field("role") == "system")),
        "code": sides(code),
        "other scripts": sides(written.filter(text.str.contains(OTHER_SCRIPTS))),
        "right to left": sides(written.filter(text.str.contains(r"[\u0590-\u06ff]"))),
        "emoji": sides(written.filter(text.str.contains(r"[\U0001f300-\U0001faff]"))),
    }


def chosen(data: Path, n: int) -> list[tuple[str, Conversation]]:
    """``n`` conversations with their kinds, as many of each as there are, and of what no data set has."""
    made = [said("שלום, מה שלומך? 👋🏽", "‏أنا بخير، شكراً! 🇩🇪👩‍👩‍👧"), said("你好!红色是什么？", "红色是一种颜色。"), *served.conversations()]
    found = [("made", talk) for talk in made]
    queues = {kind: random.Random(0).sample([talks[i : i + 2] for i in range(0, len(talks), 2)], len(talks) // 2) for kind, talks in kinds(data).items()}
    while len(found) < n:
        for kind, queue in queues.items():
            found += [(kind, talk) for talk in (queue.pop() if queue else [])]
    return found[:n]


def make(kind: str, folder: Path) -> Path:
    """A tiny checkpoint with a wide spread of rewards; the encoder's weights are made larger, or all texts would be the same to it."""
    if kind == "decoder":
        return served.make_checkpoint(tiny.decoder(folder / "backbone"), folder / kind, 500)
    backbone = AutoModel.from_pretrained(tiny.encoder(folder / "backbone"))
    with torch.no_grad():
        for matrix in (parameter for parameter in backbone.parameters() if parameter.dim() > 1):
            matrix.mul_(8)
    backbone.save_pretrained(folder / "backbone")
    return served.make_checkpoint(folder / "backbone", folder / kind, 250, seed=1)


@pytest.fixture(scope="module", params=["decoder", "encoder"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of either kind."""
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """The server with it as `first`, behind a port of this process."""
    with served.in_thread(create_app({"first": CheckpointScorer(str(folder), "fp32")})) as address:
        yield address


@pytest.fixture(scope="module")
def talks(shared_data: Path) -> list[tuple[str, Conversation]]:
    """The conversations with their kinds."""
    return chosen(shared_data, N_CONVERSATIONS)


def plain(folder: Path, talks: list[Conversation]) -> Floats:
    """Scores by transformers alone, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    agreed = contract.read(folder)
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks]
    encoded = [tokenizer(text, truncation=True, max_length=agreed.max_length, add_special_tokens=agreed.add_special_tokens, return_tensors="pt") for text in texts]
    with torch.inference_mode():
        return np.array([float(model(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits[0, 0]) for one in encoded])


def rewards(scores: Scores) -> Floats:
    assert not scores.reasons
    return scores.values[:, 0].astype(float)


def from_file(folder: Path, talks: list[Conversation]) -> Floats:
    """Scores as ``assay score`` gives them for a file of conversations."""
    path = folder.with_name("talks.jsonl")
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), "utf-8")
    scored = score_file(load_scorer(folder, precision="fp32"), str(path))
    assert scored.aside == 0
    return scored.table["score"].to_numpy()


def exported(folder: Path, talks: list[Conversation]) -> Floats:
    """Scores by the ONNX export."""
    export(folder, folder.with_name("onnx"))
    return rewards(load_scorer(folder.with_name("onnx"), precision="fp32").score(talks))


def in_memory(folder: Path, talks: list[Conversation]) -> Paths:
    """The paths that need no server."""
    reward_model = checkpoint.load(folder)[0]
    function = reward_fn(folder, precision="fp32")
    return {
        "trainer": lambda: rewards(score_with(reward_model, talks, "fp32", 2_048)),
        "trainer, padded": lambda: rewards(score_with(reward_model, talks, "fp32", 2_048, network=reward_model.network("padded"))),
        "assay score": lambda: rewards(load_scorer(folder, precision="fp32").score(talks)),
        "assay score, file": lambda: from_file(folder, talks),
        "reward function": lambda: np.array(function(prompts=[talk[:-1] for talk in talks], completions=[talk[-1:] for talk in talks])),
        "onnx": lambda: exported(folder, talks),
    }


def clients(url: str, folder: Path, talks: list[Conversation]) -> Paths:
    """The scorers behind the URL."""
    return {spec.partition(":")[0] + ":": lambda spec=spec: rewards(load_scorer(spec).score(talks)) for spec in (f"assay:{url}", f"vllm:{url}#first", f"openrlhf:{url}#{folder}")}


def dialects(url: str, folder: Path, talks: list[Conversation]) -> dict[str, Floats]:
    """Scores of every dialect, asked for by many threads at once, all dialects mixed; NaN where a dialect cannot say the conversation."""
    scorer = CheckpointScorer(str(folder), "fp32")
    ids = scorer.reward_model.encode(talks)[0]
    with httpx2.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        asks: list[tuple[str, int, Callable[[], Any]]] = [
            *((name, i, partial(ask, client, scorer, talk)) for name, ask in ANY.items() if "ids" not in name for i, talk in enumerate(talks)),
            *((name, i, partial(ask, client, scorer, talk)) for name, ask in SINGLE.items() for i, talk in enumerate(talks) if single(talk)),
            *(("classify ids", i, partial(lambda one: post(client, "/classify", input=one)["data"][0]["probs"][0], one)) for i, one in enumerate(ids)),
            *(("pooling ids", i, partial(lambda one: post(client, "/pooling", input=[[5, 6], one])["data"][1]["data"][0], one)) for i, one in enumerate(ids)),
        ]
        random.Random(1).shuffle(asks)
        found = {name: np.full(len(talks), np.nan) for name, _, _ in asks}
        for (name, i, _), reward in zip(asks, pool.map(lambda ask: ask[2](), asks), strict=True):
            found[name][i] = reward
    return found


def every_path(url: str, folder: Path, talks: list[Conversation]) -> dict[str, Floats]:
    """Scores by every path but plain transformers."""
    alone = {**in_memory(folder, talks), **clients(url, folder, talks)}
    return {**{name: path() for name, path in alone.items()}, **dialects(url, folder, talks)}


def worst(found: Floats, golden: Floats) -> tuple[float, int]:
    """The largest difference, and of which conversation."""
    differences = np.nan_to_num(np.abs(found - golden), nan=-1.0)
    return float(differences.max()), int(differences.argmax())


@pytest.mark.slow
def test_every_path_gives_real_conversations_the_same_score(url: str, folder: Path, talks: list[tuple[str, Conversation]]) -> None:
    said_ = [talk for _, talk in talks]
    golden = plain(folder, said_)
    wrong = []
    for path, found in every_path(url, folder, said_).items():
        assert np.isfinite(found).sum() >= (sum(map(single, said_)) if path in SINGLE else len(talks)), path
        difference, i = worst(found, golden)
        if difference >= LIMIT:
            wrong.append(f"{path}: {found[i]:.6f} instead of {golden[i]:.6f} for conversation {i} ({talks[i][0]}): {json.dumps(said_[i], ensure_ascii=False)[:200]}")
    assert not wrong, "\n".join(wrong)


def test_the_conversations_are_of_all_kinds_and_their_scores_differ(folder: Path, talks: list[tuple[str, Conversation]]) -> None:
    scores = load_scorer(folder, precision="fp32").score([talk for _, talk in talks])
    assert len({kind for kind, _ in talks}) == 11
    assert 0.1 < scores.truncated.mean() < 0.95
    assert len({round(float(reward), 2) for reward in scores.values[:, 0]}) > len(talks) / 2, "the rewards are too much alike"
