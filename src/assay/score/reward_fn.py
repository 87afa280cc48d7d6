"""A scorer as the reward function of a policy trainer: TRL's and verl's shape."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import AssayError
from assay.pairs.messages import text_of
from assay.score.scorer import load_scorer


def reward_fn(spec: str | Path, shape: str = "trl", **options: Any) -> Callable[..., Any]:
    """The reward function of a scorer, loaded once.

    Args:
        spec: any scorer, see ``assay.score.scorer``.
        shape: ``trl``: called with ``prompts`` and ``completions`` (texts, or lists of messages), gives a list of rewards, None where there is none. ``verl``: called as ``compute_score(data_source, solution_str,
            ground_truth, extra_info)``, gives ``{"score": reward}``; the prompt is ``extra_info["prompt"]`` or ``extra_info["question"]``, text or messages.
        options: handed to ``load_scorer``.

    Raises:
        AssayError: there is no such scorer; or, in a call of verl's, which knows no missing reward, an answer gets none.
        ValueError: ``shape`` is neither; or, in a call, the prompt is missing (verl hands on ``extra_info`` alone: put the prompt there when the data is made), or a message is not text.
    """
    if shape not in ("trl", "verl"):
        raise ValueError(f"shape is {shape!r}, expected 'trl' or 'verl'")
    scorer = load_scorer(spec, **options)

    def trl(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        found = scorer.score([_turns(p, "user") + _turns(c, "assistant") for p, c in zip(prompts, completions, strict=True)]).values[:, 0]
        return [None if np.isnan(reward) else float(reward) for reward in found]

    def verl(data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any) -> dict[str, float]:
        prompt = next((value for key in ("prompt", "question") if (value := (extra_info or {}).get(key)) is not None), None)
        if prompt is None:
            raise ValueError("extra_info has neither `prompt` nor `question`; a reward needs to know what was asked")
        scores = scorer.score([_turns(prompt, "user") + _turns(solution_str, "assistant")])
        if np.isnan(reward := float(scores.values[0, 0])):
            raise AssayError(f"{scorer.spec}: no reward ({scores.reasons.get(0, 'it is not a number')})")
        return {"score": reward}

    function = trl if shape == "trl" else verl
    function.__name__ = "assay_reward"
    return function


def _turns(said: Any, role: str) -> list[dict[str, str]]:
    if isinstance(said, str):
        return [{"role": role, "content": said}]
    return [_message(m) for m in said]


def _message(message: dict[str, Any]) -> dict[str, str]:
    content = text_of(message.get("content"))
    if content is None:
        raise ValueError(f"a message of the role {message.get('role')!r} has a content that is not text")
    return {"role": message["role"], "content": content}
