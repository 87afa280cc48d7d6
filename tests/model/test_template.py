"""The chat template is held still, and what cannot be held still is refused."""

from pathlib import Path

import pytest

import tiny
from assay.errors import AssayError
from assay.model import template
from assay.model.reward_model import PAD, from_backbone

CONVERSATION = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_date_and_thinking_are_frozen(tmp_path: Path) -> None:
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}{% if enable_thinking is defined and enable_thinking is false %} no thinking{% endif %}:" + tiny.CHATML
    reward_model = from_backbone(str(tiny.decoder(tmp_path, dated)), 96, 0)
    text = template.render(reward_model.tokenizer, CONVERSATION)
    assert text.startswith("26 Jul 2024 no thinking:<|im_start|>user")
    assert "strftime_now" not in reward_model.tokenizer.chat_template


def test_a_clock_that_cannot_be_held_still_is_refused() -> None:
    with pytest.raises(AssayError, match="reads the clock"):
        template.freeze("{{ strftime_now(format(x)) }}")


def test_a_decoder_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no chat template"):
        from_backbone(str(tiny.decoder(tmp_path, None)), 96, 0)


def test_a_pad_token_that_is_eos_is_replaced(tiny_decoder: Path) -> None:
    reward_model = from_backbone(str(tiny_decoder), 96, 0)
    assert reward_model.tokenizer.pad_token == PAD
    assert reward_model.model.config.pad_token_id == reward_model.tokenizer.pad_token_id != reward_model.tokenizer.eos_token_id


def test_special_tokens_are_added_once(tiny_encoder: Path, tiny_decoder: Path) -> None:
    encoder, decoder = from_backbone(str(tiny_encoder), 96, 0), from_backbone(str(tiny_decoder), 96, 0)
    (ids,), _ = encoder.encode([CONVERSATION])
    assert ids.count(encoder.tokenizer.cls_token_id) == 1
    assert ids[0] == encoder.tokenizer.cls_token_id
    (ids,), _ = decoder.encode([CONVERSATION])
    assert ids.count(decoder.tokenizer.bos_token_id) == 2  # once a turn: ChatML's


def test_a_conversation_the_template_refuses_is_one_clear_error(tmp_path: Path) -> None:
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + tiny.CHATML
    reward_model = from_backbone(str(tiny.decoder(tmp_path, picky)), 96, 0)
    with pytest.raises(AssayError, match="refuses a conversation with the roles system, user, assistant: no system turn"):
        reward_model.encode([[{"role": "system", "content": ""}, *CONVERSATION]])


def test_a_template_that_asks_whether_there_is_a_clock_is_held_still(tmp_path: Path) -> None:
    """As those of Llama 3.1 and 3.2 do."""
    asks = (
        "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '1 Jan 2000' %}{%- endif %}{%- endif %}"
        "Today: {{ date_string }}\n" + tiny.CHATML
    )
    reward_model = from_backbone(str(tiny.decoder(tmp_path, asks)), 96, 0)
    assert template.render(reward_model.tokenizer, CONVERSATION).startswith("Today: 26 Jul 2024\n<|im_start|>user")


def test_what_is_frozen_stays_as_it_is() -> None:
    dated = "{{ date_string }}{% if enable_thinking %}?{% endif %}{% for m in messages %}{{ m['content'] }}{% endfor %}{{ strftime_now('%Y') }}"
    once = template.freeze(dated)
    assert once != dated
    assert template.freeze(once) == once
