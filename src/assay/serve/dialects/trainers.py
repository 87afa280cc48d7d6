"""What trainers of policies ask a reward model: OpenRLHF's ``/get_reward`` and LlamaFactory's ``/v1/score/evaluation``. Both send whole texts with the chat template in them.

Shapes after ``openrlhf/cli/serve_rm.py`` and ``llamafactory/api`` of those projects.
"""

import uuid
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from assay.serve.models import Models


class RewardRequest(BaseModel):
    """OpenRLHF's: whole texts; prompts and labels are not needed by a reward model."""

    model: str | None = None
    query: list[str] = Field(min_length=1)
    prompts: list[Any] | None = None
    labels: list[Any] | None = None


class EvaluationRequest(BaseModel):
    """LlamaFactory's: whole texts."""

    model: str | None = None
    messages: list[str] = Field(min_length=1)
    max_length: int | None = None


def router(models: Models) -> APIRouter:
    """``/get_reward`` and ``/v1/score/evaluation``."""
    routes = APIRouter(tags=["OpenRLHF, LlamaFactory"])

    @routes.post("/get_reward")
    async def get_reward(request: RewardRequest) -> dict[str, Any]:
        """Rewards for OpenRLHF's remote reward model."""
        rewards = [a.reward for a in await models.texts(request.model, request.query)]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    @routes.post("/v1/score/evaluation")
    async def evaluation(request: EvaluationRequest) -> dict[str, Any]:
        """Scores for LlamaFactory's reward server; a model reads the length of its contract, whatever ``max_length`` says."""
        name = models.named(None if request.model == "model" and "model" not in models.scorers else request.model)  # its client calls every model so
        scores = [a.reward for a in await models.texts(name, request.messages)]
        return {"id": f"scoreeval-{uuid.uuid4().hex}", "object": "score.evaluation", "model": name, "scores": scores}

    return routes
