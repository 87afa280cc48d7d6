"""The shapes preference data comes in: how each is recognised, and how a row of it becomes pairs.

``FORMATS`` lists them from the most to the least particular. A row format turns one row into pairs; a rated format turns
one row into one rated answer, and the answers to a prompt are paired best against worst.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assay.pairs.messages import (
    Aside,
    Messages,
    answer_of,
    check_pair,
    check_text,
    helpsteer_prompt,
    hh_conversation,
    kind_of,
    messages,
    prompt_of,
    split_conversations,
    user_turn,
)
from assay.pairs.pairing import Pairing, number

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One shape of preference data."""

    name: str
    about: str
    matches: Callable[[Row], bool]
    convert: Callable[[Row, Pairing], list[Row]]
    """(row, how answers are paired) -> pairs; or, when ``rated``, -> rated answers ``{prompt, response, rating, ...}``."""
    rated: bool = False


def recognise(sample: list[Row]) -> Format | None:
    """The format that most rows of ``sample`` have, each row counting for the most particular one it fits. None if no row fits any."""
    counts = [0] * len(FORMATS)
    for row in sample:
        fits = next((i for i, f in enumerate(FORMATS) if f.matches(row)), None)
        if fits is not None:
            counts[fits] += 1
    return FORMATS[counts.index(max(counts))] if any(counts) else None


def _need(row: Row, key: str) -> Any:
    if row.get(key) is None:
        raise Aside(f"no `{key}`")
    return row[key]


def _list(row: Row, key: str) -> list[Any]:
    value = _need(row, key)
    if not isinstance(value, list):
        raise Aside(f"`{key}` is {kind_of(value)}, expected a list")
    return value


def _pair(row: Row, used: set[str], prompt: Messages, chosen: Messages, rejected: Messages, **more: Any) -> Row:
    check_pair(prompt, chosen, rejected)
    extras = {k: v for k, v in row.items() if k not in used and k not in ("id", "prompt_id", "copy")}
    if row.get("id") is not None:
        extras.setdefault("source_id", str(row["id"]))
    extras.update((k, v) for k, v in more.items() if v is not None)
    for column in ("margin", "weight"):
        if extras.get(column) is not None:
            extras[column] = number(extras[column], column)
    return {**extras, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def check_extras(converted: list[Row]) -> None:
    """Check what a row carries besides its messages.

    Raises:
        Aside: a text that no file can hold, or a whole number that no column can.
    """
    for column, value in converted[0].items():
        if column not in ("prompt", "chosen", "rejected", "response"):
            check_text(column, "the name of a column")
            check_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), column)
            if isinstance(value, int) and abs(value) >= 2**63:
                raise Aside(f"{column} is too large a number")


def _from_scored(row: Row, used: set[str], prompt: Messages, answers: list[Messages], scores: list[float], how: Pairing, **more: Any) -> list[Row]:
    return [_pair(row, used, prompt, answers[i], answers[j], margin=scores[i] - scores[j], **more) for i, j in how.pairs(scores)]


# One converter a format, in the order of FORMATS.


def _nemo_rl(row: Row, how: Pairing) -> list[Row]:
    prompt = messages(_need(row, "context"), "context")
    completions = _list(row, "completions")
    if not all(isinstance(c, dict) for c in completions):
        raise Aside("`completions` is not a list of {rank, completion}")
    answers = [answer_of(_need(c, "completion"), f"completions[{i}]") for i, c in enumerate(completions)]
    ranks = [-number(_need(c, "rank"), f"completions[{i}].rank") for i, c in enumerate(completions)]
    return _from_scored(row, {"context", "completions"}, prompt, answers, ranks, how)


def _ultrafeedback(row: Row, how: Pairing) -> list[Row]:
    prompt = prompt_of(row.get("instruction") or row.get("prompt"))
    completions = _list(row, "completions")
    if not all(isinstance(c, dict) for c in completions):
        raise Aside("`completions` is not a list of {response, score}")
    answers = [answer_of(_need(c, "response"), f"completions[{i}].response") for i, c in enumerate(completions)]
    scores = [_completion_score(c, f"completions[{i}]") for i, c in enumerate(completions)]
    used = {"instruction", "prompt", "completions", "models", "correct_answers", "incorrect_answers"}
    return _from_scored(row, used, prompt, answers, scores, how)


def _completion_score(completion: Row, what: str) -> float:
    for key in ("overall_score", "fine-grained_score", "score", "rating"):
        if completion.get(key) is not None:
            return number(completion[key], f"{what}.{key}")
    raise Aside(f"{what} has no score (overall_score, fine-grained_score, score or rating)")


def _rewardbench2(row: Row, how: Pairing) -> list[Row]:
    prompt = prompt_of(_need(row, "prompt"))
    right = [answer_of(a, "chosen") for a in _list(row, "chosen")]
    wrong = [answer_of(a, "rejected") for a in _list(row, "rejected")]
    if not right or not wrong:
        raise Aside("no right or no wrong answer")
    return [_pair(row, {"prompt", "chosen", "rejected", "models", "additional_metadata"}, prompt, c, r) for c in right for r in wrong]


def _magpie(row: Row, how: Pairing) -> list[Row]:
    prompt = prompt_of(_need(row, "instruction"))
    answers = [answer_of(a, f"responses[{i}]") for i, a in enumerate(_list(row, "responses"))]
    rated = _list(row, "rewards_armorm")
    scores = [number(r.get("score") if isinstance(r, dict) else r, f"rewards_armorm[{i}]") for i, r in enumerate(rated)]
    if len(scores) != len(answers):
        raise Aside(f"{len(answers)} in `responses` but {len(scores)} in `rewards_armorm`")
    used = set(row) - {"uuid", "language", "difficulty", "input_quality", "source", "subset"}
    more = {"category": row.get("task_category"), "score": sum(scores) / len(scores)}
    pairs = how.pairs(scores)
    return [
        _pair(row, used, prompt, answers[i], answers[j], margin=scores[i] - scores[j], **more, score_of_pair=(scores[i] + scores[j]) / 2) for i, j in pairs
    ]


def _magpie_ultra(row: Row, how: Pairing) -> list[Row]:
    prompt = prompt_of(_need(row, "instruction"))
    chosen = answer_of(_need(row, "response"), "response")
    rejected = answer_of(_need(row, "response_base"), "response_base")
    scores = [row.get("score"), row.get("score_base")]
    score = sum(number(s, "score") for s in scores) / 2 if None not in scores else None
    used = set(row) - {"difficulty", "quality", "source", "subset"}
    return [_pair(row, used, prompt, chosen, rejected, category=row.get("primary_tag"), score=score)]


def _two_outputs(row: Row, how: Pairing) -> list[Row]:
    text = check_text(_need(row, "instruction"), "instruction")
    if row.get("input"):
        text += "\n\n" + check_text(row["input"], "input")
    outputs = [answer_of(_need(row, f"output_{i}"), f"output_{i}") for i in (1, 2)]
    label = row.get("label", row.get("preference"))
    if isinstance(label, bool) or label not in (1, 2, "1", "2"):
        raise Aside(f"label is {label!r}, expected 1 or 2 (the better output)")
    better = int(label) - 1
    used = {"instruction", "input", "output_1", "output_2", "label", "preference"}
    return [_pair(row, used, user_turn(text), outputs[better], outputs[1 - better])]


def _strength(row: Row, how: Pairing) -> list[Row]:
    """HelpSteer2-Preference and HelpSteer3: from -3 (the first answer is much better) to 3 (the second is); the margin is how much better."""
    prompt = messages(row["context"], "context") if row.get("context") is not None else helpsteer_prompt(_need(row, "prompt"))
    keys = [key.replace("_", "") if key.replace("_", "") in row else key for key in ("response_1", "response_2")]
    answers = [answer_of(_need(row, key), key) for key in keys]
    if str(row.get("split", "train")).startswith("val"):
        raise Aside("of the validation split, which is in the same file")
    name = "preference_strength" if "preference_strength" in row else "overall_preference"
    strength = number(_need(row, name), name)
    if strength == 0:
        raise Aside("neither answer is preferred")
    better = int(strength > 0)
    return [_pair(row, {"context", "prompt", name, *keys}, prompt, answers[better], answers[1 - better], margin=abs(strength))]


def _safety(row: Row, how: Pairing) -> list[Row]:
    """The better answer to a harmful prompt refuses it; to a harmless one, complies (Skywork-Reward, WildGuard pairs)."""
    refusal, harm = row.get("response_refusal_label"), row.get("prompt_harm_label")
    if row.get("response") is None:
        raise Aside("a prompt without a response")
    if refusal not in ("refusal", "compliance") or harm not in ("harmful", "unharmful"):
        raise Aside("the prompt or the response has no harm or refusal label")
    good = (refusal == "refusal") == (harm == "harmful")
    more = {k: v for k, v in row.items() if k not in ("prompt", "response", "rating", "category", "response_refusal_label") and v is not None}
    return [{"prompt": prompt_of(_need(row, "prompt")), "response": answer_of(row["response"], "response"), "rating": float(good), "category": "safety", **more}]


def _ms_swift(row: Row, how: Pairing) -> list[Row]:
    conversation = messages(_need(row, "messages"), "messages")
    if row.get("rejected_messages") is not None:
        rejected = messages(row["rejected_messages"], "rejected_messages")
        prompt, chosen, worse = split_conversations(conversation, rejected)
    else:
        if conversation[-1]["role"] != "assistant":
            raise Aside(f"broken roles: `messages` ends with a {conversation[-1]['role']} turn")
        prompt, chosen, worse = conversation[:-1], conversation[-1:], answer_of(_need(row, "rejected_response"), "rejected_response")
    return [_pair(row, {"messages", "rejected_response", "rejected_messages"}, prompt, chosen, worse)]


def _sharegpt(row: Row, how: Pairing) -> list[Row]:
    prompt = messages(_need(row, "conversations"), "conversations")
    if row.get("system"):
        prompt = [{"role": "system", "content": check_text(row["system"], "system")}, *prompt]
    chosen, rejected = answer_of(_need(row, "chosen"), "chosen"), answer_of(_need(row, "rejected"), "rejected")
    return [_pair(row, {"conversations", "system", "chosen", "rejected"}, prompt, chosen, rejected)]


def _alpaca(row: Row, how: Pairing) -> list[Row]:
    text = check_text(_need(row, "instruction"), "instruction")
    if row.get("input"):
        text += "\n" + check_text(row["input"], "input")
    prompt: Messages = []
    if row.get("system"):
        prompt.append({"role": "system", "content": check_text(row["system"], "system")})
    for turn in _list(row, "history") if row.get("history") else []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise Aside("`history` is not a list of [user, assistant] turns")
        prompt += user_turn(turn[0], "history") + answer_of(turn[1], "history")
    prompt += user_turn(text, "instruction")
    chosen, rejected = answer_of(_need(row, "chosen"), "chosen"), answer_of(_need(row, "rejected"), "rejected")
    return [_pair(row, {"instruction", "input", "system", "history", "chosen", "rejected"}, prompt, chosen, rejected)]


def _hh(row: Row, how: Pairing) -> list[Row]:
    chosen = hh_conversation(_need(row, "chosen"), "chosen")
    rejected = hh_conversation(_need(row, "rejected"), "rejected")
    return [_pair(row, {"chosen", "rejected"}, *split_conversations(chosen, rejected))]


def _explicit(row: Row, how: Pairing) -> list[Row]:
    prompt = prompt_of(_need(row, "prompt"))
    chosen, rejected = answer_of(_need(row, "chosen"), "chosen"), answer_of(_need(row, "rejected"), "rejected")
    if chosen and rejected and chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant":
        prompt, chosen, rejected = split_conversations(chosen, rejected)
    return [_pair(row, {"prompt", "chosen", "rejected"}, prompt, chosen, rejected)]


def _implicit(row: Row, how: Pairing) -> list[Row]:
    chosen, rejected = messages(_need(row, "chosen"), "chosen"), messages(_need(row, "rejected"), "rejected")
    return [_pair(row, {"chosen", "rejected"}, *split_conversations(chosen, rejected))]


def _ratings(row: Row, how: Pairing) -> list[Row]:
    prompt = messages(row["prompt"], "prompt") if isinstance(row.get("prompt"), list) else helpsteer_prompt(_need(row, "prompt"))
    rating = how.rating(row)
    extras = {k: row[k] for k in ("source", "subset", "category") if row.get(k) is not None}
    return [{**extras, "prompt": prompt, "response": answer_of(_need(row, "response"), "response"), "rating": rating}]


def _answers(row: Row, how: Pairing) -> list[Row]:
    if how.scorer is None:
        raise Aside("answers without ratings: name a scorer (`scorer` of the source, --scorer)")
    prompt = prompt_of(_need(row, "prompt"))
    answers = [answer_of(a, f"responses[{i}]") for i, a in enumerate(_list(row, "responses"))]
    if not answers:
        raise Aside("`responses` is empty")
    extras = {k: row[k] for k in ("source", "subset", "category") if row.get(k) is not None}
    return [{**extras, "prompt": prompt, "response": answer, "rating": 0.0} for answer in answers]


def _has(*keys: str) -> Callable[[Row], bool]:
    return lambda row: all(key in row for key in keys)


def _list_of_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


FORMATS = [
    Format("nemo-rl", "`context` and ranked `completions`", _has("context", "completions"), _nemo_rl),
    Format("ultrafeedback", "an instruction and k rated `completions`", lambda r: "completions" in r and ("instruction" in r or "prompt" in r), _ultrafeedback),
    Format("rewardbench-2", "a prompt with lists of right and wrong answers", lambda r: "prompt" in r and _list_of_text(r.get("chosen")) and _list_of_text(r.get("rejected")), _rewardbench2),
    Format("magpie", "an instruction, several `responses` and their `rewards_armorm`", _has("instruction", "responses", "rewards_armorm"), _magpie),
    Format("magpie-ultra", "an instruction with `response` and `response_base`", _has("instruction", "response", "response_base"), _magpie_ultra),
    Format("preference-strength", "two responses and by how much which is better, -3 to 3 (HelpSteer2-Preference, HelpSteer3)", lambda r: ("response_1" in r or "response1" in r) and ("preference_strength" in r or "overall_preference" in r), _strength),
    Format("two-outputs", "an instruction, `output_1`, `output_2` and the number of the better one", _has("instruction", "output_1", "output_2"), _two_outputs),
    Format("safety-labels", "one response a row with harm and refusal labels (WildGuardMix)", _has("prompt", "response", "response_refusal_label", "prompt_harm_label"), _safety, rated=True),
    Format("ms-swift", "`messages` and a `rejected_response` or `rejected_messages`", lambda r: "messages" in r and ("rejected_response" in r or "rejected_messages" in r), _ms_swift),
    Format("llamafactory-sharegpt", "`conversations` with `chosen` and `rejected` messages", _has("conversations", "chosen", "rejected"), _sharegpt),
    Format("llamafactory-alpaca", "`instruction` (and `input`, `history`) with `chosen` and `rejected`", _has("instruction", "chosen", "rejected"), _alpaca),
    Format("hh-rlhf", "two texts with `Human:` and `Assistant:` turns", lambda r: "prompt" not in r and any(isinstance(r.get(k), str) and "Human:" in r[k] for k in ("chosen", "rejected")), _hh),
    Format("explicit prompt", "`prompt`, `chosen`, `rejected` as text or messages", _has("prompt", "chosen", "rejected"), _explicit),
    Format("implicit prompt", "two whole conversations, `chosen` and `rejected`", _has("chosen", "rejected"), _implicit),
    Format("answers", "`prompt` and several `responses` without ratings; a scorer rates them", _has("prompt", "responses"), _answers, rated=True),
    Format("ratings", "one rated answer a row: `prompt`, `response`, attributes (HelpSteer2)", _has("prompt", "response"), _ratings, rated=True),
]
"""Every format Assay reads, the most particular first."""
