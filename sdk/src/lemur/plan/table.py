"""A plan on the terminal: small tables, every number with its unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lemur.units import count, digits, duration, percent, size, whole

if TYPE_CHECKING:
    from lemur.plan import Plan
    from lemur.plan.training import TrainingPlan

UNKNOWN = "unknown"


def render_plan(plan: Plan, console: Console) -> None:
    """Prints a plan: model and hardware, data, stages, memory of a device, notes, and whether it fits.

    What does not fit is named by `check_plan`, so that a command that calls both says it once.

    Args:
        plan: The plan.
        console: Where to print.
    """
    tables = [_sources(plan), _stages(plan), _memory(plan)]
    if plan.dialogues:
        tables.insert(1, _dialogues(plan))
    console.print(Group(_heading(plan), *tables))
    for note in plan.notes:
        console.print(Text(f"· {note}", style="dim"))
    if plan.problems:
        count_of = f"{len(plan.problems)} problem{'s' if len(plan.problems) > 1 else ''}"
        console.print(Text(f"does not fit: {count_of} to mend", style="bold red"))
    else:
        console.print(Text("fits: nothing in this plan stands in the way of a run", style="green"))


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, header_style="dim")
    for other in others:
        table.add_column(other, justify="right", header_style="dim")
    return table


def _heading(plan: Plan) -> Text:
    parameters, devices = plan.parameters, plan.devices
    text = Text()
    text.append(plan.name, style="bold")
    text.append(
        f"\n{whole(parameters.total)} parameters: embedding {count(parameters.embedding)}, {parameters.num_layers} "
        f"layers of {count(parameters.per_layer)}, output {count(parameters.head) if parameters.head else 'tied'}"
        f"\n{devices.num_devices} x {devices.accelerator} ({size(devices.memory_bytes)}, "
        f"{digits(devices.peak_flops / 1e12)} TFLOP/s peak, {devices.price_per_hour:g} {devices.currency} an hour)\n"
    )
    return text


def _sources(plan: Plan) -> Table:
    table = _table("Pretraining data", "source", "group", "share", "tokens", "of available", "epochs")
    for source in plan.sources:
        limit = f" (at most {source.max_epochs:g})" if source.max_epochs else ""
        estimated = "about " if source.available_from == "bytes" else ""
        table.add_row(
            source.name,
            source.group or "-",
            percent(source.share, 2),
            _tokens(source.tokens),
            UNKNOWN if source.available_tokens is None else estimated + _tokens(source.available_tokens),
            (UNKNOWN if source.epochs is None else f"{source.epochs:.2f}") + limit,
        )
    return table


def _dialogues(plan: Plan) -> Table:
    table = _table("\nDialogues", "source", "dialogues", "tokens", "times in an epoch")
    for source in plan.dialogues:
        table.add_row(
            source.name,
            UNKNOWN if source.num_dialogues is None else whole(source.num_dialogues),
            UNKNOWN if source.tokens is None else _tokens(source.tokens),
            f"{source.repeats:g}",
        )
    return table


def _stages(plan: Plan) -> Table:
    table = _table("\nTraining", "", "pretrain", "finetune")
    for label, values in (
        ("engine", [stage.engine for stage in _both(plan)]),
        ("steps", [_number(stage.steps) for stage in _both(plan)]),
        ("sequences or dialogues", [_number(stage.num_sequences) for stage in _both(plan)]),
        ("tokens", [_maybe(stage.tokens, _tokens) for stage in _both(plan)]),
        ("tokens a step", [_number(stage.tokens_per_step) for stage in _both(plan)]),
        ("trained parameters", [whole(stage.trained_parameters) for stage in _both(plan)]),
        ("operations a token", [f"{stage.flops_per_token:.2e} FLOP" for stage in _both(plan)]),
        ("operations", [_maybe(stage.flops, lambda value: f"{value:.2e} FLOP") for stage in _both(plan)]),
        (
            f"speed at {percent(plan.devices.expected_mfu)} of the peak",
            [f"{count(stage.tokens_per_second)} tokens/s" for stage in _both(plan)],
        ),
        ("time", [_maybe(stage.hours, lambda value: duration(3600 * value)) for stage in _both(plan)]),
        ("device hours", [_maybe(stage.device_hours, lambda value: f"{digits(value)} h") for stage in _both(plan)]),
        ("cost", [_maybe(stage.cost, lambda value: f"{value:,.2f} {plan.devices.currency}") for stage in _both(plan)]),
        ("checkpoint handed on", [size(stage.weights_bytes) for stage in _both(plan)]),
        ("checkpoint to resume from", [size(stage.resumable_bytes) for stage in _both(plan)]),
        ("resumable ones kept", [size(stage.kept_bytes) for stage in _both(plan)]),
    ):
        table.add_row(label, *values)
    return table


def _memory(plan: Plan) -> Table:
    table = _table("\nMemory of one device", "", "pretrain", "finetune")
    for label, field in (
        ("weights", "weights_bytes"),
        ("gradients", "gradients_bytes"),
        ("optimizer", "optimizer_bytes"),
        ("gathered weights", "gathered_bytes"),
        ("activations", "activations_bytes"),
        ("logits", "logits_bytes"),
        ("left free", "reserve_bytes"),
        ("needed", "needed_bytes"),
        ("device has", "limit_bytes"),
    ):
        values = [getattr(stage.memory, field) for stage in _both(plan)]
        if any(values):
            table.add_row(label, *map(size, values))
    fits = [Text("yes", style="green") if stage.memory.fits else Text("no", style="bold red") for stage in _both(plan)]
    table.add_row("fits", *fits)
    return table


def _both(plan: Plan) -> tuple[TrainingPlan, TrainingPlan]:
    return plan.pretrain, plan.finetune


def _tokens(value: float) -> str:
    return count(value, "tokens")


def _number(value: int | None) -> str:
    return _maybe(value, whole)


def _maybe(value: float | None, shown: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else shown(value)
