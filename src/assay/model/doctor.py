"""The doctor: what is wrong with a checkpoint, by name, with the fix."""

import math
import statistics
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
from assay.model.mistakes import mistakes
from assay.model.network import head_name
from assay.model.reward_model import RewardModel, from_checkpoint

FAR = 30.0
"""Standard deviations between the canaries and the mean of real answers beyond which one of them is of another model."""


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
    findings += [Finding("loads", True, "all weights are there, the head included"), *_settings(folder, reward_model, contract)]
    exported = onnx.graph(folder) is not None
    if not exported:
        findings += _tensors(folder, reward_model, contract)
    findings += [*_measured(contract), *_tokens(reward_model, contract), *_scores(reward_model, contract)]
    if not exported:
        findings += _plain_transformers(folder, contract)
    if against:
        findings += _elsewhere(folder, reward_model, contract, against)
    return findings


def cause(folder: Path) -> str:
    """In one line, the first thing the doctor finds wrong with a checkpoint."""
    wrong = next((f for f in examine(folder) if not f.ok), None)
    return f"{wrong.check}: {wrong.detail}" if wrong else "the doctor finds nothing wrong"


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


def _tensors(folder: Path, reward_model: RewardModel, contract: Contract) -> Iterator[Finding]:
    """The head, what the files hold beyond the model, and in which precision."""
    from safetensors import safe_open

    head, kinds = head_name(reward_model.model), {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            kinds.update({name: tensors.get_slice(name).get_dtype() for name in tensors.keys()})  # noqa: SIM118
    more = sorted(name for name in kinds if name.startswith(f"{head}.") and name not in reward_model.model.state_dict())
    bias = f"{head}.bias" in more
    detail = f"{head}.bias: a bias that should not be there; transformers passes over it, other servers add it" if bias else f"{', '.join(more)}: not of this model"
    yield Finding("head's tensors", not more, detail if more else "as the architecture has them", "take it out of the weights" if more else "")
    rounded = sorted({kind for kind in kinds.values() if kind in ("F16", "BF16")})
    yield Finding("precision", not rounded, f"weights are saved in {', '.join(rounded)}: every reward is rounded, and the contract's were computed in fp32" if rounded else "fp32", "save them in fp32" if rounded else "")
    head_rounded = any(kinds[name] in ("F16", "BF16") for name in kinds if name.startswith(f"{head}."))
    if contract.head_sha256 and not more and not head_rounded:  # either makes another hash of the same head
        same = contracts.head_sha256(folder, head) == contract.head_sha256
        yield Finding("head", same, "as saved" if same else f"the weights of `{head}` are not those that were saved: drawn anew, or of another model", "" if same else "restore the weights from the run that made them")


def _measured(contract: Contract) -> Iterator[Finding]:
    """Whether mean, standard deviation and temperature are of these weights."""
    if contract.mean is None or not contract.std:
        return
    again = "measure them anew: train again, or set mean, std and temperature in scoring.json to null"
    away = abs(statistics.mean(c.score for c in contract.canaries) - contract.mean) / contract.std
    other = contract.measured_with not in (None, contract.weights_sha256)
    far = away > FAR
    detail = "were measured with other weights" if other else f"the canaries are {away:.0f} standard deviations from the mean" if far else f"of these weights, on {contract.measured_on}"
    yield Finding("mean and std", not other and not far, detail, again if other or far else "")


def _changed(now: dict[str, Any], was: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, was, is) of the settings that are not as they were saved."""
    return [(key, was.get(key), now.get(key)) for key in contracts.SETTINGS if now.get(key) != was.get(key)]


def _settings(folder: Path, reward_model: RewardModel, contract: Contract) -> Iterator[Finding]:
    tokenizer, config = reward_model.tokenizer, reward_model.model.config
    now = tokenizer.chat_template
    same = now is not None and text_hash(now) == contract.template_sha256
    detail = "as saved" if same else "the tokenizer has no chat template" if now is None else "another chat template than the model was trained with"
    yield Finding("chat template", same, detail, "" if same else "restore chat_template.jinja")
    clock = now is not None and ("strftime_now" in now)
    yield Finding("dated template", not clock, "reads the clock: scores change from day to day" if clock else "does not read the clock", "freeze the date" if clock else "")
    switch = now is not None and "enable_thinking" in now and "set enable_thinking = false" not in now
    yield Finding("thinking switch", not switch, "the template thinks or not, by who calls it" if switch else "none", "begin chat_template.jinja with {%- set enable_thinking = false %}" if switch else "")
    is_eos = tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id
    yield Finding("pad token", not is_eos, "is missing or equal to eos: the reward is read one token early" if is_eos else "is not eos", "set a pad token of its own" if is_eos else "")
    same = config.pad_token_id == tokenizer.pad_token_id
    yield Finding("pad id", same, f"{config.pad_token_id} in config.json, {tokenizer.pad_token_id} in the tokenizer", "" if same else "set pad_token_id in config.json to the tokenizer's")
    if contract.settings is not None and (changed := _changed(contracts.settings(folder), contract.settings)):
        key, was, is_ = changed[0]
        yield Finding("config.json", False, f"{key} is {is_}, was {was}", f"set {key} back to {was} in config.json")
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
    if _opens_answer(reward_model, contract):
        yield Finding("token ids", False, "the template adds a generation prompt behind the answer by itself", "restore chat_template.jinja")
        return
    same = text_hash(reward_model.tokenizer.chat_template or "") == contract.template_sha256
    changed_ids = sum(a != b for a, b in zip(_ids(reward_model, contract), wanted, strict=True))
    yield Finding("token ids", False, f"{changed_ids} of {len(wanted)} canaries become other tokens, by none of the known mistakes", "restore the tokenizer files" if same else "restore chat_template.jinja")


def _opens_answer(reward_model: RewardModel, contract: Contract) -> bool:
    """Whether the canaries' texts would be right if something behind the last answer were left out."""
    try:
        texts = [template.render(reward_model.tokenizer, c.conversation) for c in contract.canaries]
    except AssayError:
        return False
    shortest = min(texts, key=len)
    said = contract.canaries[texts.index(shortest)].conversation[-1]["content"].strip()
    behind = len(shortest) - shortest.rfind(said) - len(said)
    wanted = [c.ids_sha256 for c in contract.canaries]
    return any([contracts.ids_sha256(one) for one in reward_model.encode_texts([t[:-n] for t in texts])[0]] == wanted for n in range(1, behind + 1))


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
    now = checkpoint.score_canaries(reward_model, [c.conversation for c in contract.canaries])
    yield from _attributes(now, contract)
    worst = checkpoint.apart([c.score for c in now], [c.score for c in contract.canaries])
    ok = worst <= contract.tolerance
    yield Finding("canaries", ok, f"largest difference from the golden scores {worst:.1e} (allowed {contract.tolerance:.0e})", "" if ok else "see the findings above for the cause")


def _attributes(canaries: list[contracts.Canary], contract: Contract) -> Iterator[Finding]:
    """Whether each output of the head still goes by its name."""
    golden = [c.outputs for c in contract.canaries]
    if not golden or any(o is None for o in golden):
        return
    now = [c.outputs or {} for c in canaries]
    taken = {}
    for name in contract.attributes:
        was = [(o or {}).get(name, math.nan) for o in golden]
        taken[name] = next((other for other in [name, *contract.attributes] if checkpoint.apart(was, [o[other] for o in now]) <= contract.tolerance), None)
    swapped = [f"{name} comes out as {other}" for name, other in taken.items() if other not in (None, name)]
    yield Finding("attributes", not swapped, f"swapped: {', '.join(swapped)}" if swapped else "each output goes by its name", "put `attributes` of scoring.json in the order of the head" if swapped else "")


def _elsewhere(folder: Path, reward_model: RewardModel, contract: Contract, against: Callable[[list[contracts.Conversation]], list[float]]) -> Iterator[Finding]:
    """Whether the other side gives the golden scores; if not, which known mistake turns ours into theirs."""
    theirs, golden = against([c.conversation for c in contract.canaries]), [c.score for c in contract.canaries]
    if missing := sum(math.isnan(score) for score in theirs):
        yield Finding("the other side", False, f"has no score for {missing} of {len(theirs)} canaries", "look at its log")
        return
    worst = checkpoint.apart(theirs, golden)
    if worst <= contract.tolerance:
        yield Finding("the other side", True, f"agrees to {worst:.1e}")
        return
    for mistake in mistakes(folder, reward_model, contract, theirs):
        if checkpoint.apart(theirs, mistake.scores) <= max(contract.tolerance, 0.02 * worst) and checkpoint.apart(mistake.scores, golden) > worst / 2:
            yield Finding("the other side", False, f"differs by {worst:.2g}: {mistake.name}", mistake.fix)
            return
    if worst <= 0.05 * max(1.0, max(golden) - min(golden)):
        yield Finding("the other side", False, f"differs by {worst:.2g}, which is about what bf16 rounds", "let it compute in fp32")
        return
    unrelated = ""
    if min(len(set(theirs)), len(set(golden))) > 1 and (r := statistics.correlation(theirs, golden)) < 0.5:
        unrelated = f"; its scores have little to do with the golden ones (correlation {r:.2f}), as if the head had been lost and drawn anew"
    yield Finding("the other side", False, f"differs by {worst:.2g}, by none of the known mistakes{unrelated}", "compare its tokenizer, template and weights with the checkpoint's")


def _plain_transformers(folder: Path, contract: Contract) -> Iterator[Finding]:
    """Whether transformers alone, as a stranger would call it, gives the golden scores: one padded batch."""
    try:
        scores = plain_scores(folder, [c.conversation for c in contract.canaries], contract)
    except Exception as error:
        yield Finding("plain transformers", False, f"fails: {first_line(error)}", "see the findings above")
        return
    worst = checkpoint.apart(scores, [c.score for c in contract.canaries])
    ok = worst <= contract.tolerance
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
