"""Known mistakes in computing a reward elsewhere: each by name, with its fix and what it makes of the canaries."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from assay.model import template
from assay.model.contract import Contract
from assay.model.network import is_decoder
from assay.model.reward_model import RewardModel, from_checkpoint

PASSED_OVER = {"attn_logit_softcapping": ("the soft cap of attention", None), "sliding_window": ("the sliding window of attention", 1 << 20)}
"""Settings that an attention kernel may pass over: what they are, and the value that is as good as none."""
LENGTHS = (128, 256, 512, 1_024, 2_048, 4_096)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One way to get other numbers."""

    name: str
    fix: str
    scores: list[float]
    """What it makes of the canaries."""


def mistakes(folder: Path, reward_model: RewardModel, contract: Contract, theirs: Sequence[float]) -> Iterator[Mistake]:
    """All of them, the cheap ones first. ``theirs`` are the other side's scores, from which the size of a shift is taken."""
    yield from _afterwards(contract, theirs)
    yield from _tokens(reward_model, contract)
    yield from _outputs(reward_model, contract)
    yield from _kernels(folder, reward_model, contract)


def _afterwards(contract: Contract, theirs: Sequence[float]) -> Iterator[Mistake]:
    """What is done to the reward once it is there."""
    golden = [c.score for c in contract.canaries]
    yield Mistake("a sigmoid is applied to the reward", "ask for the raw value (`use_activation: false`), or set problem_type to regression there", [0.5 * (1 + math.tanh(x / 2)) for x in golden])
    yield Mistake("a softmax is applied to the only label", "ask for the raw value; a softmax over one label is always 1", [1.0] * len(golden))
    yield Mistake("the sign is turned", "take the reward as it is", [-x for x in golden])
    if contract.mean is not None and contract.std:
        yield Mistake("the contract's mean and standard deviation are applied to it", "take the reward as it is", [(x - contract.mean) / contract.std for x in golden])
    shift = statistics.median(a - b for a, b in zip(theirs, golden, strict=True))
    yield Mistake(f"{shift:+.3g} is added to every reward: a bias in the head, or a mean taken off", "give the head no bias there, and subtract nothing", [x + shift for x in golden])


def _tokens(reward_model: RewardModel, contract: Contract) -> Iterator[Mistake]:
    """Other token ids."""
    added = reward_model.add_special_tokens
    name = "special tokens are missing (no BOS)" if added else "special tokens are added twice (double BOS)"
    yield Mistake(name, f"set add_special_tokens to {str(added).lower()} there", _scores(replace(reward_model, add_special_tokens=not added), contract))
    for length in LENGTHS:
        if length < reward_model.max_length:
            yield Mistake(f"truncated at {length} tokens instead of {reward_model.max_length}", f"set its limit to {reward_model.max_length} tokens", _scores(replace(reward_model, max_length=length), contract))
    kept = reward_model.encode([c.conversation for c in contract.canaries])[0]
    if is_decoder(reward_model.model):
        yield Mistake("the reward is read one token early, as where the pad token is the end token", "set a pad token of its own there", _rewards(reward_model, [one[:-1] or one for one in kept]))
    for name, fix, texts in _texts(reward_model, contract):
        yield Mistake(name, fix, _rewards(reward_model, reward_model.encode_texts(texts)[0]))
    reward_model.tokenizer.truncation_side = "right"
    try:
        cut = reward_model.encode([c.conversation for c in contract.canaries])[0]
    finally:
        reward_model.tokenizer.truncation_side = "left"
    yield Mistake("long conversations lose their end instead of their beginning", 'set "truncation_side": "left" there', _rewards(reward_model, cut))


def _texts(reward_model: RewardModel, contract: Contract) -> Iterator[tuple[str, str, list[str]]]:
    """Other texts of the same conversations."""
    tokenizer, written = reward_model.tokenizer, reward_model.tokenizer.chat_template
    send = "let it use the checkpoint's chat template as it is"

    def rendered(with_template: str, **options: Any) -> list[str]:
        try:
            return [str(tokenizer.apply_chat_template(c.conversation, chat_template=with_template, tokenize=False, **options)) for c in contract.canaries]
        except Exception:  # a template made for other roles refuses a canary; then it is not what the other side used
            return []

    switched_off = "{%- set enable_thinking = false %}"
    found = [
        ("a generation prompt is added behind the answer", "render with add_generation_prompt=False there", rendered(written, add_generation_prompt=True)),
        ("the thinking switch of the template is on", send, rendered(written.replace(switched_off, ""), enable_thinking=True) if switched_off in written else []),
        ("the template reads the date", send, rendered(written.replace(template.FROZEN_DATE, f"{date.today():%d %b %Y}")) if template.FROZEN_DATE in written else []),
        ("the template is ChatML", send, rendered(template.CHATML)),
        ("the template puts the role before each turn, as for encoders", send, rendered(template.ENCODER)),
    ]
    yield from (one for one in found if one[2])


def _outputs(reward_model: RewardModel, contract: Contract) -> Iterator[Mistake]:
    """Of a model with several attributes, others than the reward, or the weights of two exchanged."""
    if len(contract.attributes) == 1:
        return
    ids, _ = reward_model.encode([c.conversation for c in contract.canaries])
    with torch.inference_mode():
        outputs = torch.cat([reward_model.outputs([one]) for one in ids])
    weights = torch.tensor(list(reward_model.merge.values()))
    for i, name in enumerate(contract.attributes):
        yield Mistake(f"it gives the attribute {name}, not the reward", "weigh the attributes as the contract's `merge` says", outputs[:, i].tolist())
    for i, j in combinations(range(len(weights)), 2):
        order = list(range(len(weights)))
        order[i], order[j] = j, i
        yield Mistake(f"the attributes {contract.attributes[i]} and {contract.attributes[j]} are swapped", "weigh the attributes in the order of the contract", (outputs @ weights[order]).tolist())


def _kernels(folder: Path, reward_model: RewardModel, contract: Contract) -> Iterator[Mistake]:
    """An attention kernel that passes over a setting."""
    config = getattr(reward_model.model.config, "get_text_config", lambda: None)()
    keys = [key for key in PASSED_OVER if getattr(config, key, None)]
    for some in [(key,) for key in keys] + list(combinations(keys, 2)):
        without = from_checkpoint(folder, contract.max_length, contract.add_special_tokens, contract.weights, {key: PASSED_OVER[key][1] for key in some})
        names = " and ".join(f"{PASSED_OVER[key][0]} ({key})" for key in some)
        yield Mistake(f"its attention kernel passes over {names}", "use a kernel that honours it, such as eager attention", _scores(without, contract))


def _scores(reward_model: RewardModel, contract: Contract) -> list[float]:
    return _rewards(reward_model, reward_model.encode([c.conversation for c in contract.canaries])[0])


def _rewards(reward_model: RewardModel, ids: Sequence[list[int]]) -> list[float]:
    with torch.inference_mode():
        return [float(reward_model.rewards([one])[0]) for one in ids]
