"""The trainer: ``transformers.Trainer`` with our batches and our loss.

Checkpoints, resume, schedules, distribution and trackers are the Trainer's. Ours are ``training_step``, which takes a whole step's pairs,
runs them in token-budget parts, both answers of a pair in one forward pass, and weighs every pair the same; and the evaluation.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from assay.files import write_text
from assay.model.reward_model import RewardModel, in_precision
from assay.score.checkpoint import score_with
from assay.train.batches import PairSet, StepSampler, TokenPair, micro_batches
from assay.train.config import TrainConfig
from assay.train.losses import bradley_terry

COMPLETE = "complete.json"


class PairTrainer(Trainer):
    """Trains a reward model on token pairs."""

    def __init__(self, reward_model: RewardModel, pairs: Sequence[TokenPair], held_out: pl.DataFrame, config: TrainConfig, precision: str, folder: Path, callbacks: list[TrainerCallback], steps: int) -> None:
        self.reward_model, self.config, self.precision, self.held_out = reward_model, config, precision, held_out
        self.dataset = PairSet(pairs)
        super().__init__(
            model=reward_model.model,
            args=arguments(config, folder, steps, with_evaluation=held_out.height > 0),
            data_collator=list,
            train_dataset=self.dataset,
            eval_dataset=self.dataset if held_out.height else None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item an optimiser step: the list of its pairs."""
        sampler = StepSampler([p.longest() for p in self.dataset.pairs], self.config.batch_size, self.config.seed)
        loader: DataLoader[Any] = DataLoader(self.dataset, batch_sampler=sampler, collate_fn=list)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Loss of the step, its gradient accumulated over the parts. Every pair counts by its weight over the step's pairs."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        for part in micro_batches(inputs, self.config.tokens_per_batch):
            with in_precision(self.precision, self.args.device):
                chosen, rejected = self._both(part)
            weights = torch.tensor([p.weight for p in part], device=chosen.device)
            loss = (bradley_terry(chosen, rejected) * weights).sum() / len(inputs)
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _both(self, part: Sequence[TokenPair]) -> tuple[Tensor, Tensor]:
        rewards = self.reward_model.rewards([p.chosen for p in part] + [p.rejected for p in part])
        return rewards[: len(part)], rewards[len(part) :]

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Accuracy, mean margin and loss on the held-out pairs, scored as every other part of Assay scores."""
        chosen, rejected = score_sides(self.reward_model, self.held_out, self.precision, self.config.tokens_per_batch)
        difference = torch.from_numpy(chosen - rejected)
        metrics = {
            f"{metric_key_prefix}_accuracy": float((difference > 0).float().mean()),
            f"{metric_key_prefix}_margin": float(difference.mean()),
            f"{metric_key_prefix}_loss": float(bradley_terry(difference, torch.zeros_like(difference)).mean()),
        }
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def score_sides(reward_model: RewardModel, pairs: pl.DataFrame, precision: str, tokens: int) -> tuple[Any, Any]:
    """Rewards of the chosen and of the rejected answers of a pair table, two fp32 arrays of shape [n]."""
    rows = list(pairs.select("prompt", "chosen", "rejected").iter_rows())
    conversations = [p + c for p, c, _ in rows] + [p + r for p, _, r in rows]
    values = score_with(reward_model, conversations, precision, tokens).values[:, 0]
    return values[: len(rows)], values[len(rows) :]


def arguments(config: TrainConfig, folder: Path, steps: int, *, with_evaluation: bool) -> TrainingArguments:
    """The Trainer's own settings for ``config``."""
    every = config.evaluate_every if with_evaluation else None
    best = bool(every and config.patience)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup * steps),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        logging_steps=max(1, min(10, steps // 20)),
        eval_strategy="steps" if every else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every if best else config.save_every,
        save_total_limit=3 if best else 2,
        load_best_model_at_end=best,
        metric_for_best_model="eval_accuracy" if best else None,
        greater_is_better=True if best else None,
        seed=config.seed,
        data_seed=config.seed,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        report_to=config.report_to or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class Metrics(TrainerCallback):
    """Writes ``metrics.jsonl``, one line a measurement; lines beyond the step a run resumes at are taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget what a killed run wrote after its last checkpoint."""
        lines = [line for line in read_metrics(self.path) if line["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append what the Trainer logs."""
        if logs and "train_runtime" not in logs:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line that a killed process left half written is passed over."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


class MarkComplete(TrainerCallback):
    """Marks each checkpoint when all its files are written; only marked ones are resumed from."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the mark, last of all."""
        write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, f'{{"step": {state.global_step}}}\n')


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    best: tuple[int, Path] | None = None
    for path in folder.glob("checkpoint-*"):
        step = int(path.name.rsplit("-", 1)[1])
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)
        elif best is None or step > best[0]:
            best = (step, path)
    return best[1] if best else None


def callbacks(config: TrainConfig, folder: Path, with_evaluation: bool, more: list[TrainerCallback]) -> list[TrainerCallback]:
    """Ours, and early stopping where it is asked for."""
    stop = [EarlyStoppingCallback(config.patience)] if config.patience and config.evaluate_every and with_evaluation else []
    return [Metrics(folder / "metrics.jsonl"), MarkComplete(), *stop, *more]
