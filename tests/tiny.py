"""Tiny random models with real tokenizers, made on the spot: nothing is downloaded for them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def encoder(folder: Path) -> Path:
    """A two-layer BERT with a character WordPiece tokenizer, as a folder."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    characters = [chr(c) for c in range(33, 127)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*specials, *characters, *("##" + c for c in characters)]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=64))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=256, pad_token_id=0)
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def decoder(folder: Path, template: str | None = CHATML) -> Path:
    """A two-layer Llama with a byte tokenizer whose pad token is its eos, as a folder: the trap most chat models set."""
    return backbone(folder, LlamaConfig, template)


def backbone(folder: Path, kind: type[PreTrainedConfig], template: str | None = CHATML, **settings: Any) -> Path:
    """A two-layer decoder of any architecture with a byte tokenizer whose pad token is its eos, as a folder."""
    tokenizer = byte_tokenizer(template)
    torch.manual_seed(0)
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 512}
    config = kind(vocab_size=len(tokenizer), pad_token_id=1, eos_token_id=1, bos_token_id=0, **{**usual, **settings})
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Every byte a token; the pad token is the eos."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = template
    return fast
