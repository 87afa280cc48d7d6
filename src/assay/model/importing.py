"""Reward models that other projects saved in ways of their own, as standard checkpoints with a contract.

- OpenRLHF: a causal model's files with a head of any name (``value_head``, ``score``), often with ``num_labels`` left at 2 in its configuration.
- LlamaFactory: a causal model, and its head ``v_head.summary`` in ``value_head.safetensors``.
- ArmoRM: ``regression_layer``, one row an attribute. Its gating of the attributes by the prompt is no weighted sum and is not carried over.
- Encoders (BERT, DeBERTa, ModernBERT and their like) with a head of their own, which stays as it is.
- Two labels: a classifier trained where a reward was meant. Which label is the reward must be said.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from assay.errors import AssayError
from assay.files import check_replaceable, first_line, read_json
from assay.model import checkpoint
from assay.model.reward_model import ELSEWHERE, from_backbone
from assay.model.template import ENCODER

HEADS = ("score", "classifier", "classifier.out_proj", *ELSEWHERE)
"""Names a head goes by."""
NO_PART = ("lm_head.", "gating.", "pretrained_model.lm_head.")


def import_model(folder: Path, output: Path, *, attributes: Sequence[str] = ("reward",), label: int | None = None, max_length: int = 1024) -> list[str]:
    """Write the reward model in ``folder`` as a checkpoint with a contract to ``output``; what had to be changed, a line each.

    Args:
        attributes: names of the head's rows, in their order.
        label: of a head with two labels: which of them is the reward. The logit of its probability is taken, its row minus the other.
        max_length: tokens a conversation may have.

    Raises:
        AssayError: there is no head, more than one, or one of another size than there are attributes; or ``output`` cannot be replaced.
    """
    if len(set(attributes)) != len(attributes):
        raise AssayError(f"--attribute: a name stands twice ({', '.join(attributes)})")
    check_replaceable(output, folder)
    weights = _weights(folder)
    name = _head(folder, weights)
    config = read_json(folder / "config.json")
    decoder = _scores(folder)
    head, bias = weights.pop(f"{name}.weight").float(), weights.pop(f"{name}.bias", None)
    target = "score" if decoder else name
    said = [] if name == target else [f"the head `{name}` is now `{target}`"]
    if label is not None and head.shape[0] != 2:
        raise AssayError(f"{folder}: --label says which of two labels is the reward, but the head has {head.shape[0]} output{'s' if head.shape[0] > 1 else ''}; leave it out")
    if head.shape[0] == 2 and len(attributes) == 1:
        if label not in (0, 1):
            raise AssayError(f"{folder}: the head has two labels, so it is a classifier, not one reward. Say which label is the better answer with --label 0 or --label 1; its logit against the other becomes the reward")
        head = head[label : label + 1] - head[1 - label : 2 - label]
        bias = None if bias is None else bias[label : label + 1] - bias[1 - label : 2 - label]
        said.append(f"two labels became one reward: label {label} minus label {1 - label}")
    if head.shape[0] != len(attributes):
        raise AssayError(f"{folder}: the head has {head.shape[0]} outputs, but {len(attributes)} {'name is' if len(attributes) == 1 else 'names are'} given; name each with --attribute, in their order")
    new = {f"{target}.weight": head}
    if bias is not None and not decoder:
        new[f"{target}.bias"] = bias
    elif bias is not None and bool((bias != 0).any()):
        said.append(f"the head's bias ({', '.join(f'{b:.4g}' for b in bias.tolist())}) is left out: standard decoder heads have none. Rewards change by a constant; differences between them don't")
    kept = {key.removeprefix("pretrained_model."): tensor for key, tensor in weights.items() if not key.startswith(NO_PART)}
    dropped = sorted({key.split(".")[0] for key in weights if key.startswith(NO_PART)})
    if dropped:
        said.append(f"left out, as no part of a reward: {', '.join(dropped)}")
    with tempfile.TemporaryDirectory(dir=output.parent if output.parent.is_dir() else None) as temporary:
        _write(folder, Path(temporary), {**kept, **new}, len(attributes), said)
        limit = config.get("max_position_embeddings")
        if limit and max_length > limit:
            raise AssayError(f"{folder}: has only {limit} positions; give --max-length {limit} or less")
        reward_model = from_backbone(temporary, max_length, 0, attributes, whole=True)
        if reward_model.tokenizer.chat_template == ENCODER:
            said.append("it had no chat template, so Assay's is used: where it was trained on texts in another form, its rewards mean little")
        checkpoint.save(reward_model, output, manifest={"imported_from": str(folder), "changes": said, "fingerprint": None})
    return said


def _weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt"))]
        hint = f"; {pickled[0]} is a pickle, which can run code when it is opened: convert it to safetensors where you trust it" if pickled else ""
        raise AssayError(f"{folder}: no safetensors file{hint}")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                weights.update({name: tensors.get_tensor(name) for name in list(tensors.keys())})
        except SafetensorError as error:
            raise AssayError(f"{file}: damaged ({first_line(error)}); copy it again from where it was made") from None
    return weights


def _head(folder: Path, weights: dict[str, Tensor]) -> str:
    found = [name for name in HEADS if f"{name}.weight" in weights and weights[f"{name}.weight"].ndim == 2]
    if not found:
        small = [name for name, tensor in weights.items() if tensor.ndim == 2 and tensor.shape[0] < 64]
        raise AssayError(f"{folder}: no head among its weights (looked for {', '.join(HEADS)}); small matrices there: {', '.join(small) or 'none'}. Without its head a reward model is a backbone: train it again")
    if len(found) > 1:
        raise AssayError(f"{folder}: several heads among its weights: {', '.join(found)}; delete the ones that are not the reward's")
    return found[0]


def _scores(folder: Path) -> bool:
    """Whether the classifier that transformers makes of the model is a decoder's, whose head is called ``score`` and has no bias."""
    try:
        with torch.device("meta"):
            return hasattr(AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder)), "score")
    except Exception as error:
        raise AssayError(f"{folder}: transformers makes no classifier of it ({first_line(error)})") from None


def _write(folder: Path, temporary: Path, weights: dict[str, Tensor], outputs: int, said: list[str]) -> None:
    """The files of a standard classifier."""
    for file in folder.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja") and "index" not in file.name:
            shutil.copy(file, temporary / file.name)
    config: dict[str, Any] = read_json(folder / "config.json")
    given = config.get("num_labels", len(config.get("id2label") or {}) or None)
    if given not in (None, outputs):
        said.append(f"config.json said {given} labels, the head has {outputs}")
    for key in ("id2label", "label2id", "architectures", "auto_map"):
        config.pop(key, None)
    if config.get("mean") is not None and config.get("std") is not None:
        said.append(f"rewards are not normalised any more (mean {config['mean']}, std {config['std']} were in config.json)")
    config["num_labels"] = outputs
    (temporary / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file({name: tensor.contiguous().to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, temporary / "model.safetensors", metadata={"format": "pt"})
