"""The verb ``export``: a checkpoint as an ONNX graph, in fp32 or rounded to int8, and what the rounding costs."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from assay.files import MANIFEST, read_json, replacing, write_json
from assay.model import checkpoint as checkpoints
from assay.model.onnx import export as to_onnx
from assay.model.onnx import round_to_int8
from assay.score.bulk import score_file
from assay.score.scorer import load_scorer


def export(checkpoint: Path, output: Path, measure: str | None = None) -> list[str]:
    """Write ``checkpoint`` as an ONNX graph to ``output``; what was found, in lines.

    With ``measure``, a source of pairs, its weights are rounded to int8; how its scores of the pairs differ from the checkpoint's in fp32 is written into the manifest.

    Raises:
        AssayError: it cannot be exported, breaks its contract afterwards, or ``output`` cannot be replaced.
    """
    if measure is None:
        to_onnx(checkpoint, output)
        reward_model, contract = checkpoints.load(output)
        return [f"{output}: the canaries differ by at most {checkpoints.drift(reward_model, contract):.1e} from the scores they must get"]
    with replacing(output, checkpoint) as made, TemporaryDirectory() as folder:
        to_onnx(checkpoint, Path(folder) / "fp32")
        round_to_int8(Path(folder) / "fp32", made)
        contract = checkpoints.rescore(made, "int8")
        cost = rounding_cost(checkpoint, made, measure)
        write_json(made / MANIFEST, {**read_json(made / MANIFEST), "rounding": cost})
    return [
        f"{output}: {cost['size']:.0%} of the size; the canaries moved by at most {contract.tolerance:.2g}",
        f"on {cost['pairs']:,} pairs of {measure}: rewards move by {cost['typical']:.2g} (root mean square, {cost['share_of_std']:.1%} of their standard deviation), at most {cost['largest']:.2g}; "
        f"{cost['other_order']:.1%} of the pairs change their order; the first answer is ahead in {cost['ahead']:.1%}, before {cost['ahead_before']:.1%}",
        f"{cost['times_faster']:.2f} times as fast as the checkpoint in fp32 on this machine",
    ]


def rounding_cost(before: Path, after: Path, measure: str) -> dict[str, Any]:
    """How the scores of pairs by a checkpoint and by its rounded form differ, and what each takes."""
    tables, seconds = [], []
    for folder in (before, after):
        scorer = load_scorer(folder, precision="fp32")
        start = time.perf_counter()
        tables.append(score_file(scorer, measure).table)
        seconds.append(time.perf_counter() - start)
    was, now = (table.select("chosen_score", "rejected_score").to_numpy().astype(np.float64) for table in tables)
    moved, margins = now - was, [x[:, 0] - x[:, 1] for x in (was, now)]
    return {
        "pairs": len(was),
        "measured_on": measure,
        "typical": float(np.sqrt((moved**2).mean())),
        "largest": float(np.abs(moved).max()),
        "share_of_std": float(np.sqrt((moved**2).mean()) / (was.std() or 1.0)),
        "other_order": float((np.sign(margins[0]) != np.sign(margins[1])).mean()),
        "ahead_before": float((margins[0] > 0).mean()),
        "ahead": float((margins[1] > 0).mean()),
        "times_faster": seconds[0] / seconds[1],
        "size": sum(f.stat().st_size for f in after.glob("*.onnx")) / sum(f.stat().st_size for f in before.glob("*.safetensors")),
    }
