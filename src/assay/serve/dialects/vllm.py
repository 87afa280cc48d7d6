"""vLLM's pooling endpoints: ``/classify``, ``/pooling``, ``/score`` and ``/rerank``; and SGLang's ``/classify``, which is told by its fields ``text`` and ``input_ids``.

Shapes after https://docs.vllm.ai/en/latest/models/pooling_models/ and https://docs.sglang.ai/supported_models/reward_models.html. A text is taken as it is, with the chat template already in it, and so are token ids;
messages get the template. Rewards are raw unless the request asks for an activation (``use_activation``, formerly ``activation`` or ``softmax``), which is a sigmoid.
"""

import math
import time
import uuid
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from assay.pairs.messages import text_of
from assay.serve.models import Answer, Models, Unfit

Texts = str | list[str] | list[int] | list[list[int]]


class ClassifyRequest(BaseModel):
    """One of ``input``, ``messages`` and, as SGLang has them, ``text`` and ``input_ids``."""

    model: str | None = None
    input: Texts | None = None
    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None
    messages: list[dict[str, Any]] | None = None
    use_activation: bool | None = None
    activation: bool | None = None
    softmax: bool | None = None
    task: str | None = None


class ScoreRequest(BaseModel):
    """Prompts and answers: one to one, or one prompt to several answers."""

    model: str | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None
    use_activation: bool | None = None
    activation: bool | None = None


class RerankRequest(BaseModel):
    """A prompt and the answers to be put in order."""

    model: str | None = None
    query: str
    documents: list[str] = Field(min_length=1)
    top_n: int = Field(0, ge=0)
    """The best so many; 0 for all."""
    use_activation: bool | None = None
    activation: bool | None = None


def router(models: Models) -> APIRouter:
    """All of vLLM's endpoints, with and without ``/v1``."""
    routes = APIRouter(tags=["vLLM, SGLang"])

    @routes.post("/classify")
    @routes.post("/v1/classify")
    async def classify(request: ClassifyRequest) -> Any:
        """Rewards as the probability of the only label, as vLLM gives them; as embeddings of one number where the field is ``text`` or ``input_ids``, as SGLang does: a list of them, or one alone where one was given alone."""
        answers = await _asked(models, request)
        values = [_activated(a.reward, request.use_activation, request.activation, request.softmax) for a in answers]
        given = request.text if request.text is not None else request.input_ids
        if given is not None:
            found = [{"embedding": [value], "meta_info": {"id": uuid.uuid4().hex, "prompt_tokens": a.tokens}} for value, a in zip(values, answers, strict=True)]
            return found[0] if isinstance(given, str) or isinstance(given[0], int) else found
        label = models.scorers[models.named(request.model)].attributes[0]
        return _list("classify", models.named(request.model), answers, [{"index": i, "label": label, "probs": [value], "num_classes": 1} for i, value in enumerate(values)])

    @routes.post("/v1/embeddings")
    async def embeddings(request: ClassifyRequest) -> dict[str, Any]:
        """Rewards as embeddings of one number, as SGLang gives those of a reward model; verl asks for them so."""
        answers = await _asked(models, request)
        return _list("embd", models.named(request.model), answers, [{"index": i, "object": "embedding", "embedding": [a.reward]} for i, a in enumerate(answers)])

    @routes.post("/pooling")
    async def pooling(request: ClassifyRequest) -> dict[str, Any]:
        """Rewards as pooled vectors of one number."""
        answers = await _asked(models, request)
        values = [_activated(a.reward, request.use_activation, request.activation, request.softmax) for a in answers]
        return _list("pool", models.named(request.model), answers, [{"index": i, "object": "pooling", "data": [value]} for i, value in enumerate(values)])

    @routes.post("/score")
    @routes.post("/v1/score")
    async def score(request: ScoreRequest) -> dict[str, Any]:
        """Rewards of answers (``text_2``, ``documents``, ``items``, ``data_2``) to prompts (``text_1``, ``queries``, ``data_1``)."""
        prompts, texts = _matched(models, [request.text_1, request.queries, request.data_1], [request.text_2, request.documents, request.items, request.data_2])
        answers = await models.conversations(request.model, [_turns(p, t) for p, t in zip(prompts, texts, strict=True)])
        found = [{"index": i, "object": "score", "score": _activated(a.reward, request.use_activation, request.activation)} for i, a in enumerate(answers)]
        return _list("score", models.named(request.model), answers, found)

    @routes.post("/rerank")
    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank")
    async def rerank(request: RerankRequest) -> dict[str, Any]:
        """Answers to a prompt, the best first."""
        models.check_items(len(request.documents))
        answers = await models.conversations(request.model, [_turns(request.query, text) for text in request.documents])
        order = sorted(range(len(answers)), key=lambda i: -answers[i].reward)[: request.top_n or None]
        found = [{"index": i, "document": {"text": request.documents[i]}, "relevance_score": _activated(answers[i].reward, request.use_activation, request.activation)} for i in order]
        tokens = sum(a.tokens for a in answers)
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": models.named(request.model), "usage": {"prompt_tokens": tokens, "total_tokens": tokens}, "results": found}

    return routes


async def _asked(models: Models, request: ClassifyRequest) -> list[Answer]:
    given = [value for value in (request.input, request.text, request.input_ids, request.messages) if value is not None]
    if len(given) != 1:
        raise Unfit(f"expected one of `input`, `text`, `input_ids` and `messages`, found {len(given)}")
    if request.messages is not None:
        return await models.conversations(request.model, [[_message(m, i) for i, m in enumerate(request.messages)]])
    value: Any = given[0]
    if isinstance(value, str):
        return await models.texts(request.model, [value])
    if value and isinstance(value[0], int):
        return await models.token_ids(request.model, [value])
    if value and isinstance(value[0], list):
        return await models.token_ids(request.model, value)
    return await models.texts(request.model, value)


def _message(message: dict[str, Any], i: int) -> dict[str, str]:
    role, content = message.get("role"), text_of(message.get("content"))
    if not isinstance(role, str) or content is None:
        raise Unfit(f"messages[{i}] is no message: it needs a role and a content of text")
    return {"role": role, "content": content}


def _matched(models: Models, prompts_by: list[Any], texts_by: list[Any]) -> tuple[list[str], list[str]]:
    """Prompts and answers by whichever of their names they were given, as many of both."""
    first, second = (next((value for value in by if value is not None), None) for by in (prompts_by, texts_by))
    if first is None or second is None:
        raise Unfit("expected `text_1` and `text_2`, or `queries` and `documents`")
    prompts, texts = ([one] if isinstance(one, str) else one for one in (first, second))
    models.check_items(max(len(prompts), len(texts)))
    if len(prompts) == 1:
        prompts = prompts * len(texts)
    if len(prompts) != len(texts):
        raise Unfit(f"{len(prompts)} prompts with {len(texts)} answers; expected as many, or one prompt")
    return prompts, texts


def _turns(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _activated(reward: float, *wishes: bool | None) -> float:
    return 1 / (1 + math.exp(-max(-700.0, reward))) if next((wish for wish in wishes if wish is not None), False) else reward


def _list(kind: str, model: str, answers: list[Answer], data: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = sum(a.tokens for a in answers)
    return {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}}
