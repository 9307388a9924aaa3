"""What a run will do, before anything is spent: tokens, steps, memory, time, cost, and what does not fit.

A plan is arithmetic on the recipe. It reads no weights and downloads nothing; what it assumes stands in its
`notes`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lemur.errors import PlanError
from lemur.model_size import ParameterCount, count_parameters
from lemur.plan.data import DialoguesPlan, SourcePlan, bytes_per_token, plan_dialogues, plan_sources
from lemur.plan.table import render_plan
from lemur.plan.training import TrainingPlan, adapter_problems, memory_problems, plan_pretraining, plan_tuning
from lemur.recipe import Recipe
from lemur.recipe_file import recipe_hash

__all__ = ["DevicesPlan", "Plan", "check_plan", "make_plan", "render_plan"]


class DevicesPlan(BaseModel):
    """What the plan is made for."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    accelerator: str
    """Name of the device."""
    num_devices: int
    """Devices in all."""
    memory_bytes: int
    """Memory of one."""
    peak_flops: float
    """Dense peak of one, operations a second."""
    expected_mfu: float
    """Share of the peak that training is assumed to reach."""
    price_per_hour: float
    """Price of one for an hour."""
    currency: str
    """Unit of the price."""


class Plan(BaseModel):
    """A recipe's run in numbers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the run."""
    recipe_hash: str
    """Digest of the recipe the plan is made from."""
    parameters: ParameterCount
    """Parameters of the model."""
    sources: list[SourcePlan]
    """What is read in pretraining."""
    dialogues: list[DialoguesPlan]
    """What is read in an epoch of tuning."""
    devices: DevicesPlan
    """What it runs on."""
    pretrain: TrainingPlan
    """Pretraining."""
    finetune: TrainingPlan
    """Tuning."""
    notes: list[str]
    """What the figures assume, and settings that have no effect."""
    problems: list[str]
    """What does not fit, each with what to change; empty where the run can start."""


def make_plan(recipe: Recipe) -> Plan:
    """Plans a recipe.

    Returns:
        The plan, with its problems listed rather than raised; `check_plan` raises them.
    """
    parameters = count_parameters(recipe.model.architecture, recipe.model.tokenizer.vocab_size)
    dialogues, dialogue_problems = plan_dialogues(recipe)
    pretrain = plan_pretraining(recipe)
    finetune = plan_tuning(recipe, dialogues)
    sources, source_problems = plan_sources(recipe, tokens=pretrain.tokens or 0)
    return Plan(
        name=recipe.name,
        recipe_hash=recipe_hash(recipe),
        parameters=parameters,
        sources=sources,
        dialogues=dialogues,
        devices=_devices(recipe),
        pretrain=pretrain,
        finetune=finetune,
        notes=_notes(recipe, pretrain, sources),
        problems=[
            *source_problems,
            *dialogue_problems,
            *adapter_problems(recipe),
            *memory_problems(recipe, pretrain.memory, "pretrain"),
            *memory_problems(recipe, finetune.memory, "finetune"),
        ],
    )


def check_plan(plan: Plan) -> None:
    """Refuses a plan that has problems.

    Raises:
        PlanError: Lists every problem with what to change.
    """
    if plan.problems:
        count = f"{len(plan.problems)} problem{'s' if len(plan.problems) > 1 else ''}"
        raise PlanError(f"{plan.name} cannot run as planned, {count}:\n" + "\n".join(f"- {p}" for p in plan.problems))


def _devices(recipe: Recipe) -> DevicesPlan:
    hardware = recipe.hardware
    return DevicesPlan(
        accelerator=hardware.accelerator.name,
        num_devices=hardware.num_nodes * hardware.devices_per_node,
        expected_mfu=hardware.expected_mfu,
        **hardware.accelerator.model_dump(exclude={"name"}),
    )


def _notes(recipe: Recipe, pretrain: TrainingPlan, sources: list[SourcePlan]) -> list[str]:
    vocab_size, steps = recipe.model.tokenizer.vocab_size, pretrain.steps or 0
    notes = [
        f"operations are 6 x multiplied parameters + 12 x layers x hidden size x length for each token (PaLM, "
        f"appendix B); attention is {pretrain.attention_share:.1%} of pretraining, a causal kernel does half of it",
        f"hours and cost assume {recipe.hardware.expected_mfu:.1%} of the peak and count training alone: no queue, "
        f"no evaluation, no storage",
        f"memory assumes {pretrain.memory.layout} and flash attention; 10 % of a device is left free",
    ]
    if any(source.available_from == "bytes" for source in sources):
        notes.append(f"tokens of local sources are estimated at {bytes_per_token(vocab_size):.1f} bytes a token")
    unknown = [source.name for source in sources if source.available_from == "unknown"]
    if unknown:
        notes.append(f"size unknown, so epochs are too: {', '.join(unknown)}; state available_tokens to check them")
    if recipe.pretrain.warmup_steps >= steps:
        notes.append(f"pretrain.warmup_steps {recipe.pretrain.warmup_steps:,} of {steps:,} steps: no decay will follow")
    return notes
