"""LoRA: low-rank additions to the backbone, and the whole head, trained and saved together (peft).

A head that is not among what is trained, or not in the file, is the usual way to lose one; here it always is, and with it whatever else the backbone lacked, as the pooler of many encoders.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from assay.errors import MissingExtra
from assay.model.network import head_name


def adapt(model: Any, drawn: Sequence[str] = (), *, rank: int, alpha: int, dropout: float, modules: str | list[str]) -> Any:
    """``model`` with additions of ``rank``, in place: only they, the head and the modules ``drawn`` anew are trained. Returns peft's model around it.

    Raises:
        MissingExtra: peft is not installed.
        ValueError: no matrix has a name that ends as ``modules`` say.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise MissingExtra("training with LoRA", "lora") from None
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, modules_to_save=list(dict.fromkeys([head_name(model), *drawn])), bias="none")
    with _quiet():
        adapted = get_peft_model(model, config)
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # or peft would turn every input into fp32, which autocast turns back
    return adapted


def merge(adapted: Any, folder: Path) -> Any:
    """Write the adapter to ``folder`` in peft's format, add it into the weights, and return the plain model."""
    adapted.save_pretrained(folder, save_embedding_layers=False)  # the one row that was added is that of the padding
    if getattr(adapted.get_base_model(), "is_quantized", False):
        from peft import PeftModel

        with _quiet():
            adapted = PeftModel.from_pretrained(adapted.unload().dequantize(torch.float32), folder)  # to merge in four bits would round once more
    return adapted.merge_and_unload()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that peft reads an attribute of transformers by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
