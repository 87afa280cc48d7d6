"""The verb ``train``: pairs or rated answers in, a checkpoint with its contract out."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from accelerate import PartialState
from transformers import TrainerCallback

from assay.allocator import keep_freed
from assay.errors import AssayError
from assay.evaluate.calibration import sure_temperature
from assay.evaluate.contamination import write_hashes
from assay.files import (
    CONTRACT,
    MANIFEST,
    check_replaceable,
    fingerprint,
    first_line,
    is_done,
    read_json,
    sha256_file,
    start_over,
    write_text,
)
from assay.model import checkpoint
from assay.model.backbones import locate
from assay.model.network import Network, layout_for, use_attention
from assay.model.reward_model import RewardModel, from_backbone, precision_of
from assay.pairs.messages import Aside
from assay.pairs.pairing import Pairing
from assay.report import card
from assay.train.adapters import adapt, merge
from assay.train.calibration import length_slope, merge_weights
from assay.train.config import TrainConfig
from assay.train.examples import examples_of, split
from assay.train.measure import Floats, measure_ratings, r2_intervals, ratings_by, ratings_of, score_sides
from assay.train.sharded import share_out, whole_weights
from assay.train.trainer import METRICS, RewardTrainer, callbacks, last_complete, read_metrics

RUNS = "runs"
"""Where transformers lets TensorBoard write."""
Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps in all, latest metrics)."""


def train(rows: pl.DataFrame, config: TrainConfig, folder: Path, *, progress: Progress | None = None, name: str = "validation") -> Path:
    """Train a reward model and write it to ``folder/checkpoint``; resume what an earlier call left in ``folder``.

    A part of the prompts is held out by their content (``config.validation``). What the model is worth on it goes into the manifest; the mean and
    standard deviation of its rewards, and the temperature that makes differences of rewards probabilities, into the contract.

    Args:
        rows: a pair table; the columns ``weight`` and ``margin`` are used where they are not null. With ``config.attributes`` a table of rated
            answers, see ``assay.pairs.ratings``.
        config: see ``TrainConfig``.
        folder: for the checkpoint, ``metrics.jsonl`` and unfinished work.
        progress: called after every step.
        name: what the held-out part is called in the contract.

    Returns:
        The folder of the checkpoint.

    Raises:
        AssayError: there is nothing to train on, the backbone cannot be loaded or cannot do what is asked for, a loss is no number, or memory ran out.
    """
    result, work = folder / "checkpoint", folder / "work"
    contract = Path(locate(config.model)) / CONTRACT  # of a checkpoint that was trained anew there is another
    begun = [sha256_file(contract)] if contract.is_file() else []
    print_ = fingerprint(rows.select(pl.col(r"^(id|weight|margin|attr_.*)$")).rows(), config.model_dump(), name, *begun)
    processes = PartialState(cpu=not torch.cuda.is_available())
    if config.fsdp and processes.num_processes == 1:
        raise AssayError("train.fsdp shares the weights out among processes, but there is one; start several with `torchrun --nproc_per_node N -m assay.cli train ...`")
    done = is_done(result, print_)
    processes.wait_for_everyone()
    if done:
        return result
    seen, held_out = split(rows, config.validation)
    if seen.height == 0:
        raise AssayError(f"nothing to train on: {rows.height} {'rated answers' if config.attributes else 'pairs'}, {held_out.height} of them held out (train.validation is {config.validation})")
    if (config.keep_best or config.patience) and held_out.height == 0:
        raise AssayError(f"train.keep_best and train.patience need a held-out part to measure on, but of {rows.height} rows train.validation = {config.validation} holds out none; raise it")
    if processes.is_main_process:
        check_replaceable(result)
        start_over(work, print_)
    processes.wait_for_everyone()
    with _memory_guarded(config):
        _fit(seen, held_out, config, processes, folder, progress, name, print_)
    processes.wait_for_everyone()
    return result


def _fit(seen: pl.DataFrame, held_out: pl.DataFrame, config: TrainConfig, processes: PartialState, folder: Path, progress: Progress | None, name: str, print_: str) -> None:
    """Train on the rows ``seen``, from where an earlier call was, to a checkpoint that has been measured."""
    work = folder / "work"
    precision = precision_of(config.precision, processes.device)
    reward_model = from_backbone(locate(config.model), config.max_length, config.seed, outputs_of(config), four_bits=precision if config.lora and config.lora.bits else None)
    examples, truncated = examples_of(reward_model, seen, config)
    steps = steps_for(seen.height, config)
    attention = reward_model.model.config._attn_implementation
    network, adapted = networked(reward_model, config)
    if config.fsdp:
        share_out(network.to(processes.device))
    more: list[TrainerCallback] = [_Report(progress)] if progress and processes.is_main_process else []
    trainer = RewardTrainer(reward_model, network, examples, held_out, config, precision, work, callbacks(config, work, held_out.height > 0, more), steps)
    if processes.device.type == "cpu":
        keep_freed()
    start = last_complete(work, steps, keep=not processes.is_main_process)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    if config.fsdp:
        reward_model.model = whole_weights(trainer.model, reward_model.model, processes.process_index)
    if processes.is_main_process:
        if adapted is not None:
            reward_model.model = merge(adapted, work / "adapter")
        use_attention(reward_model.model, attention)  # what is measured and promised is scored as anybody will score
        about = {"fingerprint": print_, "layout": network.layout, "processes": processes.num_processes, "pairs": seen.height, "truncated_pairs": truncated, "steps": trainer.state.global_step}
        _finish(reward_model, seen, held_out, config, precision, name, about, folder, adapter=adapted is not None)


def _finish(reward_model: RewardModel, rows: pl.DataFrame, held_out: pl.DataFrame, config: TrainConfig, precision: str, name: str, about: dict[str, Any], folder: Path, *, adapter: bool) -> None:
    """Measure the model and write its checkpoint; the unfinished work goes."""
    work = folder / "work"
    _check_numbers(reward_model, rows, config, precision)
    manifest = {**about, "config": config.model_dump(), "precision": precision, "held_out": held_out.height, "metrics": read_metrics(work / METRICS)}
    measured = _measured(reward_model, held_out, config, precision, name, manifest)
    result = folder / "checkpoint"
    _keep_logs(work, folder)
    checkpoint.save(reward_model, result, measured=measured, manifest=manifest, adapter=work / "adapter" if adapter else None)
    write_hashes(result, rows["prompt"].to_list(), [Path(locate(config.model))])
    write_text(result / card.FILE, card.model_card(result))
    shutil.rmtree(work)


def _keep_logs(work: Path, folder: Path) -> None:
    """Copy what the steps wrote down, TensorBoard's files too, out of the work that goes. Before the checkpoint: once that is there, nothing more is done."""
    write_text(folder / METRICS, (work / METRICS).read_text(encoding="utf-8"))
    if (work / RUNS).is_dir():
        shutil.copytree(work / RUNS, folder / RUNS, dirs_exist_ok=True)


def _check_numbers(reward_model: RewardModel, rows: pl.DataFrame, config: TrainConfig, precision: str) -> None:
    """Stop where the last step spoilt the weights: a loss, which is looked at before its step, cannot tell.

    Raises:
        AssayError: it did.
    """
    weights = all(bool(torch.isfinite(weight).all()) for weight in reward_model.model.parameters())
    scores = ratings_by if config.attributes else score_sides
    if not weights or not np.isfinite(scores(reward_model, rows.head(1), precision, config.tokens_per_batch)).all():
        raise AssayError("after the last step the rewards are no numbers any more. Lower train.learning_rate, or set train.precision to fp32.")


def steps_for(rows: int, config: TrainConfig) -> int:
    """Optimiser steps for so many rows."""
    return config.max_steps or max(1, round(config.epochs * -(-rows // config.batch_size)))


def outputs_of(config: TrainConfig) -> Sequence[str]:
    """The names of the outputs that the model is given."""
    if config.loss.length_head and not config.attributes:
        return ("quality", "length")
    return config.attributes or ("reward",)


def networked(reward_model: RewardModel, config: TrainConfig) -> tuple[Network, Any]:
    """The network to train, as ``config`` wants it; and, with LoRA, peft's model around the backbone."""
    if config.loss.length_head and not config.attributes:
        reward_model.merge = {"quality": 1.0, "length": 0.0}
    model = reward_model.model
    layout = layout_for(model, config.layout, reward_model.tokenizer.pad_token_id)
    if config.attention:
        if not torch.cuda.is_available():
            raise AssayError(f"train.attention is {config.attention}, which needs a GPU; leave it out")
        try:
            use_attention(model, config.attention)
        except (ImportError, ValueError) as error:
            raise AssayError(f"train.attention is {config.attention}, which cannot be used here ({first_line(error)})") from None
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    adapted = None
    if config.lora:
        try:
            adapted = adapt(model, reward_model.drawn, **config.lora.model_dump(exclude={"bits"}))
        except ValueError as error:
            raise AssayError(f"train.lora: {error}") from None
    return Network(model, reward_model.tokenizer.pad_token_id, layout, flex=config.attention == "flex_attention"), adapted


@contextlib.contextmanager
def _memory_guarded(config: TrainConfig) -> Iterator[None]:
    """Say what to do where memory runs out; any other error stays as it is."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        advice = f"The result stays the same if you halve train.tokens_per_batch (now {config.tokens_per_batch:,})"
        if not config.gradient_checkpointing:
            advice += "; or set train.gradient_checkpointing to true"
        if not config.lora:
            advice += ". LoRA (`--set train.lora={}`) takes less memory, but gives another model"
        raise AssayError(f"out of memory. {advice}. One conversation may have train.max_length = {config.max_length:,} tokens.") from None


def _measured(reward_model: RewardModel, held_out: pl.DataFrame, config: TrainConfig, precision: str, name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """Score the held-out part once more with the final weights, for the manifest and the contract."""
    if config.merge != "fit":
        reward_model.merge = {a: config.merge[a] for a in config.attributes} or reward_model.merge
    if held_out.height == 0:
        return {}
    if config.attributes:
        chosen, rejected, both = _rated(reward_model, held_out, config, precision, manifest)
    else:
        chosen, rejected = (side.astype(np.float64) for side in score_sides(reward_model, held_out, precision, config.tokens_per_batch))
        both = np.concatenate([chosen, rejected])
    found: dict[str, Any] = {"mean": float(both.mean()), "std": float(both.std()), "measured_on": name}
    if len(chosen):
        manifest["accuracy"] = float((chosen > rejected).mean())
        manifest["ties"] = int((chosen == rejected).sum())
        found["temperature"] = sure_temperature(chosen - rejected)
        if not config.attributes:
            found["length_slope"] = length_slope(held_out, chosen - rejected)
    return found


def _rated(reward_model: RewardModel, held_out: pl.DataFrame, config: TrainConfig, precision: str, manifest: dict[str, Any]) -> tuple[Floats, Floats, Floats]:
    """Rewards of the better and the worse answers of the held-out part's pairs, and of all its answers, by weights that are set here."""
    outputs, rated = ratings_by(reward_model, held_out, precision, config.tokens_per_batch), ratings_of(held_out, config.attributes)
    manifest["ratings"] = measure_ratings(outputs, rated, config.attributes)
    manifest["ratings_intervals"] = r2_intervals(outputs, rated, config.attributes, held_out["prompt_id"].to_list())
    by = rated[:, config.attributes.index(config.pairs_by or config.attributes[0])]
    better, worse = _pairs_by(held_out, by)
    if config.merge == "fit" and len(better) and len(config.attributes) > 1:
        fitted = merge_weights(outputs[better] - outputs[worse])
        reward_model.merge = dict(zip(config.attributes, fitted.tolist(), strict=True))
    weights = np.array(list(reward_model.merge.values()))
    rewards = outputs @ weights
    return rewards[better], rewards[worse], rewards


def _pairs_by(answers: pl.DataFrame, ratings: Floats) -> tuple[list[int], list[int]]:
    """Rows of the better and the worse answer of every two answers to a prompt that are rated differently."""
    of: dict[str, list[int]] = {}
    for i, prompt in enumerate(answers["prompt_id"]):
        if not np.isnan(ratings[i]):
            of.setdefault(prompt, []).append(i)
    better, worse = [], []
    for rows in of.values():
        try:
            for a, b in Pairing(rule="all").pairs([float(ratings[i]) for i in rows]):
                better.append(rows[a])
                worse.append(rows[b])
        except Aside:  # a single answer, or all rated equal
            continue
    return better, worse


class _Report(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.latest: dict[str, Any] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.latest = {**self.latest, **(logs or {})}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.latest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a training: its configuration, counts, metrics and held-out accuracy."""
    manifest: dict[str, Any] = read_json(folder / "checkpoint" / MANIFEST)
    return manifest
