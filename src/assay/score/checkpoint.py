"""The scorer that most scorers are: a trained checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay.allocator import give_back, keep_freed
from assay.errors import AssayError
from assay.files import fingerprint, first_line
from assay.model import checkpoint
from assay.model.batching import by_length
from assay.model.contract import Contract
from assay.model.layout import size
from assay.model.onnx import OnnxModel
from assay.model.reward_model import RewardModel, best_device, in_precision, precision_of
from assay.model.sharing import by_beginning
from assay.pairs.schema import Message
from assay.pairs.sources import is_hub_id
from assay.remote import fetch, url
from assay.score.scorer import Scores, Tick

OPENVINO = "openvino:"


class CheckpointScorer:
    """Scores with a checkpoint whose contract was checked when it was loaded."""

    attributes: tuple[str, ...]

    def __init__(self, spec: str, precision: str = "auto", tokens_per_batch: int = 4_096, tick: Tick | None = None, allow_drift: float | None = None) -> None:
        self.spec = spec
        self.openvino = spec.startswith(OPENVINO)
        self.folder = folder_of(spec.removeprefix(OPENVINO))
        self.reward_model, self.contract = checkpoint.load(self.folder, allow_drift=allow_drift, openvino=self.openvino)
        self.drifted = None if allow_drift is None else _drifted(self.reward_model, self.contract)
        self.attributes = names_of(self.reward_model)
        self.reward_model.model.to(best_device())
        if self.reward_model.device.type == "cpu":
            keep_freed()
        by_onnxruntime = isinstance(self.reward_model.model, OnnxModel) and not self.openvino
        self.precision = (self.contract.rounded or "fp32") if by_onnxruntime else precision_of(precision, self.reward_model.device)
        self.tokens_per_batch, self.tick = tokens_per_batch, tick
        if self.precision == "bf16" and not isinstance(self.reward_model.model, OnnxModel):
            self.reward_model.round_weights()

    @property
    def fingerprint(self) -> str:
        """Names everything that moves a score: the contract, which names weights, tokenizer and template by their hashes, and the precision.

        Files that drifted are not those of the contract; then what the canaries score now is named too.
        """
        return fingerprint(self.contract.model_dump(exclude={"made_with"}), self.precision, *(["openvino"] if self.openvino else []), *(self.drifted or []))

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Rewards, shape [n, 1]; of a model with several attributes [n, 1 + k], the reward first. The same text is scored once; order, company and batch size don't change a score beyond rounding."""
        return score_with(self.reward_model, conversations, self.precision, self.tokens_per_batch, self.tick)


def _drifted(reward_model: RewardModel, contract: Contract) -> list[dict[str, Any]] | None:
    """What the canaries get now; None if that is what the contract says."""
    now = checkpoint.score_canaries(reward_model, [c.conversation for c in contract.canaries])
    if checkpoint.apart([c.score for c in now], [c.score for c in contract.canaries]) <= contract.tolerance:
        return None
    return [c.model_dump(exclude={"conversation"}) for c in now]


def names_of(reward_model: RewardModel) -> tuple[str, ...]:
    """What the columns of its scores are: the reward, and, if it is made of several, the attributes."""
    return ("reward", *reward_model.merge) if len(reward_model.merge) > 1 else ("reward",)


def score_with(reward_model: RewardModel, conversations: Sequence[Sequence[Message]], precision: str, tokens_per_batch: int, tick: Tick | None = None, network: Any = None) -> Scores:
    """Score conversations with a model in memory; what training, the scorer and the evaluation all call.

    A decoder computes what several conversations begin with once. ``network``: the model's ``Network`` where something has been done to it, such as sharing it out among processes.
    """
    ids, truncated = reward_model.encode([[dict(m) for m in c] for c in conversations])
    return Scores(score_tokens(reward_model, ids, precision, tokens_per_batch, tick, network), np.array(truncated, dtype=bool))


def score_tokens(reward_model: RewardModel, ids: Sequence[Sequence[int]], precision: str, tokens_per_batch: int, tick: Tick | None = None, network: Any = None) -> NDArray[np.float32]:
    """Scores of token sequences, shape [n, 1] or [n, 1 + k]."""
    first: dict[tuple[int, ...], int] = {}
    place = [first.setdefault(tuple(one), len(first)) for one in ids]
    distinct = [list(one) for one in first]
    values = np.zeros((len(distinct), len(names_of(reward_model))), dtype=np.float32)
    was_training = reward_model.model.training
    reward_model.model.eval()
    layout = "padded" if network or isinstance(reward_model.model, OnnxModel) else reward_model.best_layout()
    network = network or reward_model.network(layout)
    groups = by_beginning(distinct) if layout == "shared" else [[i] for i in range(len(distinct))]
    lengths = [size([distinct[i] for i in group], layout) for group in groups]
    done = 0
    with torch.inference_mode(), in_precision(precision, reward_model.device):
        for batch in by_length(lengths, tokens_per_batch, in_a_row=layout != "padded"):
            members = [i for g in batch for i in groups[g]]
            laid = [[distinct[i] for i in groups[g]] for g in batch]
            if layout != "padded":
                laid += _filler(laid[0][0], sum(lengths[g] for g in batch))
            outputs = network(network.prepare(laid))[: len(members)]
            rewards = reward_model.merged(outputs)[:, None]
            values[members] = (torch.cat([rewards, outputs], dim=1) if values.shape[1] > 1 else rewards).cpu().numpy()
            done += len(members)
            if tick:
                tick(done, len(distinct))
    reward_model.model.train(was_training)
    give_back()
    return values[place].reshape(len(ids), values.shape[1])


def _filler(sequence: list[int], tokens: int) -> list[list[list[int]]]:
    """What fills a row of so many tokens up to one of a few lengths, at most 3% more: for every other length a processor's library makes kernels anew, and keeps up to a megabyte of them for each kind of matrix."""
    missing = -tokens % max(1, 1 << tokens.bit_length() >> 6)
    return [[sequence[:missing]]] if missing else []


def folder_of(spec: str) -> Path:
    """The folder of a checkpoint that is a local folder, in an object store, or on the hub.

    Raises:
        AssayError: there is none.
    """
    path = fetch(spec) if url(spec) else Path(spec).expanduser()
    if path.is_dir():
        return path
    if not is_hub_id(spec):
        raise AssayError(f"{spec}: no such folder, and not a hub id or a rule")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model", "*.jinja", "*.onnx", "*.parquet"]))
    except Exception as error:
        raise AssayError(f"{spec}: no such folder, and the hub did not give it ({first_line(error)})") from None
