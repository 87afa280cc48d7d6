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


def write_hashes(folder: Path, prompts: Iterable[Any], made_from: Iterable[Path] = ()) -> None:
    """Keep the hashes of the prompts a checkpoint was trained on beside it, with those of the checkpoints it was ``made_from``."""
    hashes = {prompt_hash(prompt) for prompt in prompts}.union(*map(read_hashes, made_from))
    if hashes:
        write_parquet(folder / FILE, pl.DataFrame({"prompt": np.array(sorted(hashes), dtype=np.uint64)}))


def read_hashes(folder: Path) -> set[int]:
    """The hashes that a checkpoint keeps; none of one that keeps none."""
    return set(read_parquet(folder / FILE)["prompt"].to_list()) if (folder / FILE).is_file() else set()


def contamination(scorer: Any, suite: Suite) -> list[str]:
    """A warning if the scorer, or one of which it is made, is a checkpoint that was trained on prompts of the suite."""
    known = _known(scorer)
    seen = [item for item in suite.items if prompt_hash(item.prompt) in known]
    if not seen:
        return []
    named = ", ".join(item.id for item in seen[:3])
    return [f"the model was trained on the prompts of {len(seen):,} of {len(suite.items):,} items (such as {named}): the figures flatter it. Take these prompts out of the training set with the step `decontaminate`"]


def _known(scorer: Any) -> set[int]:
    """The hashes of a checkpoint, or of all members of an ensemble."""
    folder = getattr(scorer, "folder", None)
    return (read_hashes(Path(folder)) if folder else set()).union(*map(_known, getattr(scorer, "members", ())))
