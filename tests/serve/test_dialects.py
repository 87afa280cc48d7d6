"""Every wire format gives the scores that the checkpoint gives here, whoever else asks at the same time."""

import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from assay.model.template import completed, render
from assay.score.checkpoint import CheckpointScorer
from assay.serve.app import create_app
from served import ATTRIBUTES, Conversation, conversations, in_thread, said, single

Ask = Callable[[httpx2.Client, CheckpointScorer, Conversation], float]
TALKS = conversations()


def post(client: httpx2.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, (path, response.status_code, response.text)
    return response.json()


def text_of(scorer: CheckpointScorer, talk: Conversation) -> str:
    return render(scorer.reward_model.tokenizer, talk)


def ids_of(scorer: CheckpointScorer, talk: Conversation) -> list[int]:
    return scorer.reward_model.encode([talk])[0][0]


ANY: dict[str, Ask] = {
    "rewards": lambda c, s, t: post(c, "/v1/rewards", conversations=[t])["scores"][0]["reward"],
    "compare": lambda c, s, t: post(c, "/v1/compare", prompt=t[:-1], answers=["another", t[-1]["content"]])["rewards"][1],
    "classify text": lambda c, s, t: post(c, "/classify", input=text_of(s, t))["data"][0]["probs"][0],
    "classify texts": lambda c, s, t: post(c, "/v1/classify", input=["x", text_of(s, t)])["data"][1]["probs"][0],
    "classify ids": lambda c, s, t: post(c, "/classify", input=ids_of(s, t))["data"][0]["probs"][0],
    "classify lists of ids": lambda c, s, t: post(c, "/v1/classify", input=[[5, 6], ids_of(s, t)])["data"][1]["probs"][0],
    "classify messages": lambda c, s, t: post(c, "/classify", messages=t)["data"][0]["probs"][0],
    "classify parts": lambda c, s, t: post(c, "/classify", messages=[{**m, "content": [{"type": "text", "text": m["content"]}]} for m in t])["data"][0]["probs"][0],
    "pooling text": lambda c, s, t: post(c, "/pooling", input=[text_of(s, t)])["data"][0]["data"][0],
    "pooling messages": lambda c, s, t: post(c, "/pooling", messages=t, task="classify")["data"][0]["data"][0],
    "sglang": lambda c, s, t: post(c, "/classify", text=text_of(s, t))["embedding"][0],
    "sglang texts": lambda c, s, t: post(c, "/classify", model="first", text=["x", text_of(s, t)])[1]["embedding"][0],
    "sglang ids": lambda c, s, t: post(c, "/classify", input_ids=ids_of(s, t))["embedding"][0],
    "sglang lists of ids": lambda c, s, t: post(c, "/classify", input_ids=[[5, 6], ids_of(s, t)])[1]["embedding"][0],
    "openrlhf": lambda c, s, t: post(c, "/get_reward", query=["x", text_of(s, t)], prompts=["a", "b"], labels=[None, 1])["rewards"][1],
    "llamafactory": lambda c, s, t: post(c, "/v1/score/evaluation", model="first", messages=[text_of(s, t), "x"], max_length=16)["scores"][0],
}
SINGLE: dict[str, Ask] = {
    "score": lambda c, s, t: post(c, "/score", text_1=t[0]["content"], text_2=t[1]["content"])["data"][0]["score"],
    "v1 score": lambda c, s, t: post(c, "/v1/score", queries=[t[0]["content"]], documents=["x", t[1]["content"]])["data"][1]["score"],
    "score pairs": lambda c, s, t: post(c, "/score", text_1=["q", t[0]["content"]], text_2=["x", t[1]["content"]])["data"][1]["score"],
    "rerank": lambda c, s, t: post(c, "/rerank", query=t[0]["content"], documents=[t[1]["content"]])["results"][0]["relevance_score"],
    "v1 rerank": lambda c, s, t: post(c, "/v1/rerank", query=t[0]["content"], documents=[t[1]["content"]], top_n=1)["results"][0]["relevance_score"],
    "v2 rerank": lambda c, s, t: post(c, "/v2/rerank", query=t[0]["content"], documents=[t[1]["content"]])["results"][0]["relevance_score"],
}


def test_every_dialect_gives_the_scores_of_the_checkpoint_to_sixteen_clients_at_once(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    scorer = scorers["first"]
    scores = scorer.score(TALKS)
    golden = scores.values[:, 0].tolist()
    assert len({round(g, 2) for g in golden}) > 6, "the rewards of the test are too much alike"
    assert scores.truncated.any()
    wanted = [(name, ask, i) for asks in (ANY, SINGLE) for name, ask in asks.items() for i, talk in enumerate(TALKS) if asks is ANY or single(talk)]
    random.Random(0).shuffle(wanted)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda w: w[1](client, scorer, TALKS[w[2]]), wanted))
    wrong = {(name, i): (got, golden[i]) for (name, _, i), got in zip(wanted, found, strict=True) if abs(got - golden[i]) > 1e-4}
    assert not wrong


def test_order_attributes_truncation_and_tokens_of_our_own_format(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    for name in ("first", "second", "many"):
        scores = scorers[name].score(TALKS)
        found = post(client, "/v1/rewards", model=name, conversations=TALKS)
        assert set(found) == {"model", "fingerprint", "scores"}
        assert (found["model"], found["fingerprint"]) == (name, scorers[name].fingerprint)
        assert [s["reward"] for s in found["scores"]] == pytest.approx(scores.values[:, 0].tolist(), abs=1e-4)
        assert [s["truncated"] for s in found["scores"]] == scores.truncated.tolist()
        assert [s["tokens"] for s in found["scores"]] == [len(ids_of(scorers[name], t)) for t in TALKS]
        names = ATTRIBUTES if name == "many" else ("reward",)
        for row, score in zip(scores.outputs.tolist(), found["scores"], strict=True):
            assert score["attributes"] == pytest.approx(dict(zip(names, row, strict=True)), abs=1e-4)


def test_several_models_on_one_port(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    talk = TALKS[3]
    rewards = {name: float(s.score([talk]).values[0, 0]) for name, s in scorers.items()}
    assert len({round(r, 3) for r in rewards.values()}) == 3

    def asked(name: str) -> list[float]:
        text = text_of(scorers[name], talk)
        return [
            post(client, "/v1/rewards", model=name, conversations=[talk])["scores"][0]["reward"],
            post(client, "/v1/compare", model=name, prompt=talk[:-1], answers=["a", talk[-1]["content"]])["rewards"][1],
            post(client, "/classify", model=name, messages=talk)["data"][0]["probs"][0],
            post(client, "/classify", model=name, text=text)["embedding"][0],
            post(client, "/pooling", model=name, input=ids_of(scorers[name], talk))["data"][0]["data"][0],
            post(client, "/get_reward", model=name, query=[text])["scores"][0],
            post(client, "/v1/score/evaluation", model=name, messages=[text])["scores"][0],
        ]

    with ThreadPoolExecutor(16) as pool:
        for name, found in zip([*rewards] * 4, pool.map(asked, [*rewards] * 4), strict=True):
            assert found == pytest.approx([rewards[name]] * len(found), abs=1e-4)


def test_the_list_of_models(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    assert [m["id"] for m in found["data"]] == ["first", "second", "many"]
    assert [m["object"] for m in found["data"]] == ["model"] * 3
    assert [m["max_length"] for m in found["data"]] == [300, 200, 128]
    assert [m["attributes"] for m in found["data"]] == [["reward"], ["reward"], ["reward", *ATTRIBUTES]]
    assert [m["fingerprint"] for m in found["data"]] == [s.fingerprint for s in scorers.values()]


def test_shapes_of_vllm_and_sglang(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    tokens = sum(len(ids) for ids in scorers["first"].reward_model.encode_texts(completed(scorers["first"].reward_model.tokenizer, ["one", "two two"]))[0])
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    for path, prefix, keys in (("/classify", "classify-", {"index", "label", "probs", "num_classes"}), ("/pooling", "pool-", {"index", "object", "data"})):
        found = post(client, path, input=["one", "two two"])
        assert set(found) == {"id", "object", "created", "model", "data", "usage"}
        assert found["id"].startswith(prefix)
        assert (found["object"], found["model"], found["usage"]) == ("list", "first", usage)
        assert isinstance(found["created"], int)
        assert [one["index"] for one in found["data"]] == [0, 1]
        assert all(set(one) == keys for one in found["data"])
    assert [one["num_classes"] for one in post(client, "/classify", input="one")["data"]] == [1]
    embedding = post(client, "/classify", text="one")
    assert set(embedding) == {"embedding", "meta_info"}
    assert embedding["meta_info"]["prompt_tokens"] == 4
    for several in ({"text": ["one"]}, {"input_ids": [[5, 6]]}):
        assert [set(one) for one in post(client, "/classify", **several)] == [{"embedding", "meta_info"}]
    assert post(client, "/classify", input_ids=[5, 6])["meta_info"]["prompt_tokens"] == 2


def test_shapes_of_the_trainers(client: httpx2.Client) -> None:
    rewards = post(client, "/get_reward", query=["one", "two"])
    assert set(rewards) == {"rewards", "scores", "extra_logs"}
    assert rewards["rewards"] == rewards["scores"]
    evaluation = post(client, "/v1/score/evaluation", messages=["one", "two"])
    assert set(evaluation) == {"id", "object", "model", "scores"}
    assert (evaluation["object"], evaluation["model"]) == ("score.evaluation", "first")
    assert evaluation["scores"] == pytest.approx(rewards["rewards"], abs=1e-4)


def test_rerank_puts_the_best_first(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    answers = [f"answer {i} " * (i + 1) for i in range(9)]
    rewards = scorers["first"].score([said("q", a) for a in answers]).values[:, 0].tolist()
    order = sorted(range(9), key=lambda i: -rewards[i])
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found = post(client, path, query="q", documents=answers)
        assert set(found) == {"id", "model", "usage", "results"}
        assert [r["index"] for r in found["results"]] == order
        assert [r["document"]["text"] for r in found["results"]] == [answers[i] for i in order]
        assert [r["relevance_score"] for r in found["results"]] == pytest.approx([rewards[i] for i in order], abs=1e-4)
    assert [r["index"] for r in post(client, "/rerank", query="q", documents=answers, top_n=2)["results"]] == order[:2]
    assert len(post(client, "/rerank", query="q", documents=answers, top_n=100)["results"]) == 9
    assert len(post(client, "/rerank", query="q", documents=answers, top_n=0)["results"]) == 9


def test_activations_are_asked_for(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    talk = TALKS[0]
    raw = float(scorers["first"].score([talk]).values[0, 0])
    sigmoid = 1 / (1 + math.exp(-raw))
    asks = {
        "/classify": lambda **f: post(client, "/classify", messages=talk, **f)["data"][0]["probs"][0],
        "/pooling": lambda **f: post(client, "/pooling", messages=talk, **f)["data"][0]["data"][0],
        "/score": lambda **f: post(client, "/score", text_1=talk[0]["content"], text_2=talk[1]["content"], **f)["data"][0]["score"],
        "/rerank": lambda **f: post(client, "/rerank", query=talk[0]["content"], documents=[talk[1]["content"]], **f)["results"][0]["relevance_score"],
    }
    for path, ask in asks.items():
        for flags, wanted in [({}, raw), ({"use_activation": None}, raw), ({"use_activation": False}, raw), ({"use_activation": True}, sigmoid), ({"activation": True}, sigmoid), ({"use_activation": False, "activation": True}, raw)]:
            assert ask(**flags) == pytest.approx(wanted, abs=1e-4), (path, flags)
    assert asks["/classify"](softmax=True) == pytest.approx(sigmoid, abs=1e-4)
    assert asks["/classify"](softmax=False) == pytest.approx(raw, abs=1e-4)


def test_comparison_uses_the_temperature_of_the_contract(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    prompt, answers = TALKS[3][:-1], ["Ada.", "I forgot.", "Bob, of course."]
    for name, temperature in (("first", 0.7), ("second", None)):
        rewards = scorers[name].score([[*prompt, {"role": "assistant", "content": a}] for a in answers]).values[:, 0].tolist()
        found = post(client, "/v1/compare", model=name, prompt=prompt, answers=answers)
        assert found["model"] == name
        assert found["rewards"] == pytest.approx(rewards, abs=1e-4)
        assert found["best"] == rewards.index(max(rewards))
        assert found["calibrated"] is (temperature is not None)
        for i, row in enumerate(found["probability"]):
            assert row == pytest.approx([1 / (1 + math.exp(-(rewards[i] - r) / (temperature or 1))) for r in rewards], abs=1e-3)


def test_length_is_taken_off_where_the_contract_says_what_it_is_worth(client: httpx2.Client, checkpoints: dict[str, Path]) -> None:
    asked = {"prompt": TALKS[0][:-1], "answers": ["a" * 9, "b" * 99]}
    assert post(client, "/v1/compare", **asked)["length_controlled"] is None
    scorer = CheckpointScorer(str(checkpoints["first"]), "fp32")
    scorer.contract = scorer.contract.model_copy(update={"length_slope": 2.0})
    with in_thread(create_app({"first": scorer})) as url, httpx2.Client(base_url=url, timeout=60) as other:
        found = post(other, "/v1/compare", **asked)
    half = math.log(10)  # from 10 to 100 characters and one is two of it
    assert found["length_controlled"] == pytest.approx([found["rewards"][0] + half, found["rewards"][1] - half], abs=1e-5)


def test_token_ids_beyond_the_length_lose_their_beginning(client: httpx2.Client, scorers: dict[str, CheckpointScorer]) -> None:
    ids = [2 + i * 7 % 200 for i in range(700)]
    whole, end = (post(client, "/classify", input=one)["data"][0]["probs"][0] for one in (ids, ids[-300:]))
    assert whole == pytest.approx(end, abs=1e-5)


def test_the_description_names_every_endpoint(client: httpx2.Client) -> None:
    paths = set(client.get("/openapi.json").json()["paths"])
    assert {"/v1/rewards", "/v1/compare", "/classify", "/pooling", "/score", "/rerank", "/get_reward", "/v1/score/evaluation", "/v1/models", "/health", "/healthz", "/readyz", "/metrics"} <= paths
    assert client.get("/docs").status_code == 200
