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

Attention = Literal["auto", "flash_attention_2", "flash_attention_3", "flex", "sdpa", "eager"]
Precision = Literal["float32", "bfloat16", "float8"]


def _copies() -> Engine:
    return cast("Engine", discover("lemur.training.engines")["ddp"](kind="ddp"))


class SpikeLimits(Section):
    """When a step counts as a spike, and is skipped: its loss or gradient norm is far above the recent steps'.

    Far is measured in robust standard deviations: 1.4826 times the median distance from the median, and at least
    5 % of the median, over the last steps that were not skipped. (For a normal distribution the first is the standard
    deviation; unlike that, it does not grow with the very outliers it is to find.)
    """

    window_steps: Annotated[int, Field(ge=8)] = 128
    """Recent steps that a step is compared with; nothing is a spike before there are so many."""
    deviations: Annotated[float, Field(ge=3)] = 10.0
    """Robust standard deviations above the median that are still accepted."""


class PretrainSection(Section):
    """Continued pretraining on the mixture."""

    tokens: PositiveInt
    """Tokens to train on; rounded up to whole batches."""
    batch_tokens: PositiveInt
    """Tokens in one optimizer step over all devices; accumulation makes it from whatever devices there are."""
    engine: Engine = Field(default_factory=_copies)
    """How the devices share the model."""
    isolate_documents: bool = True
    """Whether the documents of a sequence are kept apart: positions begin again, and no token sees, or is predicted
    from, another document. Without it a sequence is one text, as where nothing is said of it in older papers."""
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
    skip_spikes: SpikeLimits | None = None
    """Steps beyond these limits change nothing; without it, only a loss or a gradient that is no number does that."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 20
    """Skipped steps of the whole run; one more ends it and names the data."""
    step_timeout_seconds: PositiveFloat = 1800.0
    """A job in which nothing has moved for so long is ended and started again; four times that outside the steps."""
    precision: Precision = "bfloat16"
    """Arithmetic of the forward and backward pass; weights and moments of the optimizer stay in float32. `float8` is
    for matrix products on GPUs from generation 8.9 on, the rest is bfloat16; it pays with `compile`."""
    attention: Attention = "auto"
    """Attention kernel; `auto` is FlashAttention where it is installed, else PyTorch's fused kernel."""
    fused_kernels: Literal["auto", "liger", "none"] = "auto"
    """Norms, rotary embedding, feed-forward and loss in kernels of their own; `auto` takes liger's on a GPU."""
    compile: bool = False
    """Compile the model with `torch.compile`: minutes at the start, for a faster step."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more work for far less memory."""
    seed: Seed = 0
    """Seed of dropout and anything else random in training."""
    checkpoint_every_steps: PositiveInt = 500
    """Steps between resumable checkpoints in storage."""
    keep_checkpoints: PositiveInt = 2
    """Newest resumable checkpoints that are kept while the run goes on."""
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this are kept for good, beside the final model too; without it, none is."""
    checkpoint_retry_seconds: Annotated[float, Field(ge=0)] = 600.0
    """How long storage may be away before a checkpoint that cannot be stored ends the run."""
    log_every_steps: PositiveInt = 10
    """Steps between points of the loss curve."""


class FullTuning(Section):
    """Every weight is tuned."""

    kind: Literal["full"]


class AdapterTuning(Section):
    """Low-rank adapters are tuned and merged into the weights on export."""

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


class LoraTuning(AdapterTuning):
    """Low-rank adapters beside weights in full precision (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"]


class QloraTuning(AdapterTuning):
    """Low-rank adapters beside weights in four bits: NF4 with double quantization, bfloat16 arithmetic.

    The adapters are merged into the weights as they are stored, not into what four bits leave of them (Dettmers et al.
    2023, arXiv 2305.14314). Needs the library bitsandbytes.
    """

    kind: Literal["qlora"]


class FinetuneSection(Section):
    """Supervised tuning on ChatML dialogues; only what the assistant says is learned."""

    method: Annotated[FullTuning | LoraTuning | QloraTuning, Field(discriminator="kind")] = FullTuning(kind="full")
    """Which weights are tuned."""
    engine: Engine = Field(default_factory=_copies)
    """How the devices share the model."""
    epochs: PositiveFloat = 2.0
    """Passes over the dialogues; the paper made two."""
    batch_dialogues: PositiveInt = 128
    """Dialogues in one optimizer step over all devices; with packing on average, since a step has whole packs."""
    packing: Literal["best_fit", "none"] = "best_fit"
    """How dialogues stand in sequences: `best_fit` puts as many as fit into one of `max_length` tokens, where they do
    not see each other; `none` gives each a sequence of its own, padded to the longest beside it."""
    micro_batch_dialogues: PositiveInt = 1
    """Sequences of `max_length` tokens that one device handles at a time: packs, or single dialogues."""
    max_length: PositiveInt = 4096
    """Longest dialogue in tokens, and the length of a pack. A longer dialogue loses whole turns at its end; one whose
    first answer does not fit is left out. Both are counted."""
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
    skip_spikes: SpikeLimits | None = None
    """Steps beyond these limits change nothing; without it, only a loss or a gradient that is no number does that."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 20
    """Skipped steps of the whole run; one more ends it and names the data."""
    step_timeout_seconds: PositiveFloat = 1800.0
    """A job in which nothing has moved for so long is ended and started again; four times that outside the steps."""
    precision: Precision = "bfloat16"
    """Arithmetic of the forward and backward pass; `float8` as for pretraining."""
    attention: Attention = "auto"
    """Attention kernel; `auto` is FlashAttention where it is installed, else PyTorch's fused kernel."""
    fused_kernels: Literal["auto", "liger", "none"] = "auto"
    """Norms, rotary embedding, feed-forward and loss in kernels of their own; `auto` takes liger's on a GPU."""
    compile: bool = False
    """Compile the model with `torch.compile`: minutes at the start, for a faster step."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    seed: Seed = 0
    """Seed of the order of dialogues and of anything else random."""
    checkpoint_every_steps: PositiveInt = 200
    """Steps between resumable checkpoints in storage."""
    keep_checkpoints: PositiveInt = 2
    """Newest resumable checkpoints that are kept while the run goes on."""
    keep_every_steps: PositiveInt | None = None
    """Checkpoints at multiples of this are kept for good, beside the final model too; without it, none is."""
    checkpoint_retry_seconds: Annotated[float, Field(ge=0)] = 600.0
    """How long storage may be away before a checkpoint that cannot be stored ends the run."""
    log_every_steps: PositiveInt = 10
    """Steps between points of the loss curve."""
