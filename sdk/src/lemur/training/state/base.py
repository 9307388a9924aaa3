"""What a checkpoint holds, without the engine: stretches of float32 numbers, named by parameter and part.

Engines divide weights and Adam's moments in their own ways: not at all (ddp), by rows (FSDP2), by flat ranges
(ZeRO), by columns (tensor parallelism). All of them are stretches of the flattened parameter, so a checkpoint that
one engine wrote with one number of processes is read by any other with any number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

Part = Literal["weight", "exp_avg", "exp_avg_sq"]
"""The float32 weight, and Adam's first and second moment of its gradient."""
PARTS: tuple[Part, ...] = ("weight", "exp_avg", "exp_avg_sq")


class Runs(NamedTuple):
    """Places in a flattened parameter: equally long runs, equally far apart."""

    start: int
    """First element of the first run."""
    length: int
    """Elements of a run."""
    num_runs: int = 1
    """Number of runs."""
    stride: int = 0
    """Elements from the start of a run to that of the next; at least `length` where there are several."""

    @property
    def num_elements(self) -> int:
        """Elements of all runs."""
        return self.length * self.num_runs


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

    @property
    def runs(self) -> Runs:
        """Where the numbers belong in the flattened parameter."""
        return Runs(self.start, self.length, self.num_runs, self.stride)


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
    def num_updates(self) -> int:
        """Returns how often the optimizer has changed the weights: the run's steps without those it passed over."""

    @abstractmethod
    def restored(self, num_updates: int) -> None:
        """Brings everything that follows from the stretches up to date after they were filled.

        Args:
            num_updates: What `num_updates` returned when they were stored; Adam corrects its moments by it.
        """
