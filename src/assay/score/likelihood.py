"""How likely answers are under a causal language model, with and without their prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from assay.curate.step import Likelihood
from assay.errors import AssayError
from assay.files import first_line, read_parquet, write_parquet
from assay.model.backbones import locate
from assay.model.batching import by_length
from assay.model.network import use_attention
from assay.model.reward_model import best_device, in_precision, precision_of
from assay.pairs.schema import Message, answer_text
from assay.screen import Quiet, Screen

CHUNK = 256
"""Pairs measured before the result is written down."""
TOKENS = 2_048
"""Tokens that go through the model at once; every one has logits over the whole vocabulary."""
SIDES = ("chosen", "rejected", "chosen_alone", "rejected_alone")


def measurer(screen: Screen | None = None) -> Likelihood:
    """A ``Likelihood`` for ``assay.curate.runner.curate`` that runs real models; ``screen`` shows how far each is."""
    shown = screen or Quiet()

    def measure(model: str, pairs: pl.DataFrame, max_tokens: int, workdir: Path) -> pl.DataFrame:
        parts, loaded = [], None
        starts = range(0, pairs.height, CHUNK)
        with shown.bar(f"  likelihood under {model}", len(starts)) as tick:
            for number, start in enumerate(starts):
                file = workdir / "likelihood" / f"{number:06d}.parquet"
                if not file.is_file():
                    loaded = loaded or CausalModel(model)
                    write_parquet(file, loaded.losses(pairs.slice(start, CHUNK), max_tokens))
                parts.append(read_parquet(file))
                tick(number + 1, len(starts))
        return pl.concat(parts) if parts else pl.DataFrame(schema=dict.fromkeys(SIDES, pl.Float64))

    return measure


class CausalModel:
    """A causal language model and its tokenizer, loaded once, computed in ``precision``.

    Raises:
        AssayError: the model cannot be loaded, or is no causal language model.
    """

    def __init__(self, model: str, precision: str = "auto") -> None:
        source = locate(model)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self.model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True).to(best_device()).eval()
            use_attention(self.model)
        except Exception as error:
            raise AssayError(f"{model}: cannot be loaded as a causal language model ({first_line(error)})") from None
        if not getattr(self.model.config, "is_decoder", True) or self.model.config.model_type == "bert":
            raise AssayError(f"{model}: is an encoder; `perplexity` needs a causal language model such as smollm2")
        self.precision = precision_of(precision, best_device())
        self.context = int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20)
        self.start = next((i for i in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if i is not None), 0)

    def losses(self, pairs: pl.DataFrame, max_tokens: int) -> pl.DataFrame:
        """Mean negative log likelihood of the answers' tokens in nats: SIDES. An answer without a token has none (NaN).

        An answer keeps its beginning and a prompt its end where both are longer than ``max_tokens``.
        """
        answers = {side: self._tokens([answer_text(m) for m in pairs[side]], max_tokens - 1) for side in ("chosen", "rejected")}
        contexts = self._tokens([self._prompt(m) for m in pairs["prompt"]], None)
        sequences, lengths = [], []
        for side in SIDES:
            for context, answer in zip(contexts, answers[side.removesuffix("_alone")], strict=True):
                before = [self.start] if side.endswith("_alone") else (context or [self.start])[-max(1, max_tokens - len(answer)) :]
                sequences.append(before + answer)
                lengths.append(len(answer))
        values = self._mean_losses(sequences, lengths)
        return pl.DataFrame({side: values[i * pairs.height : (i + 1) * pairs.height] for i, side in enumerate(SIDES)}, schema=dict.fromkeys(SIDES, pl.Float64))

    def answers(self, conversations: Sequence[Sequence[Message]], max_tokens: int) -> tuple[list[float], list[int], list[bool]]:
        """Of the last turn of each conversation, given the ones before: its mean negative log likelihood in nats, its tokens, and whether something was cut off."""
        texts = self._tokens([answer_text(c[-1:]) for c in conversations], None)
        contexts = self._tokens([self._prompt([dict(m) for m in c[:-1]]) for c in conversations], None)
        sequences, lengths = [], []
        for context, answer in zip(contexts, texts, strict=True):
            kept = answer[: max_tokens - 1]
            sequences.append((context or [self.start])[-max(1, max_tokens - len(kept)) :] + kept)
            lengths.append(len(kept))
        cut = [max(len(context), 1) + len(answer) > max_tokens for context, answer in zip(contexts, texts, strict=True)]
        return self._mean_losses(sequences, lengths), lengths, cut

    def _prompt(self, messages: list[dict[str, str]]) -> str:
        if not len(messages):
            return ""
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "\n\n".join(m["content"] for m in messages) + "\n\n"

    def _tokens(self, texts: list[str], most: int | None) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [one[:most] for one in ids]

    def _mean_losses(self, sequences: list[list[int]], lengths: list[int]) -> list[float]:
        """For each sequence the mean loss of its last ``length`` tokens."""
        values = [float("nan")] * len(sequences)
        device = next(self.model.parameters()).device
        with torch.inference_mode(), in_precision(self.precision, device):
            for batch in by_length([len(s) for s in sequences], TOKENS):
                ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(sequences[i]) for i in batch], batch_first=True).to(device)
                mask = torch.zeros_like(ids)
                for row, i in enumerate(batch):
                    mask[row, : len(sequences[i])] = 1
                logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                for row, i in enumerate(batch):
                    if lengths[i]:
                        answer = slice(len(sequences[i]) - lengths[i], len(sequences[i]))
                        values[i] = float(_mean_loss(logits[row], ids[row], answer))
        return values


def _mean_loss(logits: Tensor, ids: Tensor, these: slice) -> Tensor:
    """Mean loss of these tokens of a sequence, each told by what stands before it; the logarithm is taken in fp32."""
    return torch.nn.functional.cross_entropy(logits[these.start - 1 : these.stop - 1].float(), ids[these])
