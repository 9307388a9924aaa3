"""The serving and hardware sections: what models run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from lemur.plugins import OneOf, Section

if TYPE_CHECKING:
    from lemur.serving.runtime import Runtime
    from lemur.training.backend import Backend
else:
    Runtime = Annotated[Any, OneOf("lemur.serving.runtimes")]
    Backend = Annotated[Any, OneOf("lemur.training.backends")]


class ServingSection(Section):
    """How models are served, for evaluation and after the release."""

    runtime: Runtime
    """Model server."""
    first_prompts: list[str] = Field(default_factory=lambda: ["Who are you?"])
    """What a new release is asked before it counts as served; its replies stand in the report."""


class Accelerator(Section):
    """The device a plan is made for."""

    name: str
    """What people call it, for example `H100-SXM-80GB`."""
    memory_bytes: PositiveInt
    """Memory of one device."""
    peak_flops: PositiveFloat
    """Dense peak at the training precision, in floating-point operations a second."""
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Price of one device for one hour, in `currency`."""
    currency: str = "USD"
    """Unit of the price."""


class HardwareSection(Section):
    """Where training runs, and what a plan assumes of it."""

    backend: Backend
    """Who starts the training processes."""
    num_nodes: PositiveInt = 1
    """Machines."""
    devices_per_node: PositiveInt = 1
    """Devices, and so training processes, on each machine."""
    accelerator: Accelerator
    """The device."""
    expected_mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the peak that training reaches, for the plan's hours; a run reports what it reached."""
