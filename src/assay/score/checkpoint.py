"""The scorer that most scorers are: a trained checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.errors import AssayError
from assay.files import first_line
from assay.model import checkpoint
from assay.model.reward_model import RewardModel, best_device, in_precision, precision_of
from assay.pairs.schema import Message
from assay.pairs.sources import is_hub_id
from assay.remote import fetch, url
from assay.score.batching import by_length
from assay.score.scorer import Scores, Tick


class CheckpointScorer:
    """Scores with a checkpoint whose contract was checked when it was loaded."""

    attributes: tuple[str, ...]

    def __init__(self, spec: str, precision: str = "auto", tokens_per_batch: int = 4_096, tick: Tick | None = None) -> None:
        self.spec = spec
        self.reward_model, self.contract = checkpoint.load(_folder(spec))
        self.attributes = names_of(self.reward_model)
        self.reward_model.model.to(best_device())
        self.precision = precision_of(precision, self.reward_model.device)
        self.tokens_per_batch, self.tick = tokens_per_batch, tick

    def score(self, conversations: Sequence[Sequence[Message]]) -> Scores:
        """Rewards, shape [n, 1]; of a model with several attributes [n, 1 + k], the reward first. The same text is scored once; order, company and batch size don't change a score beyond rounding."""
        return score_with(self.reward_model, conversations, self.precision, self.tokens_per_batch, self.tick)


def names_of(reward_model: RewardModel) -> tuple[str, ...]:
    """What the columns of its scores are: the reward, and, if it is made of several, the attributes."""
    return ("reward", *reward_model.merge) if len(reward_model.merge) > 1 else ("reward",)


def score_with(reward_model: RewardModel, conversations: Sequence[Sequence[Message]], precision: str, tokens_per_batch: int, tick: Tick | None = None, network: Any = None) -> Scores:
    """Score conversations with a model in memory; what training, the scorer and the evaluation all call.

    ``network``: the model's ``Network`` where something has been done to it, such as sharing it out among processes.
    """
    ids, truncated = reward_model.encode([[dict(m) for m in c] for c in conversations])
    first: dict[tuple[int, ...], int] = {}
    place = [first.setdefault(tuple(one), len(first)) for one in ids]
    distinct = [list(one) for one in first]
    values = np.zeros((len(distinct), len(names_of(reward_model))), dtype=np.float32)
    network = network or reward_model.network()
    done = 0
    was_training = reward_model.model.training
    reward_model.model.eval()
    with torch.inference_mode(), in_precision(precision, reward_model.device):
        for batch in by_length([len(one) for one in distinct], tokens_per_batch):
            outputs = network(network.prepare([[distinct[i]] for i in batch]))
            rewards = reward_model.merged(outputs)[:, None]
            values[batch] = (torch.cat([rewards, outputs], dim=1) if values.shape[1] > 1 else rewards).cpu().numpy()
            done += len(batch)
            if tick:
                tick(done, len(distinct))
    reward_model.model.train(was_training)
    return Scores(values[place].reshape(len(ids), -1), np.array(truncated, dtype=bool))


def _folder(spec: str) -> Path:
    path = fetch(spec) if url(spec) else Path(spec).expanduser()
    if path.is_dir():
        return path
    if not is_hub_id(spec):
        raise AssayError(f"{spec}: no such folder, and not a hub id or a rule")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(spec, allow_patterns=["*.json", "*.txt", "*.safetensors", "*.model", "*.jinja", "*.onnx"]))
    except Exception as error:
        raise AssayError(f"{spec}: no such folder, and the hub did not give it ({first_line(error)})") from None
