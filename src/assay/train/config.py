"""How a reward model is trained: the fields of a recipe's ``train`` section."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class LossConfig(BaseModel):
    """Which loss the pairs have. A bare name stands for a loss with its usual parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bradley_terry", "temperature_bt", "focal", "focal_penalty", "hinge", "margin_mse", "cross_entropy", "tempered_log", "margin_bt", "scaled_bt"] = "bradley_terry"
    """The loss; see `assay explain losses`. `margin_bt` and `scaled_bt` read the pairs' column `margin`."""
    gamma: float = Field(2.0, ge=0)
    """Of `focal` and `focal_penalty`: how much less a right pair counts."""
    margin: float = Field(1.0, gt=0)
    """Of `hinge` and `margin_mse`: by how much the chosen answer should win."""
    temperature: float = Field(2.0, gt=0)
    """Of `temperature_bt`."""
    tempering: float = Field(0.5, ge=0, le=1)
    """Of `tempered_log`; 1 is Bradley-Terry."""
    smoothing: float = Field(0.0, ge=0, lt=0.5)
    """The share of labels believed to be flipped, with any loss."""
    centre: float = Field(0.0, ge=0)
    """Weight of (chosen + rejected)², which holds the rewards of a pair around 0; 0.01 is in use."""
    sum_to_zero: float = Field(0.0, ge=0)
    """Weight of the squared sum of a step's rewards over their number, which holds them around 0 together."""
    length_head: float = Field(0.0, ge=0)
    """Weight of the correlations by which a second head takes up what length explains, and the reward loses it (ODIN). 1 is published."""


class LoraConfig(BaseModel):
    """Train low-rank additions to the backbone's matrices (LoRA, arXiv 2106.09685) and the whole head, instead of all weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1)
    """Rank of the additions."""
    alpha: int = Field(32, ge=1)
    """The additions are scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on their input."""
    bits: Literal[4] | None = None
    """4: hold the backbone's matrices, which stay as they are, in four bits while training (QLoRA, arXiv 2305.14314: NF4, quantised twice). What is saved is their rounded values and the additions, in fp32."""
    modules: str | list[str] = "all-linear"
    """Which matrices: all but the head, or the ends of their names, `[q_proj, v_proj]`."""


class TrainConfig(BaseModel):
    """Training of a reward model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "minilm"
    """The backbone: a name of `assay models list`, a local folder, or a hub id. A reward model keeps its head."""
    only: list[str] | None = None
    """Train on these sources alone."""
    loss: LossConfig = LossConfig()
    """The loss of the pairs: a name, or its fields, `{kind: focal, gamma: 2}`."""
    attributes: list[str] = []
    """Train an output for each of these ratings, by regression on rated answers, instead of one reward on pairs."""
    merge: dict[str, float] | Literal["fit"] = "fit"
    """The weight of each attribute in the reward. `fit` finds them on the held-out part's pairs (equal weights where there are none)."""
    pairs_by: str | None = None
    """With `attributes`: the rating that orders the held-out pairs. By default the first."""
    max_length: int = Field(1024, ge=8)
    """Tokens a conversation may have. Longer ones lose their beginning, and are counted."""
    epochs: float = Field(1.0, gt=0, le=1000)
    """Passes over the training pairs."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps; overrides `epochs`."""
    batch_size: int = Field(32, ge=1)
    """Pairs (or rated answers) an optimiser step has, over all processes. Every pair weighs the same, whatever its length."""
    tokens_per_batch: int = Field(4_096, ge=64)
    """Tokens, padding included, that go through the model at once. Bounds the memory; does not change the result."""
    together: bool = False
    """Deal all pairs of a prompt into one step, where each answer is computed once (as InstructGPT does). For data with many pairs a prompt."""
    layout: Literal["shared", "packed", "padded"] | None = None
    """How answers lie in a batch: `shared` computes a prompt once for its answers, `packed` each with its own prompt, both in a row without padding; `padded` fills every conversation up to the longest. By default the fastest the model can do; the result is the same."""
    attention: Literal["flex_attention", "flash_attention_2"] | None = None
    """On a GPU: FlexAttention, which skips what is masked, or FlashAttention 2 (with `packed`, its variable-length kernel). By default SDPA with a mask."""
    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(1e-3, ge=0)
    """Weight decay of AdamW."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it then falls along a cosine."""
    lora: LoraConfig | None = None
    """Train low-rank additions and the head instead of all weights. `{}` for the usual ones."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a quarter slower."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the backbone. `auto` is bf16 where the processor multiplies it fast. Head and loss are always fp32."""
    validation: float = Field(0.05, ge=0, lt=1)
    """Share of the prompts held out of training and measured on. Chosen by the prompts' content."""
    evaluate_every: int | None = Field(None, ge=1)
    """Steps between measurements on the held-out part. By default only at the end."""
    keep_best: bool = False
    """Keep the weights of the best measurement instead of the last ones. Needs `evaluate_every` and a held-out part."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many measurements without a better one, and keep the best. Needs `evaluate_every` and a held-out part."""
    save_every: int = Field(200, ge=1)
    """Steps between checkpoints from which a killed run resumes."""
    fsdp: bool = False
    """Under `torchrun`: share the weights out among the processes (FSDP2) instead of copying them (DDP). Such a run is resumed by as many processes."""
    seed: int = 0
    """Seed of the head's first values and of the order of the pairs."""
    report_to: list[str] = []
    """Trackers of `transformers.Trainer` to log to as well: tensorboard (in the folder `runs`), wandb, trackio. `metrics.jsonl` is always written."""

    @field_validator("loss", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.keep_best or self.patience) and not self.evaluate_every:
            raise ValueError("keep_best and patience need evaluate_every")
        if (self.keep_best or self.patience) and not self.validation:
            raise ValueError("keep_best and patience need a held-out part to measure on, but validation is 0")
        if len(set(self.attributes)) != len(self.attributes):
            raise ValueError("attributes: a name stands twice")
        if isinstance(self.merge, dict) and (self.attributes or self.merge) and set(self.merge) != set(self.attributes):
            raise ValueError(f"merge: expected a weight for each of {', '.join(self.attributes) or 'the attributes (there are none)'}")
        if self.pairs_by and self.pairs_by not in self.attributes:
            raise ValueError("pairs_by: expected one of the attributes")
        if self.fsdp and (self.lora or self.keep_best or self.patience):
            raise ValueError("fsdp goes neither with lora nor with keep_best or patience")
        if self.attention == "flash_attention_2" and self.layout != "packed":
            raise ValueError("attention: flash_attention_2 needs layout: packed; it takes no mask between answers")
        if self.attention == "flash_attention_2" and self.precision == "fp32":
            raise ValueError("attention: flash_attention_2 computes in bf16 alone, but precision is fp32")
        return self
