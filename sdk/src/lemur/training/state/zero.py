"""The state where DeepSpeed divides it by flat ranges: ZeRO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from lemur.errors import TrainingError
from lemur.training.state.adam import (
    count_of_updates,
    innermost,
    moments,
    set_count_of_updates,
    stretches,
    trainable,
)
from lemur.training.state.base import Part, Stretch, TrainingState

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


class _Fragment(NamedTuple):
    """What this process has of a parameter: a range of it, and where that lies in a flat partition."""

    name: str
    shape: tuple[int, ...]
    start: int
    length: int
    partition: torch.Tensor
    place: int


class ZeroState(TrainingState):
    """Float32 master weights and moments of the ranges that this process updates; no two processes have the same.

    In stages 1 and 2 (and with float32 masters of bfloat16 weights alone) the parameters of a group lie one after
    another, and that line is divided; in stage 3 each parameter is. What is computed with is a copy, in the precision
    of the arithmetic, and is made anew after the masters were filled.

    Args:
        trainer: The Trainer, with model and optimizer prepared by DeepSpeed.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._zero: Any = getattr(trainer.optimizer, "optimizer", None)
        self._parameters, self._optimizer = trainable(trainer), innermost(trainer)
        self._divides_parameters = hasattr(self._zero, "fp32_partitioned_groups_flat")
        if getattr(self._zero, "swap_optimizer", False):
            raise TrainingError(
                "checkpoints know optimizer states in memory and not on NVMe; offload to the CPU instead"
            )

    def held(self) -> Sequence[Stretch]:
        """Returns the ranges of the master weights and moments that are here."""
        return [
            stretch
            for fragment in self._fragments()
            for stretch in stretches(self._optimizer, fragment.partition, partial(_range, fragment))
        ]

    def owned(self) -> Sequence[Stretch]:
        """Returns the same: each range is in one process alone."""
        return self.held()

    def num_updates(self) -> int:
        """Returns Adam's own count."""
        return count_of_updates(self._moments(partition) for partition in self._partitions())

    def restored(self, num_updates: int) -> None:
        """Sets Adam's count, and makes the weights that are computed with anew from the masters."""
        set_count_of_updates((self._moments(partition) for partition in self._partitions()), num_updates)
        for group in self._optimizer.param_groups:
            if "step" in group:
                group["step"] = num_updates
        if not self._divides_parameters:
            self._zero.update_lp_params()
            return
        for index in range(len(self._partitions())):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)
        # Small parameters are kept whole everywhere.
        if self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].partition(self._zero.persistent_parameters)
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)
        self._zero.invalidate_secondary_tensor()

    def _partitions(self) -> Sequence[torch.Tensor]:
        """Returns the flat float32 partitions of this process, as the optimizer knows them."""
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise TrainingError(f"checkpoints do not know DeepSpeed's {type(self._zero).__name__}; choose a ZeRO stage")

    def _fragments(self) -> Iterator[_Fragment]:
        partitions = self._partitions()
        for name, parameter in self._parameters:
            if self._divides_parameters:
                yield from self._part(name, parameter, partitions)
            elif parameter._hp_mapping is not None:
                mapping = parameter._hp_mapping
                low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
                partition = partitions[mapping.param_group_index]
                yield _Fragment(name, tuple(parameter.shape), low.start, low.numel, partition, high.start)

    def _part(self, name: str, parameter: Any, partitions: Sequence[torch.Tensor]) -> Iterator[_Fragment]:
        """Yields the part of a parameter that stage 3 has here; the last parts are padded, which nobody stores."""
        group, place, size = self._zero.grad_position[self._zero.get_param_id(parameter)]
        start = size * self._zero._get_param_partition_rank(parameter)
        length = min(size, parameter.ds_numel - start)
        if length > 0:
            yield _Fragment(name, tuple(parameter.ds_shape), start, length, partitions[group], place)

    def _moments(self, partition: torch.Tensor) -> dict[str, Any]:
        return moments(self._optimizer, partition)


def _range(fragment: _Fragment, part: Part, values: torch.Tensor) -> list[Stretch]:
    numbers = values[fragment.place : fragment.place + fragment.length]
    return [Stretch(fragment.name, part, fragment.shape, fragment.start, fragment.length, numbers)]
