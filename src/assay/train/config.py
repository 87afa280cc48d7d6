"""How a reward model is trained: the fields of a recipe's ``train`` section."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Training of a Bradley-Terry reward model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "minilm"
    """The backbone: a name of `assay models list`, a local folder, or a hub id."""
    max_length: int = Field(1024, ge=8)
    """Tokens a conversation may have. Longer ones lose their beginning, and are counted."""
    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the training pairs."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps; overrides `epochs`."""
    batch_size: int = Field(32, ge=1)
    """Pairs an optimiser step has. Every pair weighs the same, whatever its length."""
    tokens_per_batch: int = Field(4_096, ge=64)
    """Tokens, padding included, that go through the model at once. Bounds the memory; does not change the result."""
    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(1e-3, ge=0)
    """Weight decay of AdamW."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it then falls along a cosine."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the backbone. `auto` is bf16 where the processor multiplies it fast. Head and loss are always fp32."""
    validation: float = Field(0.05, ge=0, lt=1)
    """Share of the prompts held out of training and measured on. Chosen by the prompts' content."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between measurements on the held-out part. By default only at the end."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many measurements without a better held-out accuracy, and keep the best. Needs `evaluate_every`."""
    save_every: int = Field(200, ge=1)
    """Steps between checkpoints from which a killed run resumes."""
    seed: int = 0
    """Seed of the head's first values and of the order of the pairs."""
    report_to: list[str] = []
    """Trackers of `transformers.Trainer` to log to as well: tensorboard, wandb, trackio. `metrics.jsonl` is always written."""
