"""What a plan says of a training stage: steps, operations, time, cost, checkpoint sizes, and what does not fit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lemur.model_size import (
    attention_flops_per_token,
    count_adapter_parameters,
    count_parameters,
    linear_shapes,
    training_flops_per_token,
)
from lemur.plan.data import DialoguesPlan
from lemur.plan.memory import Load, MemoryPlan, plan_memory, what_would_fit
from lemur.recipe import AdapterTuning, FinetuneSection, PretrainSection, QloraTuning, Recipe
from lemur.units import size


class TrainingPlan(BaseModel):
    """One training stage; `None` stands for what depends on data whose size is unknown."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    engine: str
    """How the devices share the model."""
    steps: int | None
    """Optimizer steps."""
    tokens: int | None
    """Tokens read, repeats included."""
    num_sequences: int | None
    """Sequences read in pretraining, dialogues in tuning."""
    tokens_per_step: int | None
    """Tokens in one optimizer step; for tuning the average."""
    trained_parameters: int
    """Parameters that change."""
    flops_per_token: float
    """Operations that one token takes, forward and backward."""
    attention_share: float
    """Part of them that is attention to other tokens, the causal mask not counted."""
    flops: float | None
    """Operations of the whole stage."""
    tokens_per_second: float
    """What all devices together do at the assumed utilisation."""
    device_hours: float | None
    """Hours of all devices added up."""
    hours: float | None
    """Hours from start to end."""
    cost: float | None
    """Price of the device hours."""
    weights_bytes: int
    """Size of the checkpoint that is handed on."""
    resumable_bytes: int
    """Size of one checkpoint that training can go on from: weights and the optimizer's state."""
    kept_bytes: int
    """Storage for the resumable checkpoints kept while the stage goes on."""
    memory: MemoryPlan
    """Memory of one device."""


def _load(recipe: Recipe, section: str) -> Load:
    """Returns what a device has to hold in a stage, `pretrain` or `finetune`."""
    stage = recipe.pretrain if section == "pretrain" else recipe.finetune
    return Load(
        architecture=recipe.model.architecture,
        vocab_size=recipe.model.tokenizer.vocab_size,
        precision=stage.precision,
        zero_stage=stage.engine.divides,
        lower_precision=stage.engine.lower_precision,
        offloads=stage.engine.offloads,
        num_devices=recipe.hardware.num_nodes * recipe.hardware.devices_per_node,
        num_sequences=(
            recipe.pretrain.micro_batch_sequences if section == "pretrain" else recipe.finetune.micro_batch_dialogues
        ),
        sequence_length=recipe.data.sequence_length if section == "pretrain" else recipe.finetune.max_length,
        activation_checkpointing=stage.activation_checkpointing,
        num_adapter_parameters=None if section == "pretrain" else _num_adapter_parameters(recipe),
        in_four_bits=section == "finetune" and isinstance(recipe.finetune.method, QloraTuning),
    )


def _num_adapter_parameters(recipe: Recipe) -> int | None:
    method = recipe.finetune.method
    return count_adapter_parameters(recipe.model.architecture, method) if isinstance(method, AdapterTuning) else None


def plan_pretraining(recipe: Recipe) -> TrainingPlan:
    """Plans pretraining; its tokens are rounded up to whole batches."""
    section, length = recipe.pretrain, recipe.data.sequence_length
    steps = -(-section.tokens // section.batch_tokens)
    return _plan_training(
        recipe,
        _load(recipe, "pretrain"),
        steps=steps,
        tokens=steps * section.batch_tokens,
        num_sequences=steps * section.batch_tokens // length,
        average_length=length,
        section=section,
    )


def plan_tuning(recipe: Recipe, dialogues: list[DialoguesPlan]) -> TrainingPlan:
    """Plans tuning; padding is not counted as work, and a dialogue attends to itself alone, packed or not."""
    section = recipe.finetune
    tokens = _in_epochs([(source.tokens, source.repeats) for source in dialogues], section.epochs)
    count = _in_epochs([(source.num_dialogues, source.repeats) for source in dialogues], section.epochs)
    steps = _steps(section, tokens, count)
    return _plan_training(
        recipe,
        _load(recipe, "finetune"),
        steps=steps,
        busy_share=_busy_share(recipe, steps, tokens),
        tokens=tokens,
        num_sequences=count,
        average_length=min(section.max_length, tokens / count) if tokens and count else section.max_length,
        section=section,
    )


def _steps(section: FinetuneSection, tokens: int | None, count: int | None) -> int | None:
    """Returns the steps of tuning: fewer where a pack holds more dialogues than a step is to have."""
    if count is None:
        return None
    steps = -(-count // section.batch_dialogues)
    if section.packing == "none" or tokens is None:
        return steps
    return max(1, min(steps, -(-tokens // section.max_length)))


def _busy_share(recipe: Recipe, steps: int | None, tokens: int | None) -> float:
    """Returns the share of the devices that has something to do in tuning: a step's packs are dealt out whole."""
    section, hardware = recipe.finetune, recipe.hardware
    num_rows = section.batch_dialogues
    if section.packing == "best_fit" and steps and tokens:
        num_rows = -(-tokens // (steps * section.max_length))
    readers = hardware.num_nodes * hardware.devices_per_node // section.engine.tensor_parallel_size
    return num_rows / (-(-num_rows // readers) * readers)


def _engine_in_words(section: PretrainSection | FinetuneSection) -> str:
    settings = section.engine.model_dump(exclude={"kind"})
    return ", ".join([section.engine.kind, *(f"{name} {value}" for name, value in settings.items())])


def _in_epochs(sizes: list[tuple[int | None, float]], epochs: float) -> int | None:
    """Adds up sizes times repeats times epochs; `None` as soon as one size is unknown."""
    known = [size * repeats for size, repeats in sizes if size is not None]
    return round(sum(known) * epochs) if len(known) == len(sizes) else None


def _plan_training(
    recipe: Recipe,
    load: Load,
    *,
    steps: int | None,
    tokens: int | None,
    num_sequences: int | None,
    average_length: float,
    section: PretrainSection | FinetuneSection,
    busy_share: float = 1.0,
) -> TrainingPlan:
    """Works out a stage's arithmetic, time and sizes.

    Args:
        recipe: The recipe.
        load: What a device holds.
        steps: Optimizer steps.
        tokens: Tokens read.
        num_sequences: Sequences or dialogues read.
        average_length: Tokens in one of them.
        section: Settings of the stage.
        busy_share: Share of the devices that has something to do at a time.
    """
    architecture, vocab_size, hardware = load.architecture, load.vocab_size, recipe.hardware
    per_token = training_flops_per_token(
        architecture,
        vocab_size,
        sequence_length=average_length,
        num_adapter_parameters=load.num_adapter_parameters,
    )
    achieved = hardware.accelerator.peak_flops * hardware.expected_mfu * busy_share
    flops = None if tokens is None else per_token * tokens
    device_hours = None if flops is None else flops / achieved / 3600
    total = count_parameters(architecture, vocab_size).total
    trained = total if load.num_adapter_parameters is None else load.num_adapter_parameters
    # The float32 weight and Adam's two moments of each, whatever the engine.
    resumable = 12 * trained
    return TrainingPlan(
        engine=_engine_in_words(section),
        steps=steps,
        tokens=tokens,
        num_sequences=num_sequences,
        tokens_per_step=round(tokens / steps) if tokens and steps else None,
        trained_parameters=trained,
        flops_per_token=per_token,
        attention_share=attention_flops_per_token(architecture, average_length) / per_token,
        flops=flops,
        tokens_per_second=load.num_devices * achieved / per_token,
        device_hours=device_hours,
        hours=None if device_hours is None else device_hours / load.num_devices,
        cost=None if device_hours is None else device_hours * hardware.accelerator.price_per_hour,
        weights_bytes=total * (4 if load.precision == "float32" else 2),
        resumable_bytes=resumable,
        kept_bytes=resumable * section.keep_checkpoints,
        memory=plan_memory(load, hardware.accelerator.memory_bytes),
    )


def memory_problems(recipe: Recipe, memory: MemoryPlan, section: str) -> list[str]:
    """Says whether a device lacks memory in a stage, how much goes where, and what would make it fit."""
    if memory.fits:
        return []
    parts = {
        "weights": memory.weights_bytes,
        "gradients": memory.gradients_bytes,
        "optimizer": memory.optimizer_bytes,
        "gathered weights": memory.gathered_bytes,
        "activations": memory.activations_bytes,
        "logits": memory.logits_bytes,
        "reserve": memory.reserve_bytes,
    }
    listed = ", ".join(f"{name} {size(num_bytes)}" for name, num_bytes in parts.items() if num_bytes)
    return [
        f"{section}: one device needs {size(memory.needed_bytes)} ({listed}) and hardware.accelerator.memory_bytes is "
        f"{size(memory.limit_bytes)}; "
        f"{what_would_fit(_load(recipe, section), memory.limit_bytes, section=section)}"
    ]


def adapter_problems(recipe: Recipe) -> list[str]:
    """Lists adapters on layers that a decoder does not have."""
    method = recipe.finetune.method
    known = linear_shapes(recipe.model.architecture)
    unknown = [name for name in method.target_modules if name not in known] if isinstance(method, AdapterTuning) else []
    if not unknown:
        return []
    return [
        f"finetune.method.target_modules: {', '.join(map(repr, unknown))}: no such linear layer in a decoder layer; "
        f"known: {', '.join(known)}"
    ]
