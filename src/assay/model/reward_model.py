"""A reward model in memory: the network, its tokenizer, and the one way by which a conversation becomes a number. Several threads may score with it at once.

The network is a plain ``AutoModelForSequenceClassification``. With one label the reward is its logit, with several it is their weighted sum, so that plain
transformers gives the same numbers. Assay adds two things: the head runs in fp32 whatever the precision of the rest, and conversations are
rendered and tokenised by the contract.
"""

import contextlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from assay.errors import AssayError, MissingExtra
from assay.files import first_line
from assay.model import onnx, template
from assay.model.layout import Name
from assay.model.loading import quiet
from assay.model.network import Network, as_reward_model, head_of, is_decoder, layout_for, use_attention

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop", "summary_last_dropout", "mlp_dropout", "embedding_dropout", "pooler_dropout", "classifier_dropout_prob")
PAD = "<|assay_pad|>"
ELSEWHERE = ("value_head", "v_head.summary", "v_head", "regression_layer", "reward_head")
"""Names of heads that other projects train and transformers passes over."""
HEADS = ("score", "classifier", "pooler", "head")
"""Parts that are trained whole, so never held in four bits."""


@dataclass(slots=True)
class RewardModel:
    """A network that gives a conversation a reward."""

    model: Any
    tokenizer: Any
    max_length: int
    add_special_tokens: bool
    merge: dict[str, float] = field(default_factory=lambda: {"reward": 1.0})
    """The model's outputs in their order, and what each weighs in the reward."""
    drawn: tuple[str, ...] = ()
    """Modules that the backbone had no weights for and that were drawn anew, the head as a rule."""
    _layout: Name | None = field(default=None, init=False, repr=False, compare=False)
    _cutting: Any = field(default=None, init=False, repr=False, compare=False)

    def encode(self, conversations: Sequence[list[dict[str, str]]]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each conversation, at most ``max_length``, and whether it was longer (then its beginning is lost)."""
        return self.encode_texts([template.render(self.tokenizer, c) for c in conversations])

    def encode_texts(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """The same of texts to which the chat template has been applied already."""
        ids = _tokenised(self.tokenizer, texts, self.add_special_tokens)
        truncated = [len(one) > self.max_length for one in ids]
        long = [i for i, cut in enumerate(truncated) if cut]
        if long:
            if self._cutting is None or self._cutting.truncation_side != self.tokenizer.truncation_side:
                self._cutting = _that_cuts(self.tokenizer, self.max_length)
            for i, one in zip(long, _tokenised(self._cutting, [texts[i] for i in long], self.add_special_tokens, self.max_length), strict=True):
                ids[i] = one
        return ids, truncated

    def best_layout(self) -> Name:
        """The layout that costs the fewest tokens; what the model can do is tried once."""
        if self._layout is None:
            self._layout = layout_for(self.model, None, self.tokenizer.pad_token_id)
        return self._layout

    def network(self, layout: Name = "padded") -> Network:
        """The network as a module that takes groups of token sequences."""
        return Network(self.model, self.tokenizer.pad_token_id, layout)

    def outputs(self, ids: Sequence[list[int]]) -> Tensor:
        """Outputs of token sequences, fp32 of shape [n, k]; one forward pass, padded to the longest."""
        network = self.network()
        outputs: Tensor = network(network.prepare([[one] for one in ids]))
        return outputs

    def merged(self, outputs: Tensor) -> Tensor:
        """Rewards [n] of outputs [n, k]."""
        if outputs.shape[1] == 1:
            return outputs[:, 0] * next(iter(self.merge.values()))
        return outputs @ torch.tensor(list(self.merge.values()), dtype=outputs.dtype, device=outputs.device)

    def rewards(self, ids: Sequence[list[int]]) -> Tensor:
        """Rewards of token sequences, fp32 of shape [n]; one forward pass, padded to the longest."""
        return self.merged(self.outputs(ids))

    def round_weights(self) -> None:
        """Hold the matrices of the backbone in bf16: what autocast would round them to before every pass, so the same scores, but from then on in bf16 alone."""
        self.best_layout()  # is tried in fp32
        of_the_head = set(head_of(self.model).modules())
        for module in self.model.modules():
            if isinstance(module, torch.nn.Linear) and module not in of_the_head:
                module.to(torch.bfloat16)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = self.model.device
        return device


def from_backbone(source: str, max_length: int, seed: int, attributes: Sequence[str] = ("reward",), whole: bool = False, four_bits: str | None = None) -> RewardModel:
    """A reward model to be trained, from a backbone (its head is new, drawn with ``seed``) or from a reward model (its head stays).

    With several ``attributes`` it has an output for each, which at first weigh the same. ``whole``: the head, too, must be there.
    ``four_bits``: hold its matrices in four bits, and compute with them in this precision (fp32 or bf16).

    Raises:
        AssayError: the model cannot be loaded, has a head of another size, or no chat template.
    """
    tokenizer = _tokenizer(source)
    config = _config(source)
    for name in _DROPOUTS:
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    config.num_labels = len(attributes)
    config.id2label, config.label2id = dict(enumerate(attributes)), {name: i for i, name in enumerate(attributes)}
    config.problem_type = "regression"
    torch.manual_seed(seed)
    model, missing = _load(source, config, whole=whole, four_bits=four_bits)
    tokenizer.chat_template = template.for_training(tokenizer, not is_decoder(model))
    _separate_pad(model, tokenizer)
    limit = _positions(model)
    if max_length > limit:
        raise AssayError(f"max_length is {max_length}, but {source} has only {limit} positions; set train.max_length to {limit} or less")
    tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length = "right", "left", max_length
    tokenizer.init_kwargs.update(padding_side="right", truncation_side="left")  # or they would not be saved
    use_attention(model)
    merge = {name: 1 / len(attributes) for name in attributes}
    drawn = tuple(sorted({key.rpartition(".")[0] for key in missing}))
    return RewardModel(as_reward_model(model), tokenizer, max_length, _adds_special_tokens(tokenizer), merge, drawn)


def from_checkpoint(folder: Path, max_length: int, add_special_tokens: bool, merge: dict[str, float] | None = None, settings: dict[str, Any] | None = None, openvino: bool = False) -> RewardModel:
    """A trained reward model, in fp32, exactly as saved. ``merge`` names its outputs and their weights, by default one reward; ``settings`` replace those of config.json;
    ``openvino`` says what runs an ONNX export.

    Raises:
        AssayError: the files cannot be loaded, or the head is missing or of another size.
    """
    tokenizer = _tokenizer(str(folder))
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    config = _config(str(folder))
    merge = merge or {"reward": 1.0}
    if graph := onnx.graph(folder):
        return RewardModel(onnx.OnnxModel(graph, openvino), tokenizer, max_length, add_special_tokens, merge)
    if openvino:
        raise AssayError(f"{folder}: OpenVINO runs an ONNX export, which this is not; make one with `assay export {folder} -o FOLDER`")
    if config.num_labels != len(merge):
        raise AssayError(f"{folder}: the head has {config.num_labels} labels, expected {len(merge)}; set num_labels to {len(merge)} in config.json if the weights have as many")
    for key, value in (settings or {}).items():
        setattr(config.get_text_config(), key, value)
    model = as_reward_model(_load(str(folder), config, whole=True)[0].eval())
    use_attention(model)
    return RewardModel(model, tokenizer, max_length, add_special_tokens, merge)


def precision_of(wish: str, device: torch.device) -> str:
    """``wish``, with ``auto`` decided: bf16 where the processor multiplies it fast, otherwise fp32."""
    if wish != "auto":
        return wish
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


@contextlib.contextmanager
def in_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Run the backbone in ``precision`` ("fp32" or "bf16")."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


def best_device() -> torch.device:
    """The GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _tokenizer(source: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise AssayError(f"{source}: the tokenizer cannot be loaded ({first_line(error)})") from None


def _config(source: str) -> Any:
    try:
        return AutoConfig.from_pretrained(source)
    except Exception as error:
        raise AssayError(f"{source}: the model cannot be loaded ({first_line(error)})") from None


def _load(source: str, config: Any, whole: bool = False, four_bits: str | None = None) -> tuple[Any, list[str]]:
    """The model, and the names of the weights that were not there."""
    more = {"quantization_config": _in_four_bits(four_bits)} if four_bits else {}
    with quiet():
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **more
            )
        except Exception as error:
            if "size mismatch" in str(error) or "ignore_mismatched_sizes" in str(error):
                raise AssayError(f"{source}: the saved head has another number of labels than the {config.num_labels} asked for. Start from the backbone it was made of, or see `assay explain importing`.") from None
            raise AssayError(f"{source}: the model cannot be loaded ({first_line(error)})") from None
    for module in model.modules() if four_bits else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes repacks weights when they score on such a processor: with rounded scales, for good, and not all sizes
            module.support_avx512bf16_for_cpu = False
    if whole and report["missing_keys"]:
        raise AssayError(f"{source}: weights are missing: {', '.join(sorted(report['missing_keys']))}; the head is lost if it is among them")
    elsewhere = [name for name in ELSEWHERE if f"{name}.weight" in report["unexpected_keys"]] or (["v_head"] if (Path(source) / "value_head.safetensors").is_file() else [])
    if elsewhere:
        raise AssayError(f"{source}: holds a trained head under another name (`{elsewhere[0]}`), which would be lost; make it a checkpoint first: assay import {source} -o FOLDER")
    return model, sorted(report["missing_keys"])


def _in_four_bits(precision: str) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise MissingExtra("weights in four bits", "qlora") from None
    computed = torch.bfloat16 if precision == "bf16" else torch.float32
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=computed, llm_int8_skip_modules=list(HEADS))


def _separate_pad(model: Any, tokenizer: Any) -> None:
    """Give the model a pad token that is nothing else: transformers reads the reward at the last token that is not padding."""
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.add_special_tokens({"pad_token": PAD})
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id


def _positions(model: Any) -> int:
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or 1 << 20
    if type(model).__name__.startswith(("Roberta", "XLMRoberta", "Camembert")):
        limit -= 2  # their positions start behind the padding index
    return int(limit)


def _tokenised(tokenizer: Any, texts: list[str], add_special_tokens: bool, max_length: int | None = None) -> list[list[int]]:
    if not texts:
        return []
    limit = {"truncation": True, "max_length": max_length} if max_length else {}
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=add_special_tokens, padding=False, verbose=False, **limit)["input_ids"]]


def _that_cuts(tokenizer: Any, max_length: int) -> Any:
    """A copy that always truncates: to switch it on and off in one that other threads use would cut their texts too, and it would be saved with the tokenizer's files."""
    copy = deepcopy(tokenizer)
    _tokenised(copy, ["x"], True, max_length)
    return copy


def _adds_special_tokens(tokenizer: Any) -> bool:
    """Whether special tokens must be added to a rendered text: not if the template writes them itself."""
    text = template.render(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    full = tokenizer(text, add_special_tokens=True)["input_ids"]
    return bool(full != bare and bare[0] not in tokenizer.all_special_ids)
