"""FSDP2: weights that are shared out among processes, saved part by part and put together in the end.

Every process writes the parts it holds, of the weights and of AdamW's two moments, to a safetensors file of its own; nothing is gathered, and a resumed run must have as many processes.
"""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from assay.errors import AssayError
from assay.model.network import Network, as_reward_model, use_attention

MOMENTS = ("exp_avg", "exp_avg_sq")


def share_out(network: Network) -> None:
    """Share the weights of ``network`` out among the processes, layer by layer, in place. Each gathers a layer's when it is computed."""
    from torch.distributed.fsdp import fully_shard

    kinds = set(network.model._no_split_modules or ())
    for module in network.modules():
        if type(module).__name__ in kinds:
            fully_shard(module)
    fully_shard(network)
    network.is_distributed_loading_by_transformers = True  # type: ignore[assignment]  # so the Trainer calls a model that is shared out already


def save_parts(network: Network, optimizer: Any, folder: Path, rank: int, processes: int) -> None:
    """Write what this process holds to ``folder``."""
    parts = {}
    for name, weight in network.named_parameters():
        parts[name] = _own(weight.detach())
        state = optimizer.state[weight]
        parts |= {f"{name}|{key}": _own(state[key]) for key in (*MOMENTS, "step")}
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(parts, _file(folder, rank, processes))


def load_weights(network: Network, folder: Path, rank: int, processes: int) -> None:
    """Put the weights that ``save_parts`` wrote back, in place.

    Raises:
        AssayError: another number of processes wrote them.
    """
    parts = _parts(folder, rank, processes)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            _own(weight).copy_(parts[name])


def load_moments(network: Network, optimizer: Any, folder: Path, rank: int, processes: int) -> None:
    """Put the optimizer's state back, in place."""
    from torch.distributed.tensor import DTensor

    parts = _parts(folder, rank, processes)
    for name, weight in network.named_parameters():
        moments = {
            key: DTensor.from_local(parts[f"{name}|{key}"].to(weight.device), weight.device_mesh, weight.placements, shape=weight.shape, stride=weight.stride())  # type: ignore[attr-defined]
            for key in MOMENTS
        }
        optimizer.state[weight] = {"step": parts[f"{name}|step"].to(weight.device), **moments}


def whole_weights(network: Any, model: Any, rank: int) -> Any:
    """The weights put together in a plain model like ``model``, in the first process; None in the others. All processes must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank:
        return None
    whole = as_reward_model(AutoModelForSequenceClassification.from_config(model.config))
    whole.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    use_attention(whole)
    return whole


def _own(tensor: Any) -> Tensor:
    """The part of a tensor that this process holds."""
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own


def _file(folder: Path, rank: int, processes: int) -> Path:
    return folder / f"part-{rank + 1}-of-{processes}.safetensors"


def _parts(folder: Path, rank: int, processes: int) -> dict[str, Tensor]:
    file = _file(folder, rank, processes)
    if not file.is_file():
        there = ", ".join(sorted(f.name for f in folder.glob("part-*.safetensors"))) or "no parts"
        raise AssayError(f"{folder}: has {there}, but {processes} processes resume; start as many as the run was begun with, all of which see this folder, or delete it to begin anew")
    parts: dict[str, Tensor] = safetensors.torch.load_file(file)
    return parts
