"""The doctor: what is wrong with a checkpoint, by name, with the fix."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from assay.errors import AssayError
from assay.files import first_line, read_json
from assay.model import checkpoint, onnx, template
from assay.model import contract as contracts
from assay.model.backbones import text_hash
from assay.model.contract import Contract
from assay.model.loading import quiet
from assay.model.reward_model import RewardModel, from_checkpoint


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


def examine(folder: Path, against: Callable[[list[contracts.Conversation]], list[float]] | None = None) -> list[Finding]:
    """Everything the doctor finds about a checkpoint, the causes before their consequences.

    Args:
        folder: the checkpoint.
        against: what gives the scores of conversations elsewhere, such as a server or another checkpoint, to be compared with the golden ones.

    Raises:
        AssayError: there is no contract to check against.
    """
    contract = contracts.read(folder)
    findings = list(_files(folder, contract))
    try:
        reward_model = from_checkpoint(folder, contract.max_length, contract.add_special_tokens, contract.weights)
    except AssayError as error:
        return [*findings, Finding("loads", False, str(error), "restore the files from the run that made them")]
    findings += [Finding("loads", True, "all weights are there, the head included"), *_settings(reward_model, contract)]
    findings += [*_tokens(reward_model, contract), *_scores(reward_model, contract)]
    if not (folder / onnx.FILE).is_file():
        findings += _plain_transformers(folder, contract)
    if against:
        findings += _elsewhere(reward_model, contract, against)
    return findings


def _files(folder: Path, contract: Contract) -> Iterator[Finding]:
    restore = "restore the file from the run that made it"
    same = contracts.weights_sha256(folder) == contract.weights_sha256
    yield Finding("weights", same, "as saved" if same else "the weights are not the ones the contract was made for", "" if same else restore)
    same = contracts.tokenizer_sha256(folder) == contract.tokenizer_sha256
    yield Finding("tokenizer", same, "as saved" if same else "the tokenizer files have changed", "" if same else restore)
    saved = read_json(folder / "tokenizer_config.json")
    for side, wanted in (("truncation_side", contract.truncation_side), ("padding_side", contract.padding_side)):
        now = saved.get(side, "right")
        fix = "" if now == wanted else f'set "{side}": "{wanted}" in tokenizer_config.json'
        yield Finding(side.replace("_", " "), now == wanted, now if now == wanted else f"{now} instead of {wanted}", fix)


def _settings(reward_model: RewardModel, contract: Contract) -> Iterator[Finding]:
    tokenizer, config = reward_model.tokenizer, reward_model.model.config
    now = tokenizer.chat_template
    same = now is not None and text_hash(now) == contract.template_sha256
    detail = "as saved" if same else "the tokenizer has no chat template" if now is None else "another chat template than the model was trained with"
    yield Finding("chat template", same, detail, "" if same else "restore chat_template.jinja")
    clock = now is not None and ("strftime_now" in now)
    yield Finding("dated template", not clock, "reads the clock: scores change from day to day" if clock else "does not read the clock", "freeze the date" if clock else "")
    is_eos = tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id
    yield Finding("pad token", not is_eos, "is missing or equal to eos: the reward is read one token early" if is_eos else "is not eos", "set a pad token of its own" if is_eos else "")
    same = config.pad_token_id == tokenizer.pad_token_id
    yield Finding("pad id", same, f"{config.pad_token_id} in config.json, {tokenizer.pad_token_id} in the tokenizer", "" if same else "set pad_token_id in config.json to the tokenizer's")
    raw = config.problem_type == "regression"
    yield Finding("activation", raw, "none" if raw else f"problem_type is {config.problem_type}: pipelines and servers apply a sigmoid", "" if raw else 'set "problem_type": "regression" in config.json')


def _tokens(reward_model: RewardModel, contract: Contract) -> Iterator[Finding]:
    """Whether the canaries become the same token ids; if not, which known mistake explains it."""
    wanted = [c.ids_sha256 for c in contract.canaries]
    if _ids(reward_model, contract) == wanted:
        yield Finding("token ids", True, f"all {len(wanted)} canaries become the tokens they became when saved")
        return
    for name, fix, changed in _suspects(reward_model, contract):
        if _ids(changed, contract) == wanted:
            yield Finding("token ids", False, name, fix)
            return
    changed_ids = sum(a != b for a, b in zip(_ids(reward_model, contract), wanted, strict=True))
    yield Finding("token ids", False, f"{changed_ids} of {len(wanted)} canaries become other tokens, by none of the known mistakes", "restore the tokenizer files")


def _ids(reward_model: RewardModel, contract: Contract) -> list[str]:
    try:
        ids, _ = reward_model.encode([c.conversation for c in contract.canaries])
    except AssayError:
        return []
    return [contracts.ids_sha256(one) for one in ids]


def _suspects(reward_model: RewardModel, contract: Contract) -> Iterator[tuple[str, str, RewardModel]]:
    """Settings that, if they explain the difference, are the mistake."""
    length = reward_model.max_length
    flipped = not reward_model.add_special_tokens
    doubled = "special tokens are added twice (double BOS)" if reward_model.add_special_tokens else "special tokens are missing (no BOS)"
    yield doubled, f"set add_special_tokens to {str(flipped).lower()} in scoring.json", replace(reward_model, add_special_tokens=flipped)
    saved = max(c.tokens for c in contract.canaries)  # the longest canary was cut to the length the model was saved with
    if saved != length:
        yield f"truncated at {length} tokens instead of {saved}", f"set max_length to {saved} in scoring.json", replace(reward_model, max_length=saved)


def _scores(reward_model: RewardModel, contract: Contract) -> Iterator[Finding]:
    worst = checkpoint.drift(reward_model, contract)
    ok = worst <= checkpoint.TOLERANCE
    yield Finding("canaries", ok, f"largest difference from the golden scores {worst:.1e} (allowed {checkpoint.TOLERANCE:.0e})", "" if ok else "see the findings above for the cause")


def _elsewhere(reward_model: RewardModel, contract: Contract, against: Callable[[list[contracts.Conversation]], list[float]]) -> Iterator[Finding]:
    """Whether the other side gives the golden scores; if not, which known mistake turns ours into theirs."""
    theirs, golden = against([c.conversation for c in contract.canaries]), [c.score for c in contract.canaries]
    if missing := sum(math.isnan(score) for score in theirs):
        yield Finding("the other side", False, f"has no score for {missing} of {len(theirs)} canaries", "look at its log")
        return
    worst = _apart(theirs, golden)
    if worst <= checkpoint.TOLERANCE:
        yield Finding("the other side", True, f"agrees to {worst:.1e}")
        return
    for name, fix, scores in _mistakes(reward_model, contract):
        if _apart(theirs, scores) <= max(checkpoint.TOLERANCE, 0.02 * worst) and _apart(scores, golden) > worst / 2:
            yield Finding("the other side", False, f"differs by {worst:.2g}: {name}", fix)
            return
    drifted = worst <= 0.05 * max(1.0, max(golden) - min(golden))
    yield Finding("the other side", False, f"differs by {worst:.2g}" + (", which is about what bf16 rounds" if drifted else ", by none of the known mistakes"), "let it compute in fp32" if drifted else "compare its tokenizer, template and weights with the checkpoint's")


def _apart(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _mistakes(reward_model: RewardModel, contract: Contract) -> Iterator[tuple[str, str, list[float]]]:
    """Known mistakes of servers, and what each makes of the canaries."""
    golden = [c.score for c in contract.canaries]
    yield "a sigmoid is applied to the reward", "ask for the raw value (`use_activation: false`), or set problem_type to regression there", [0.5 * (1 + math.tanh(score / 2)) for score in golden]
    yield "a softmax is applied to the only label", "ask for the raw value; a softmax over one label is always 1", [1.0] * len(golden)
    yield "the sign is turned", "take the reward as it is", [-score for score in golden]
    added = reward_model.add_special_tokens
    name = "special tokens are missing (no BOS)" if added else "special tokens are added twice (double BOS)"
    yield name, f"set add_special_tokens to {str(added).lower()} there", _rewards(replace(reward_model, add_special_tokens=not added), contract)
    for length in (128, 256, 512, 1_024, 2_048, 4_096):
        if length < reward_model.max_length:
            yield f"truncated at {length} tokens instead of {reward_model.max_length}", f"set its limit to {reward_model.max_length} tokens", _rewards(replace(reward_model, max_length=length), contract)


def _rewards(reward_model: RewardModel, contract: Contract) -> list[float]:
    return [canary.score for canary in checkpoint.score_canaries(reward_model, [c.conversation for c in contract.canaries])]


def _plain_transformers(folder: Path, contract: Contract) -> Iterator[Finding]:
    """Whether transformers alone, as a stranger would call it, gives the golden scores: one padded batch."""
    try:
        scores = plain_scores(folder, [c.conversation for c in contract.canaries], contract)
    except Exception as error:
        yield Finding("plain transformers", False, f"fails: {first_line(error)}", "see the findings above")
        return
    worst = max(abs(a - c.score) for a, c in zip(scores, contract.canaries, strict=True))
    ok = worst <= checkpoint.TOLERANCE
    yield Finding("plain transformers", ok, f"agrees to {worst:.1e}" if ok else f"differs by {worst:.2g}", "" if ok else "see the findings above for the cause")


def plain_scores(folder: Path, conversations: list[contracts.Conversation], contract: Contract) -> list[float]:
    """Scores by transformers without Assay's code: template, tokenizer, model, logits, their weighted sum."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with quiet():
        model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [template.render(tokenizer, c) for c in conversations]
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=contract.max_length, add_special_tokens=contract.add_special_tokens)
    with torch.inference_mode():
        return [float(x) for x in model(**batch).logits @ torch.tensor(list(contract.weights.values()))]
