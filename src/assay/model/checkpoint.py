"""Saving and loading a trained reward model with its contract."""

import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from assay import __version__
from assay.errors import AssayError
from assay.files import MANIFEST, replacing, write_json
from assay.model import contract as contracts
from assay.model.backbones import text_hash
from assay.model.contract import TOLERANCE, Canary, Contract
from assay.model.network import head_name, pooled_position
from assay.model.reward_model import RewardModel, from_checkpoint


def save(reward_model: RewardModel, folder: Path, *, measured: dict[str, Any] | None = None, manifest: dict[str, Any] | None = None, adapter: Path | None = None) -> Contract:
    """Write a checkpoint that plain transformers loads, its contract, and last its manifest. All or nothing.

    Args:
        reward_model: the model; saved in fp32.
        folder: where to; a checkpoint that is there is replaced.
        measured: ``mean``, ``std``, ``measured_on`` and ``temperature`` of the rewards.
        manifest: more to write into the manifest, such as its fingerprint.
        adapter: a folder with the LoRA adapter that was added into the weights, to lie beside them.

    Raises:
        AssayError: ``folder`` holds something else than a checkpoint.
    """
    with replacing(folder) as made:
        return _write(reward_model, made, measured, manifest, adapter)


def _write(reward_model: RewardModel, folder: Path, measured: dict[str, Any] | None, manifest: dict[str, Any] | None, adapter: Path | None) -> Contract:
    reward_model.model.save_pretrained(folder)
    reward_model.tokenizer.save_pretrained(folder)
    weights = contracts.weights_sha256(folder)
    contract = Contract(
        attributes=list(reward_model.merge),
        merge=reward_model.merge,
        template_sha256=text_hash(reward_model.tokenizer.chat_template),
        add_special_tokens=reward_model.add_special_tokens,
        bos_token=reward_model.tokenizer.bos_token or reward_model.tokenizer.cls_token,
        pooled=pooled_position(reward_model.model),
        max_length=reward_model.max_length,
        tokenizer_sha256=contracts.tokenizer_sha256(folder),
        weights_sha256=weights,
        head_sha256=contracts.head_sha256(folder, head_name(reward_model.model)),
        settings=contracts.settings(folder),
        measured_with=weights if measured else None,
        canaries=score_canaries(reward_model, contracts.canary_conversations(reward_model.max_length)),
        made_with={"assay": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        **(measured or {}),
    )
    contracts.write(folder, contract)
    if adapter:
        shutil.copytree(adapter, folder / "adapter")
    write_json(folder / MANIFEST, {"contract": contracts.FILE, **(manifest or {})})
    return contract


def score_canaries(reward_model: RewardModel, conversations: list[contracts.Conversation]) -> list[Canary]:
    """The canaries with what this model makes of them, one at a time, in fp32."""
    was_training = reward_model.model.training
    reward_model.model.eval()
    ids, _ = reward_model.encode(conversations)
    with torch.inference_mode():
        outputs = [reward_model.outputs([one]) for one in ids]
    reward_model.model.train(was_training)
    return [
        Canary(conversation=c, tokens=len(one), ids_sha256=contracts.ids_sha256(one), score=float(reward_model.merged(o)[0]), outputs=_named(reward_model, o))
        for c, one, o in zip(conversations, ids, outputs, strict=True)
    ]


def _named(reward_model: RewardModel, outputs: torch.Tensor) -> dict[str, float] | None:
    return dict(zip(reward_model.merge, outputs[0].tolist(), strict=True)) if len(reward_model.merge) > 1 else None


def rescore(folder: Path, rounded: str) -> Contract:
    """Set the contract of a checkpoint whose weights were rounded right: canaries and hashes are of the rounded weights, and its tolerance is their distance from the scores before."""
    before = contracts.read(folder)
    reward_model = from_checkpoint(folder, before.max_length, before.add_special_tokens, before.weights)
    canaries = score_canaries(reward_model, [c.conversation for c in before.canaries])
    moved = apart([c.score for c in canaries], [c.score for c in before.canaries])
    weights = contracts.weights_sha256(folder)
    after = before.model_copy(update={"rounded": rounded, "canaries": canaries, "tolerance": max(TOLERANCE, moved), "weights_sha256": weights, "measured_with": before.measured_with and weights})
    contracts.write(folder, after)
    return after


def load(folder: Path, *, allow_drift: float | None = None, openvino: bool = False) -> tuple[RewardModel, Contract]:
    """Load a checkpoint and its contract, and check the canaries.

    Args:
        folder: the checkpoint.
        allow_drift: how far a canary may be from its golden score beyond the contract's tolerance; then a warning names the cause.
        openvino: run an ONNX export by OpenVINO.

    Raises:
        AssayError: it cannot be loaded, or a canary does not get its golden score.
    """
    contract = contracts.read(folder)
    reward_model = from_checkpoint(folder, contract.max_length, contract.add_special_tokens, contract.weights, openvino=openvino)
    worst = drift(reward_model, contract)
    if not worst <= contract.tolerance:  # NaN is no agreement
        from assay.model.doctor import cause  # which loads checkpoints itself

        said = f"{folder}: a canary differs by {worst:.2g} from the score it was saved with: {cause(folder)}"
        if allow_drift is None or not worst <= allow_drift:
            raise AssayError(f"{said}. Run `assay doctor {folder}`, or allow it with --allow-drift (now {allow_drift or contract.tolerance:g})")
        warnings.warn(said, stacklevel=2)
    return reward_model, contract


def drift(reward_model: RewardModel, contract: Contract) -> float:
    """Largest difference between a canary's score now and its golden score."""
    now = score_canaries(reward_model, [c.conversation for c in contract.canaries])
    return apart([c.score for c in now], [c.score for c in contract.canaries])


def apart(a: list[float], b: list[float]) -> float:
    """Largest difference; NaN if one is, which ``max`` would pass over."""
    differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)
