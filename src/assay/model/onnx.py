"""A checkpoint as an ONNX graph: exported by PyTorch, run by ONNX Runtime or OpenVINO, scored through the same code and checked by the same contract."""

import logging
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from assay.errors import AssayError, MissingExtra
from assay.files import MANIFEST, check_replaceable, first_line, replacing, write_json
from assay.model import contract as contracts
from assay.model.loading import quiet

Run = Callable[[Any, Any], Any]
"""From token ids [n, t] and their mask to logits [n, k]."""
FILE = "model.onnx"
INT8 = "model_int8.onnx"


def graph(folder: Path) -> Path | None:
    """The ONNX graph of an export; None if the folder is none."""
    return next((folder / name for name in (FILE, INT8) if (folder / name).is_file()), None)


class OnnxModel(nn.Module):
    """Stands where a sequence classifier stands: ``input_ids`` and ``attention_mask`` in, an object with ``logits`` [n, k] out.

    A graph in int8 rounds its activations by the largest of the batch, so that a score would depend on its company; its sequences go one at a time.

    Args:
        file: the graph.
        openvino: run it by OpenVINO, which multiplies in bf16 where that is asked for; otherwise by ONNX Runtime, in fp32.

    Raises:
        MissingExtra: what runs it is not installed.
        AssayError: it cannot be opened.
    """

    def __init__(self, file: Path, openvino: bool = False) -> None:
        super().__init__()
        self.config = AutoConfig.from_pretrained(file.parent)
        self.file, self.alone = file, file.name == INT8
        try:
            self.run = _by_openvino(file) if openvino else _by_onnxruntime(file)
        except MissingExtra:
            raise
        except Exception as error:
            raise AssayError(f"{file}: cannot be opened by {'OpenVINO' if openvino else 'ONNX Runtime'} ({first_line(error)}); export it again") from None
        self.device = torch.device("cpu")

    def to(self, *_: Any, **__: Any) -> "OnnxModel":
        """Stays on the CPU."""
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """One pass."""
        ids, mask = input_ids.numpy(), attention_mask.numpy()
        parts = [(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(mask.sum(axis=1))] if self.alone else [(ids, mask)]
        try:
            logits = np.concatenate([self.run(*part) for part in parts])
        except Exception as error:
            raise AssayError(f"{self.file.name}: does not run on these token ids ({first_line(error)}); the graph and the tokenizer are not of the same model") from None
        return SimpleNamespace(logits=torch.from_numpy(logits))


def _by_onnxruntime(file: Path) -> Run:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("scoring with an ONNX export", "onnx") from None
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _by_openvino(file: Path) -> Run:
    try:
        import openvino
    except ImportError:
        raise MissingExtra("scoring by OpenVINO", "openvino") from None
    core = openvino.Core()
    read = core.read_model(file)
    compiled = cache(lambda precision: core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": precision}))
    compiled("f32")  # what cannot be compiled shall fail here

    def run(ids: Any, mask: Any) -> Any:
        return compiled("bf16" if torch.is_autocast_enabled("cpu") else "f32").infer_new_request([ids, mask])[0]

    return run


class _Logits(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def export(folder: Path, output: Path) -> None:
    """Write the checkpoint ``folder`` as an ONNX graph (fp32, any batch and length) with its tokenizer and its contract to ``output``.

    Raises:
        AssayError: there is no contract, the graph cannot be made, or ``output`` cannot be replaced.
        MissingExtra: onnx and onnxscript are not installed.
    """
    check_replaceable(output, folder)
    contract = contracts.read(folder)
    if graph(folder):
        raise AssayError(f"{folder}: is an ONNX export already")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtra("exporting to ONNX", "onnx") from None
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.config.use_cache = False
    with replacing(output, folder) as made:
        _draw(model, folder, made / FILE)
        for file in folder.iterdir():
            if file.suffix in (".json", ".jinja", ".txt", ".model", ".parquet") and file.name not in (MANIFEST, "model.safetensors.index.json"):
                shutil.copy(file, made / file.name)
        weights = contracts.weights_sha256(made)
        contracts.write(made, contract.model_copy(update={"weights_sha256": weights, "measured_with": contract.measured_with and weights, "head_sha256": None}))
        write_json(made / MANIFEST, {"contract": contracts.FILE, "exported_from": str(folder), "format": "onnx"})


def _draw(model: Any, folder: Path, file: Path) -> None:
    """The graph of the model of ``folder`` to ``file``."""
    ids = torch.randint(5, 50, (3, 17))
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                _Logits(model), (ids, torch.ones_like(ids)), file, input_names=["input_ids", "attention_mask"], output_names=["logits"],
                dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic}, dynamo=True, external_data=False, verbose=False,
            )
        except Exception as error:
            raise AssayError(f"{folder}: {type(model).__name__} cannot be exported to ONNX ({str(error).splitlines()[0]})") from None


def round_to_int8(folder: Path, output: Path) -> None:
    """Write the export ``folder`` with its weights in int8 to ``output``; products of them are computed in int8, with activations rounded as they come.

    The contract still has the scores of the graph it was made from: set it right with ``assay.model.checkpoint.rescore``.

    Raises:
        AssayError: ``output`` cannot be replaced.
        MissingExtra: onnx and ONNX Runtime are not installed.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise MissingExtra("rounding to int8", "onnx") from None
    with replacing(output, folder) as made:
        shutil.copytree(folder, made, ignore=shutil.ignore_patterns(FILE), dirs_exist_ok=True)
        logging.disable(logging.WARNING)  # it advises a step that was done
        try:
            quantize_dynamic(folder / FILE, made / INT8, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True, op_types_to_quantize=["MatMul", "Gemm"])
        finally:
            logging.disable(logging.NOTSET)
