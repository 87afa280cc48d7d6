"""From whatever a file calls a conversation to checked messages; what cannot be one raises ``Aside`` with the reason."""

import re
from typing import Any

from assay.pairs.schema import ROLES

Messages = list[dict[str, str]]

_ROLE_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "observation": "tool"}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HELPSTEER_TURN = re.compile(r"<extra_id_[01]>(System|User|Assistant)\n")


class Aside(Exception):
    """This row cannot become a pair; the text says why. The reader counts it and keeps it with its reason."""


def check_text(text: Any, what: str) -> str:
    """``text`` itself if it is a string Assay can store.

    Raises:
        Aside: not a string, a NUL character, or a lone surrogate (which no UTF-8 file can hold).
    """
    if not isinstance(text, str):
        raise Aside(f"{what} is {kind_of(text)}, expected text")
    if "\0" in text:
        raise Aside(f"{what} contains a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Aside(f"{what} contains a lone surrogate") from None
    return text


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    names = {list: "a list", str: "text", bytes: "bytes", bool: "a boolean", int: "a number", float: "a number", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def messages(value: Any, what: str) -> Messages:
    """A list of ``{role, content}`` (or ``{from, value}``) as plain checked messages.

    Raises:
        Aside: it is not such a list, a role is unknown, or a content is not text.
    """
    if not isinstance(value, list) or not value:
        raise Aside(f"{what} is {kind_of(value) if value != [] else 'an empty list'}, expected a list of messages")
    return [_message(item, f"{what}[{i}]") for i, item in enumerate(value)]


def _message(item: Any, what: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise Aside(f"{what} is {kind_of(item)}, expected a message")
    role = item.get("role", item.get("from"))
    content = item.get("content", item.get("value"))
    role = _ROLE_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise Aside(f"broken roles: {what} has the role {role!r}, expected one of {', '.join(ROLES)}")
    if isinstance(content, list) and (content := text_of(content)) is None:
        raise Aside(f"{what} has content that is not text")
    return {"role": role, "content": check_text(content, f"{what}.content")}


def text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or parts of text joined; None if any of it is something else."""
    parts: list[Any] = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None for part in content] if isinstance(content, list) else [content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def user_turn(text: Any, what: str = "prompt") -> Messages:
    """A prompt given as text: one user turn."""
    return [{"role": "user", "content": check_text(text, what)}]


def prompt_of(value: Any) -> Messages:
    """A prompt given as text or as messages."""
    return user_turn(value) if not isinstance(value, list) else messages(value, "prompt")


def answer_of(value: Any, what: str) -> Messages:
    """An answer given as text, as one message, or as messages."""
    if isinstance(value, dict):
        return [_message(value, what)]
    if isinstance(value, list):
        return messages(value, what)
    return [{"role": "assistant", "content": check_text(value, what)}]


def hh_conversation(text: Any, what: str) -> Messages:
    """An hh-rlhf text, turns introduced by a blank line and ``Human:`` or ``Assistant:``."""
    parts = _HH_TURN.split(check_text(text, what))
    if parts[0].strip() or len(parts) < 3:
        raise Aside(f"{what} does not begin with a `Human:` turn")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def helpsteer_prompt(text: Any) -> Messages:
    """A HelpSteer prompt: later turns are introduced by ``<extra_id_1>User`` or ``<extra_id_1>Assistant``."""
    parts = _HELPSTEER_TURN.split(check_text(text, "prompt"))
    turns = [{"role": "user", "content": parts[0].strip("\n")}] if parts[0].strip() else []
    turns += [{"role": who.lower(), "content": said.strip("\n")} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
    return turns[:-1] if turns and turns[-1] == {"role": "assistant", "content": ""} else turns


def split_conversations(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Two whole conversations as (prompt, chosen, rejected): the prompt is what they have in common at the start.

    Raises:
        Aside: they are the same, share no beginning, or part at a turn that is not the assistant's.
    """
    if chosen == rejected:
        raise Aside("identical answers")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == 0:
        raise Aside("the two conversations share no prompt")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def check_pair(prompt: Messages, chosen: Messages, rejected: Messages) -> None:
    """Check what every pair must satisfy.

    Raises:
        Aside: roles out of order, an empty prompt or answer, or identical answers.
    """
    check_prompt(prompt)
    check_answer(chosen, "chosen")
    check_answer(rejected, "rejected")
    if [m["content"].strip() for m in chosen] == [m["content"].strip() for m in rejected]:
        raise Aside("identical answers")


def check_answer(answer: Messages, what: str) -> None:
    """Check that an answer is made of assistant turns and says something.

    Raises:
        Aside: it is not.
    """
    if not answer:
        raise Aside(f"broken roles: {what} has no assistant turn")
    for message in answer:
        if message["role"] not in ("assistant", "tool"):
            raise Aside(f"broken roles: {what} contains a turn of the {message['role']}")
    if not any(m["content"].strip() for m in answer if m["role"] == "assistant"):
        raise Aside(f"{what} is empty")


def check_prompt(prompt: Messages) -> None:
    """Check that a prompt ends with the user, its turns alternate, and a system turn stands first.

    Raises:
        Aside: it does not.
    """
    if not prompt:
        raise Aside("the prompt is empty")
    for i, message in enumerate(prompt):
        if message["role"] == "system" and i > 0:
            raise Aside(f"broken roles: a system turn at position {i + 1} of the prompt")
        if i and message["role"] == prompt[i - 1]["role"] != "tool":
            raise Aside(f"broken roles: two {message['role']} turns in a row at position {i + 1} of the prompt")
    if prompt[-1]["role"] not in ("user", "tool"):
        raise Aside(f"broken roles: the last turn of the prompt is the {prompt[-1]['role']}'s")
    if not prompt[-1]["content"].strip():
        raise Aside("the prompt is empty")
