"""Assay's own: conversations in, all attributes out, and how sure one answer is to be preferred to another."""

import math

from fastapi import APIRouter
from pydantic import BaseModel, Field

from assay.serve.models import Models


class Turn(BaseModel):
    """A message."""

    role: str
    content: str


class ScoreRequest(BaseModel):
    """Whole conversations, each ending with the answer."""

    model: str | None = None
    conversations: list[list[Turn]] = Field(min_length=1)


class Scored(BaseModel):
    """What the model says of one conversation."""

    reward: float
    attributes: dict[str, float]
    tokens: int
    truncated: bool
    """The conversation was longer than the model reads; its beginning was lost."""


class ScoreResponse(BaseModel):
    """In the order of the conversations."""

    model: str
    fingerprint: str
    """Names the contract and the precision: equal fingerprints give equal scores."""
    scores: list[Scored]


class CompareRequest(BaseModel):
    """A prompt and two or more answers to it."""

    model: str | None = None
    prompt: list[Turn] = Field(min_length=1)
    answers: list[str] = Field(min_length=2)


class CompareResponse(BaseModel):
    """Rewards, the best answer, and for every two answers the probability that the first of them is preferred."""

    model: str
    rewards: list[float]
    best: int
    probability: list[list[float]]
    """[i][j]: that answer i is preferred to answer j; by the contract's temperature, or 1 where it has none."""
    calibrated: bool
    """Whether the contract has a temperature."""


def router(models: Models) -> APIRouter:
    """``/v1/rewards`` and ``/v1/compare``."""
    routes = APIRouter(tags=["Assay"])

    @routes.post("/v1/rewards")
    async def rewards(request: ScoreRequest) -> ScoreResponse:
        """Rewards and attributes of conversations."""
        name = models.named(request.model)
        scorer = models.scorers[name]
        answers = await models.conversations(name, [[turn.model_dump() for turn in c] for c in request.conversations])
        names = scorer.attributes[1:] if len(scorer.attributes) > 1 else scorer.attributes
        found = [Scored(reward=a.reward, attributes=dict(zip(names, a.outputs[1:] or a.outputs, strict=True)), tokens=a.tokens, truncated=a.truncated) for a in answers]
        return ScoreResponse(model=name, fingerprint=scorer.fingerprint, scores=found)

    @routes.post("/v1/compare")
    async def compare(request: CompareRequest) -> CompareResponse:
        """Which of several answers is the best, and how surely."""
        name = models.named(request.model)
        temperature = models.scorers[name].contract.temperature
        prompt = [turn.model_dump() for turn in request.prompt]
        answers = await models.conversations(name, [[*prompt, {"role": "assistant", "content": answer}] for answer in request.answers])
        given = [a.reward for a in answers]
        probability = [[_sigmoid((a - b) / (temperature or 1.0)) for b in given] for a in given]
        return CompareResponse(model=name, rewards=given, best=given.index(max(given)), probability=probability, calibrated=temperature is not None)

    return routes


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
