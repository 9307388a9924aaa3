"""The sections of the two steps that train: pretrain and finetune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt

from lemur.plugins import OneOf, Section, discover
from lemur.recipe.names import Fraction, Seed

if TYPE_CHECKING:
    from lemur.training.engine import Engine
else:
    Engine = Annotated[Any, OneOf("lemur.training.engines")]


def _copies() -> Engine:
    return cast("Engine", discover("lemur.training.engines")["ddp"](kind="ddp"))


class PretrainSection(Section):
    """Continued pretraining on the mixture."""

    tokens: PositiveInt
    """Tokens to train on; rounded up to whole batches."""
    batch_tokens: PositiveInt
    """Tokens in one optimizer step over all devices; accumulation makes it from whatever devices there are."""
    engine: Engine = Field(default_factory=_copies)
    """How the devices share the model."""
    micro_batch_sequences: PositiveInt = 1
    """Sequences one device handles at a time."""
    learning_rate: PositiveFloat
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warmup to the peak."""
    final_learning_rate_ratio: Fraction = 0.1
    """The cosine ends at this share of the peak."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay of Adam's two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay on matrices."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the forward and backward pass; weights and moments of the optimizer stay in float32."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more work for far less memory."""
    seed: Seed = 0
    """Seed of dropout and anything else random in training."""
    checkpoint_every_steps: PositiveInt = 500
    """Steps between resumable checkpoints in storage."""
    keep_checkpoints: PositiveInt = 2
    """Newest resumable checkpoints that are kept while the run goes on."""
    log_every_steps: PositiveInt = 10
    """Steps between points of the loss curve."""


class FullTuning(Section):
    """Every weight is tuned."""

    kind: Literal["full"]


class LoraTuning(Section):
    """Low-rank adapters are tuned and merged into the weights on export."""

    kind: Literal["lora"]
    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """Their scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout before the adapters."""
    target_modules: list[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Linear layers that get an adapter; all of the decoder's by default."""


class FinetuneSection(Section):
    """Supervised tuning on ChatML dialogues; only what the assistant says is learned."""

    method: Annotated[FullTuning | LoraTuning, Field(discriminator="kind")] = FullTuning(kind="full")
    """Which weights are tuned."""
    engine: Engine = Field(default_factory=_copies)
    """How the devices share the model."""
    epochs: PositiveFloat = 2.0
    """Passes over the dialogues; the paper made two."""
    batch_dialogues: PositiveInt = 128
    """Dialogues in one optimizer step over all devices."""
    micro_batch_dialogues: PositiveInt = 1
    """Dialogues one device handles at a time."""
    max_length: PositiveInt = 4096
    """Longest dialogue in tokens; a longer one is cut at the end and counted."""
    learning_rate: PositiveFloat = 2e-5
    """Peak learning rate."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps spent on linear warmup."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does after the warmup."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of Adam's two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the forward and backward pass."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    seed: Seed = 0
    """Seed of the order of dialogues and of anything else random."""
    checkpoint_every_steps: PositiveInt = 200
    """Steps between resumable checkpoints in storage."""
    keep_checkpoints: PositiveInt = 2
    """Newest resumable checkpoints that are kept while the run goes on."""
    log_every_steps: PositiveInt = 10
    """Steps between points of the loss curve."""
