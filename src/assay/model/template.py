"""The chat template of a reward model: one text for one conversation, today and in ten years.

A template may read the date, switch a thinking mode, add a system turn or open a new answer. Each of these moves every
score. ``freeze`` takes them out; the frozen template is saved with the checkpoint and is the only one ever used.
"""

import re
from collections.abc import Sequence
from typing import Any

from assay.errors import AssayError

ENCODER = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if not loop.last %}{{ sep_token }}{% endif %}{% endfor %}"
)
"""For encoders, which have no template of their own: turns with their roles, parted by the separator token."""

CHATML = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
"""ChatML without the default system turn that SmolLM2's own template puts before every conversation."""

FROZEN_DATE = "26 Jul 2024"


def freeze(template: str) -> str:
    """``template`` with the date and the thinking switch held still; one that is frozen stays as it is.

    Raises:
        AssayError: it reads the clock in a way that cannot be held still.
    """
    still = {"date_string": "{%- set date_string = '" + FROZEN_DATE + "' %}", "enable_thinking": "{%- set enable_thinking = false %}"}
    head = "".join(line for name, line in still.items() if name in template and line not in template)
    template = re.sub(r"strftime_now\([^()]*\)", f"'{FROZEN_DATE}'", template)
    template = re.sub(r"\bstrftime_now\s+is\s+defined", "true", template)
    if "strftime_now" in template or "now(" in template:
        raise AssayError("the chat template reads the clock in a way Assay cannot hold still; set tokenizer.chat_template to a fixed one and save the model again")
    return head + template


def for_training(tokenizer: Any, is_encoder: bool) -> str:
    """The frozen template that a model starts its training with.

    Raises:
        AssayError: the model has no chat template and is no encoder.
    """
    if tokenizer.chat_template:
        return freeze(tokenizer.chat_template)
    if is_encoder:
        return ENCODER
    raise AssayError("the tokenizer has no chat template; set tokenizer.chat_template (ChatML is a good choice) and save it again")


def completed(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Texts with the template in them, and what clients take off such texts: the first token, which they leave to the server to add, and the white space at the end, since a policy stops before it."""
    whole = render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\0"}])
    tail = whole.rpartition("\0")[2]
    end = tail.rstrip()
    head = tokenizer.bos_token if tokenizer.bos_token and whole.startswith(tokenizer.bos_token) else ""
    return [("" if text.startswith(head) else head) + text + (tail[len(end) :] if end and text.endswith(end) else "") if text else "" for text in texts]


def render(tokenizer: Any, conversation: list[dict[str, str]]) -> str:
    """The text of a conversation: the frozen template, no generation prompt, nothing added.

    Raises:
        AssayError: the template refuses the conversation.
    """
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=False)
    except Exception as error:
        roles = ", ".join(m["role"] for m in conversation)
        raise AssayError(f"the chat template of the model refuses a conversation with the roles {roles}: {error}") from None
    return str(text)
