"""Assay's own: conversations in, all attributes out, how sure one answer is to be preferred to another, and which sentences moved a reward."""

import math
import re

from fastapi import APIRouter
from pydantic import BaseModel, Field

from assay.serve.models import Answer, Models, Served, characters


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
    """The outputs it is made of, or the reward alone; of an ensemble ``mean`` and ``spread``, the standard deviation of its members."""
    tokens: int
    truncated: bool
    """The conversation was longer than the model reads; its beginning was lost."""


class ScoreResponse(BaseModel):
    """In the order of the conversations."""

    model: str
    fingerprint: str | None
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
    attributes: list[dict[str, float]]
    """Of each answer, if the model has several; otherwise the reward."""
    length_controlled: list[float] | None
    """Rewards less what the length of an answer alone is worth to the model, around the mean of these answers; null where the contract does not say what it is worth."""
    tokens: list[int]
    truncated: list[bool]


class ExplainRequest(BaseModel):
    """A prompt and one answer."""

    model: str | None = None
    prompt: list[Turn] = Field(min_length=1)
    answer: str = Field(min_length=1)


class Piece(BaseModel):
    """A sentence of the answer, or several where there are many."""

    text: str
    without: float
    """The reward of the answer that lacks it."""
    moved: float
    """What it adds: the reward less ``without``."""


class ExplainResponse(BaseModel):
    """The answer in pieces, which together are the answer."""

    model: str
    reward: float
    pieces: list[Piece]


PIECES = 40
"""Most pieces an answer is cut into: each costs a pass."""
_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")


def cut(answer: str, most: int = PIECES) -> list[str]:
    """The sentences and lines of an answer in at most so many pieces of about as many each; joined they are the answer."""
    ends = [match.end() for match in _END.finditer(answer) if match.end() < len(answer)]
    starts = [0, *dict.fromkeys(end for end in ends if end > 0)]
    every = -(-len(starts) // most)
    starts = starts[::every]
    return [answer[a:b] for a, b in zip(starts, [*starts[1:], len(answer)], strict=True)]


def router(models: Models) -> APIRouter:
    """``/v1/rewards``, ``/v1/compare`` and ``/v1/explain``."""
    routes = APIRouter(tags=["Assay"])

    @routes.post("/v1/rewards")
    async def rewards(request: ScoreRequest) -> ScoreResponse:
        """Rewards and attributes of conversations."""
        name = models.named(request.model)
        models.check_items(len(request.conversations))
        scorer = models.scorers[name]
        answers = await models.conversations(name, [[turn.model_dump() for turn in c] for c in request.conversations])
        found = [Scored(reward=a.reward, attributes=_attributes(scorer, a), tokens=a.tokens, truncated=a.truncated) for a in answers]
        return ScoreResponse(model=name, fingerprint=scorer.fingerprint, scores=found)

    @routes.post("/v1/compare")
    async def compare(request: CompareRequest) -> CompareResponse:
        """Which of several answers is the best, and how surely."""
        name = models.named(request.model)
        models.check_items(len(request.answers))
        scorer = models.scorers[name]
        contract = getattr(scorer, "contract", None)  # an ensemble has none
        temperature, slope = (contract.temperature, contract.length_slope) if contract else (None, None)
        prompt = [turn.model_dump() for turn in request.prompt]
        models.check_characters(len(request.answers) * characters(prompt) + sum(map(len, request.answers)))
        answers = await models.conversations(name, [[*prompt, {"role": "assistant", "content": answer}] for answer in request.answers])
        given = [a.reward for a in answers]
        probability = [[_sigmoid((a - b) / (temperature or 1.0)) for b in given] for a in given]
        return CompareResponse(
            model=name, rewards=given, best=given.index(max(given)), probability=probability, calibrated=temperature is not None,
            attributes=[_attributes(scorer, a) for a in answers], length_controlled=None if slope is None else _without_length(given, request.answers, slope),
            tokens=[a.tokens for a in answers], truncated=[a.truncated for a in answers],
        )  # fmt: skip

    @routes.post("/v1/explain")
    async def explain(request: ExplainRequest) -> ExplainResponse:
        """Which sentences of an answer moved its reward, by leaving out one at a time."""
        name, prompt = models.named(request.model), [turn.model_dump() for turn in request.prompt]
        most = max(1, min(PIECES, models.most_items - 1))
        models.check_characters((most + 1) * (characters(prompt) + len(request.answer)))
        pieces = cut(request.answer, most)
        without = ["".join(pieces[:i] + pieces[i + 1 :]) for i in range(len(pieces))]
        whole, *rest = await models.conversations(name, [[*prompt, {"role": "assistant", "content": answer}] for answer in (request.answer, *without)])
        return ExplainResponse(model=name, reward=whole.reward, pieces=[Piece(text=text, without=a.reward, moved=whole.reward - a.reward) for text, a in zip(pieces, rest, strict=True)])

    return routes


def _attributes(scorer: Served, answer: Answer) -> dict[str, float]:
    names = scorer.attributes[1:] if len(scorer.attributes) > 1 else scorer.attributes
    return dict(zip(names, answer.outputs[1:] or answer.outputs, strict=True))


def _without_length(rewards: list[float], answers: list[str], slope: float) -> list[float]:
    lengths = [math.log1p(len(answer)) for answer in answers]
    mean = sum(lengths) / len(lengths)
    return [reward - slope * (length - mean) for reward, length in zip(rewards, lengths, strict=True)]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
