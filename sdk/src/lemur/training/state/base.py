"""What a checkpoint holds, without the engine: stretches of float32 numbers, named by parameter and part.

Engines divide weights and Adam's moments in their own ways: not at all (ddp), by rows (FSDP2), by flat ranges
(ZeRO), by columns (tensor parallelism). All of them are stretches of the flattened parameter, so a checkpoint that
one engine wrote with one number of processes is read by any other with any number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Part = Literal["weight", "exp_avg", "exp_avg_sq"]
"""The float32 weight, and Adam's first and second moment of its gradient."""
PARTS: tuple[Part, ...] = ("weight", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Stretch:
    """Numbers of one parameter that this process holds, equally long runs of the flattened parameter.

    Run r covers the elements from `start + r * stride` on, `length` of them. One run is the usual case; columns of
    a matrix are `rows` runs.
    """

    parameter: str
    """Name of the parameter, as in the model's `named_parameters()`, without an engine's own prefixes."""
    part: Part
    """Which number of each element."""
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    start: int
    """First element of the first run, in the flattened parameter."""
    length: int
    """Elements of a run."""
    values: torch.Tensor
    """The numbers where they live, [num_runs * length] or any shape of that many; writing into it changes them."""
    num_runs: int = 1
    """Number of runs."""
    stride: int = 0
    """Elements from the start of a run to that of the next."""


class TrainingState(ABC):
    """A process's view of the weights and moments of a run, made by its engine."""

    @abstractmethod
    def held(self) -> Sequence[Stretch]:
        """Returns everything that this process holds, to be filled from a checkpoint.

        The optimizer's moments exist after this call, as zeros where no step was made yet.
        """

    @abstractmethod
    def owned(self) -> Sequence[Stretch]:
        """Returns what this process writes: over all processes, each element of each part exactly once."""

    @abstractmethod
    def restored(self, step: int) -> None:
        """Brings everything that follows from the stretches up to date after they were filled.

        Args:
            step: Optimizer steps that are done, which Adam corrects its moments by.
        """
