"""The state where PyTorch keeps parameters: whole in every process (ddp), or divided by FSDP2 or tensor parallelism."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor

from lemur.errors import TrainingError
from lemur.receipt import digest_of
from lemur.training.state.adam import (
    count_of_updates,
    innermost,
    moments,
    set_count_of_updates,
    stretches,
    trainable,
)
from lemur.training.state.base import Part, Runs, Stretch, TrainingState
from lemur.training.state.sharing import share

if TYPE_CHECKING:
    from transformers import Trainer


class ShardedState(TrainingState):
    """What this process has of each parameter; what several have alike is written in equal shares.

    Who has the same is found by asking all of them once, whatever the mesh: plain tensors beside divided ones,
    parameters that one dimension of the mesh copies and another divides, shards of different sizes, empty ones.

    Args:
        trainer: The Trainer, with model and optimizer prepared. All processes make their states together.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._parameters, self._optimizer = trainable(trainer), innermost(trainer)
        self._rank = trainer.args.process_index
        boxes = [_box(parameter) for _, parameter in self._parameters]
        mine = [digest_of(box)[:16] for box in boxes]
        everyone: list[list[str]] = gather_object([mine]) if trainer.args.world_size > 1 else [mine]
        self._holders = [
            tuple(rank for rank, digests in enumerate(everyone) if digests[index] == digest)
            for index, digest in enumerate(mine)
        ]

    def held(self) -> Sequence[Stretch]:
        """Returns what this process has of each weight and moment."""
        return [
            stretch
            for name, parameter in self._parameters
            for stretch in stretches(self._optimizer, parameter, partial(divided, name))
        ]

    def owned(self) -> Sequence[Stretch]:
        """Returns this process's share of what it has."""
        together: dict[tuple[int, ...], list[Stretch]] = defaultdict(list)
        for (name, parameter), holders in zip(self._parameters, self._holders, strict=True):
            together[holders].extend(stretches(self._optimizer, parameter, partial(divided, name)))
        return [
            stretch
            for holders, alike in together.items()
            for stretch in share(alike, holders.index(self._rank), len(holders))
        ]

    def num_updates(self) -> int:
        """Returns Adam's own count."""
        return count_of_updates(moments(self._optimizer, parameter) for _, parameter in self._parameters)

    def restored(self, num_updates: int) -> None:
        """Sets Adam's count; whole weights are gathered from the shards when they are next needed."""
        set_count_of_updates((moments(self._optimizer, parameter) for _, parameter in self._parameters), num_updates)


def divided(name: str, part: Part, values: Any) -> Iterator[Stretch]:
    """Yields what this process has of a tensor: a plain one is whole, of a divided one it has a box."""
    shape = tuple(values.shape)
    sizes, offsets = _box(values)
    local = values.to_local() if isinstance(values, DTensor) else values
    numbers, place = local.detach().view(-1), 0
    for runs in runs_of_box(shape, sizes, offsets):
        here = numbers[place : place + runs.num_elements]
        yield Stretch(name, part, shape, runs.start, runs.length, here, runs.num_runs, runs.stride)
        place += runs.num_elements


def runs_of_box(shape: Sequence[int], sizes: Sequence[int], offsets: Sequence[int]) -> Iterator[Runs]:
    """Yields the places of a box in a flattened tensor, in the order of the box's own elements.

    Args:
        shape: Shape of the tensor.
        sizes: Shape of the box.
        offsets: First index of the box in each dimension.
    """
    if not math.prod(sizes):
        return
    strides = [math.prod(shape[dimension + 1 :]) for dimension in range(len(shape))]
    # From the back: dimensions that the box has whole belong to its runs, and so does the one before them.
    inner = len(shape)
    while inner and sizes[inner - 1] == shape[inner - 1]:
        inner -= 1
    if not inner:
        yield Runs(0, math.prod(shape))
        return
    inner -= 1
    length = sizes[inner] * strides[inner]
    start = offsets[inner] * strides[inner]
    # Next, dimensions that are whole, or the one before those, repeat a run at equal distances.
    repeated = inner
    while repeated and sizes[repeated - 1] == shape[repeated - 1]:
        repeated -= 1
    repeated = max(repeated - 1, 0)
    num_runs = math.prod(sizes[repeated:inner])
    start += sum(offsets[dimension] * strides[dimension] for dimension in range(repeated, inner))
    stride = strides[inner - 1] if inner and num_runs > 1 else 0
    for index in itertools.product(*(range(size) for size in sizes[:repeated])):
        outer = sum((offset + at) * step for offset, at, step in zip(offsets, index, strides, strict=False))
        yield Runs(start + outer, length, num_runs, stride)


def _box(values: Any) -> tuple[list[int], list[int]]:
    """Returns the shape and the first indices of what this process has of a tensor."""
    if not isinstance(values, DTensor):
        return list(values.shape), [0] * values.dim()
    # Not public, and used by PyTorch's own distributed checkpoints for the same purpose.
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, offsets = compute_local_shape_and_global_offset(values.shape, values.device_mesh, values.placements)
    found = tuple(values.to_local().shape)
    if tuple(sizes) != found or any(placement.is_partial() for placement in values.placements):
        raise TrainingError(
            f"a tensor of shape {tuple(values.shape)} divided as {values.placements} has {found} here and not "
            f"{tuple(sizes)}: checkpoints know parameters that are divided into boxes; choose another engine"
        )
    return list(sizes), list(offsets)
