"""Whether a model was trained on the prompts it is measured on, told by the hashes that a checkpoint keeps of its training prompts."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay.curate.kernels.text import key, normal, prompt_text
from assay.evaluate.suite import Suite
from assay.files import read_parquet, write_parquet

FILE = "training_prompts.parquet"


def prompt_hash(prompt: Iterable[Any]) -> int:
    """64 bits of a prompt's words, whatever its case, punctuation and spacing."""
    return key(normal(prompt_text(prompt)))


def write_hashes(folder: Path, prompts: Iterable[Any]) -> None:
    """Keep the hashes of the prompts a checkpoint was trained on beside it."""
    hashes = sorted({prompt_hash(prompt) for prompt in prompts})
    write_parquet(folder / FILE, pl.DataFrame({"prompt": np.array(hashes, dtype=np.uint64)}))


def contamination(scorer: Any, suite: Suite) -> list[str]:
    """A warning if the scorer is a checkpoint that was trained on prompts of the suite."""
    folder = getattr(scorer, "folder", None)
    if folder is None or not (Path(folder) / FILE).is_file():
        return []
    known = set(read_parquet(Path(folder) / FILE)["prompt"].to_list())
    seen = [item for item in suite.items if prompt_hash(item.prompt) in known]
    if not seen:
        return []
    named = ", ".join(item.id for item in seen[:3])
    return [f"the model was trained on the prompts of {len(seen):,} of {len(suite.items):,} items (such as {named}): the figures flatter it. Take these prompts out of the training set with the step `decontaminate`"]
