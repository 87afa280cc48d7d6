"""The trainer: ``transformers.Trainer`` with our batches, our pass and our loss.

Checkpoints, resume, schedules, distribution and trackers are the Trainer's. Ours are ``training_step``, which takes a whole step's examples,
runs them in token-budget parts, the answers to a prompt together, and weighs every example the same; and the evaluation.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import safetensors.torch
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy

from assay.errors import AssayError, did_you_mean
from assay.files import first_line, read_json, write_json, write_text
from assay.model.layout import Name, size
from assay.model.network import Network, is_decoder
from assay.model.reward_model import RewardModel, in_precision
from assay.train.batches import Example, ExampleSet, Part, StepSampler, parts
from assay.train.config import TrainConfig
from assay.train.losses import pair_losses, rating_losses, step_terms
from assay.train.measure import measure
from assay.train.sharded import load_moments, load_weights, save_parts

COMPLETE = "complete.json"
SCHEDULER = "scheduler.json"
METRICS = "metrics.jsonl"


class RewardTrainer(Trainer):
    """Trains a reward model on examples, in one process or, under ``torchrun``, in several, each of which takes its part of every step."""

    def __init__(self, reward_model: RewardModel, network: Network, examples: Sequence[Example], held_out: pl.DataFrame, config: TrainConfig, precision: str, folder: Path, callbacks: list[TrainerCallback], steps: int) -> None:
        self.reward_model, self.network, self.config, self.precision, self.held_out = reward_model, network, config, precision, held_out
        self.examples = ExampleSet(examples)
        super().__init__(
            model=network,
            args=arguments(config, folder, steps, with_evaluation=held_out.height > 0),
            data_collator=list,
            train_dataset=self.examples,
            eval_dataset=self.examples if held_out.height else None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.args.save_strategy = SaveStrategy.STEPS  # with weights that are shared out the Trainer refuses it, since it cannot save them; we can
        self.processes, self.rank = self.args.world_size, self.args.process_index

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item an optimiser step: the list of its examples, the same in every process."""
        return steps_of(self.examples, self.config, self.network)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Loss of the step, its gradient accumulated over the parts. Every example counts by its weight over the step's examples."""
        model.train()
        mine = parts(inputs[self.rank :: self.processes], self.config.tokens_per_batch, self.network.layout)
        missing = self._most(len(mine)) - len(mine)  # every process must make as many passes
        idle = parts(inputs[:1], 1, self.network.layout) * missing if missing else []
        pull = self._pull(model, mine, idle)
        total = torch.zeros((), device=self.args.device)
        losses: list[Tensor] = []
        for number, part in enumerate(mine):
            with self._synchronised(model, last=number == len(mine) - 1 and not idle):
                outputs = self._outputs(model, part)
                each = self._losses(outputs, part)
                loss = (each * _weights(part, each.device)).sum() / len(inputs)
                pulled = (outputs * pull[number]).sum() if pull else 0.0
                self.accelerator.backward((loss + pulled) * self.processes)  # the mean over processes is taken, a step's loss is a sum
            losses.append(each.detach())
            total += loss.detach()
        for number, part in enumerate(idle):
            with self._synchronised(model, last=number == len(idle) - 1):
                self.accelerator.backward(0.0 * self._outputs(model, part).sum())
        self._check(total, losses, mine)
        return self._summed(total)

    def _outputs(self, model: nn.Module, part: Part) -> Tensor:
        """Outputs of the examples' answers, [examples x answers, k]; an answer that several examples have stands once for each."""
        with in_precision(self.precision, self.args.device):
            outputs: Tensor = model(self.network.prepare(part.groups))
        return outputs[torch.tensor(part.places, device=outputs.device).flatten()]

    def _losses(self, outputs: Tensor, part: Part) -> Tensor:
        if self.config.attributes:
            return rating_losses(outputs, torch.tensor([e.ratings for e in part.examples], device=outputs.device))
        rewards = outputs.sum(dim=1)  # one output; or the reward and what length explains of it, which are trained together
        margins = torch.tensor([e.margin for e in part.examples], device=outputs.device)
        return pair_losses(rewards[0::2], rewards[1::2], margins, self.config.loss)

    def _pull(self, model: nn.Module, mine: list[Part], idle: list[Part]) -> list[Tensor]:
        """For each part the gradient, with respect to its outputs, of the terms that a whole step has together; empty if there are none.

        They are not sums over parts, so that all outputs must be known first: a pass without gradients finds them.
        """
        loss = self.config.loss
        if self.config.attributes or not (loss.sum_to_zero or loss.length_head):
            return []
        with torch.no_grad():
            found = [self._outputs(model, part) for part in mine]
            outputs = torch.cat([*found, *(self._outputs(model, part)[:0] for part in idle)])
        lengths = torch.tensor([float(length) for part in mine for e in part.examples for length in e.lengths], device=outputs.device)
        everyone = self._gathered(torch.cat([outputs, lengths[:, None]], dim=1))
        before = sum(len(rows) for rows in everyone[: self.rank])
        rows = torch.cat(everyone)
        together = rows[:, :-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(step_terms(together, rows[:, -1], loss), together)
        return list(torch.split(gradient[before : before + len(outputs)], [sum(len(e.answers) for e in part.examples) for part in mine]))

    def _gathered(self, rows: Tensor) -> list[Tensor]:
        """The rows of every process, in the order of the processes."""
        if self.processes == 1:
            return [rows]
        found: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(found, rows.cpu())
        return [one.to(rows.device) for one in found]

    def _most(self, number: int) -> int:
        """The largest ``number`` of all processes."""
        if self.processes == 1:
            return number
        most = torch.tensor(number, device=self.args.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most)

    def _summed(self, value: Tensor) -> Tensor:
        """``value`` summed over the processes."""
        if self.processes > 1:
            torch.distributed.all_reduce(value)
        return value

    @contextlib.contextmanager
    def _synchronised(self, model: nn.Module, *, last: bool) -> Iterator[None]:
        """Gradients are exchanged between processes after the last part alone."""
        if last or self.processes == 1:
            yield
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            with model.no_sync():
                yield
        else:
            model.set_requires_gradient_sync(False)  # type: ignore[operator]
            yield
            model.set_requires_gradient_sync(True)  # type: ignore[operator]

    def _check(self, total: Tensor, losses: list[Tensor], mine: list[Part]) -> None:
        """Stop where the loss is no number, and say which rows made it so. The one wait for the device in a step.

        Raises:
            AssayError: it is not.
        """
        if bool(torch.isfinite(total)):
            return
        suspects = [e for each, part in zip(losses, mine, strict=True) if not bool(torch.isfinite(each).all()) for e in part.examples]
        with torch.no_grad():  # each alone: in a shared row one spoils the others
            alone = [] if self.config.fsdp else [self._outputs(self.model, parts([e], 1, self.network.layout)[0]) for e in suspects]
        bad = [e.id for e, outputs in zip(suspects, alone, strict=False) if not bool(torch.isfinite(outputs).all())] or [e.id for e in suspects]
        raise AssayError(f"step {self.state.global_step + 1}: the loss is no number any more, from the rows {_some(bad)}. Lower train.learning_rate, or set train.precision to fp32; `assay why` shows a row.")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save what is trained; what is frozen is in the backbone."""
        if self.config.fsdp:
            save_parts(self.network, self.optimizer, Path(str(output_dir)), self.rank, self.processes)
            return
        frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        parts_of_frozen = tuple(f"{name}." for name in frozen)  # what a weight in four bits is read with
        state = {name: tensor for name, tensor in (state_dict or self.network.state_dict()).items() if name not in frozen and not name.startswith(parts_of_frozen)}
        if self.args.should_save:
            Path(str(output_dir)).mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(state, Path(str(output_dir)) / "model.safetensors", metadata={"format": "pt"})

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.config.fsdp:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            write_json(Path(output_dir) / SCHEDULER, self.lr_scheduler.state_dict())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.config.fsdp:
            load_weights(self.network, Path(resume_from_checkpoint), self.rank, self.processes)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.config.fsdp or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_moments(self.network, self.optimizer, Path(checkpoint), self.rank, self.processes)
        self.lr_scheduler.load_state_dict(read_json(Path(checkpoint) / SCHEDULER))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """What ``measure`` finds on the held-out rows, scored as every other part of Assay scores."""
        found = measure(self.reward_model, self.held_out, self.config, self.precision, self.model)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _weights(part: Part, device: torch.device) -> Tensor:
    return torch.tensor([e.weight for e in part.examples], device=device)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def steps_of(examples: ExampleSet, config: TrainConfig, network: Network) -> DataLoader[Any]:
    """The optimiser steps of an epoch, each the list of its examples: the same in every layout the model can do."""
    best: Name = "shared" if is_decoder(network.model) else "padded"
    lengths = [size(e.answers, best) for e in examples.examples]
    prompts = [e.prompt for e in examples.examples] if config.together else None
    sampler = StepSampler(lengths, config.batch_size, config.seed, prompts)
    loader: DataLoader[Any] = DataLoader(examples, batch_sampler=sampler, collate_fn=list)
    loader.set_epoch = sampler.set_epoch  # what the Trainer calls before an epoch
    return loader


def arguments(config: TrainConfig, folder: Path, steps: int, *, with_evaluation: bool) -> TrainingArguments:
    """The Trainer's own settings for ``config``."""
    every = config.evaluate_every if with_evaluation else None
    best = bool(every and (config.patience or config.keep_best))
    key = "eval_loss" if config.attributes else "eval_accuracy"
    on_cpu = not torch.cuda.is_available()
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
        logging_nan_inf_filter=False,
        eval_strategy="steps" if every else "no",
        eval_steps=every,
        save_strategy="no" if config.fsdp else "steps",
        save_steps=every if best else config.save_every,
        save_total_limit=3 if best else 2,
        load_best_model_at_end=best,
        metric_for_best_model=key if best else None,
        greater_is_better=not config.attributes if best else None,
        seed=config.seed,
        data_seed=config.seed,
        bf16=False,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,  # there are none but tables of positions
        restore_callback_states_from_checkpoint=True,  # how many measurements were no better
        report_to="none",  # its trackers are among our callbacks
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )


class Metrics(TrainerCallback):
    """Writes ``metrics.jsonl``, one line a measurement; lines beyond the step a run resumes at are taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget what a killed run wrote after its last checkpoint."""
        if not state.is_world_process_zero:
            return
        lines = [line for line in read_metrics(self.path) if line["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Append what the Trainer logs."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
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
        """Write the mark, last of all processes."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, f'{{"step": {state.global_step}}}\n')


def last_complete(folder: Path, steps: int, *, keep: bool = False) -> Path | None:
    """The newest checkpoint that was written to its end and after which there is a step to go; half-written ones and that of the last step are removed, unless another process does so (``keep``).

    From the last of all ``steps`` the Trainer would take one more, where it is not the end of an epoch; and from one at which patience ran out it would go on to the next measurement.
    """
    best: tuple[int, Path] | None = None
    for path in folder.glob("checkpoint-*"):
        step = int(path.name.rsplit("-", 1)[1])
        if not (path / COMPLETE).is_file() or step >= steps or _stopped(path):
            if not keep:
                shutil.rmtree(path)
        elif best is None or step > best[0]:
            best = (step, path)
    return best[1] if best else None


def _stopped(checkpoint: Path) -> bool:
    """Whether the training ended at this checkpoint."""
    return bool(read_json(checkpoint / TRAINER_STATE_NAME)["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])


def callbacks(config: TrainConfig, folder: Path, with_evaluation: bool, more: list[TrainerCallback]) -> list[TrainerCallback]:
    """Ours, and early stopping and trackers where they are asked for."""
    stop = [EarlyStoppingCallback(config.patience)] if config.patience and config.evaluate_every and with_evaluation else []
    return [Metrics(folder / METRICS), MarkComplete(), *stop, *map(tracker, config.report_to), *more]


def tracker(name: str) -> TrainerCallback:
    """The Trainer's callback that logs to the tracker ``name``.

    Raises:
        AssayError: there is no such tracker, or it cannot be used here.
    """
    if name not in INTEGRATION_TO_CALLBACK:
        raise AssayError(f"train.report_to: there is no tracker `{name}`.{did_you_mean(name, INTEGRATION_TO_CALLBACK)} Known: {', '.join(INTEGRATION_TO_CALLBACK)}")
    try:
        made: TrainerCallback = INTEGRATION_TO_CALLBACK[name]()
    except (RuntimeError, ImportError) as error:
        raise AssayError(f"train.report_to: the tracker `{name}` cannot be used ({first_line(error)})") from None
    return made
