"""Assay: reward models end to end. Curate preference data, train, measure and use, with one score everywhere.

The verbs of the command line, as functions: ``read``, ``curate``, ``train``, ``evaluate``, ``load_scorer``; and ``reward_fn``, a scorer as a policy trainer calls it. What they need is imported at
the first call, so that ``import assay`` is quick and needs no PyTorch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from assay.errors import AssayError

if TYPE_CHECKING:
    from assay.curate.runner import curate
    from assay.evaluate.evaluate import evaluate
    from assay.pairs.read import read
    from assay.score.reward_fn import reward_fn
    from assay.score.scorer import load_scorer
    from assay.train.train import train

# The allocator of Polars keeps freed memory for itself for seconds, which with many shards is most of what a process holds. It reads this when Polars is loaded.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:200,muzzy_decay_ms:200,background_thread:true")

__version__ = "0.1.0"
__all__ = ["AssayError", "curate", "evaluate", "load_scorer", "read", "reward_fn", "train"]

_FUNCTIONS = {"read": "assay.pairs.read", "load_scorer": "assay.score.scorer", "reward_fn": "assay.score.reward_fn"}
_ROOMS = ("curate", "train", "evaluate")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _ROOMS:  # a package that can be called, see assay.verb
        return importlib.import_module(f"assay.{name}")
    raise AttributeError(f"module 'assay' has no attribute {name!r}")
