"""The state where every process keeps a whole copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lemur.training.state.adam import (
    count_of_updates,
    innermost,
    moments,
    set_count_of_updates,
    stretches,
    trainable,
)
from lemur.training.state.base import Part, Stretch, TrainingState
from lemur.training.state.sharing import share

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


class ReplicatedState(TrainingState):
    """Whole parameters, the same to the bit in all processes; process p of n writes the p-th n-th of their elements.

    Args:
        trainer: The Trainer, with model and optimizer prepared.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._parameters, self._optimizer = trainable(trainer), innermost(trainer)
        self._rank, self._num_processes = trainer.args.process_index, trainer.args.world_size

    def held(self) -> Sequence[Stretch]:
        """Returns every weight and moment, whole."""
        return [
            stretch
            for name, parameter in self._parameters
            for stretch in stretches(self._optimizer, parameter, partial(_whole, name))
        ]

    def owned(self) -> Sequence[Stretch]:
        """Returns this process's share of all elements together."""
        return list(share(self.held(), self._rank, self._num_processes))

    def num_updates(self) -> int:
        """Returns Adam's own count."""
        return count_of_updates(self._moments(parameter) for _, parameter in self._parameters)

    def restored(self, num_updates: int) -> None:
        """Sets Adam's count."""
        set_count_of_updates((self._moments(parameter) for _, parameter in self._parameters), num_updates)

    def _moments(self, parameter: Any) -> dict[str, Any]:
        return moments(self._optimizer, parameter)


def _whole(name: str, part: Part, values: torch.Tensor) -> list[Stretch]:
    return [Stretch(name, part, tuple(values.shape), 0, values.numel(), values)]
