"""Finding the checkpoint to go on from, all processes together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainingArguments

from lemur.errors import IntegrityError
from lemur.storage.base import in_parallel
from lemur.training.checkpoints.layout import RunRecord
from lemur.training.checkpoints.reading import LocalObjects
from lemur.training.checkpoints.steps import StepCheckpoints, Stored


class Resumable(NamedTuple):
    """A checkpoint to go on from; all of it was verified."""

    step: int
    """Steps that are done."""
    folder: Path
    """Where its small files are on this machine; not to be changed."""
    run: RunRecord
    """What it says of the run."""
    objects: LocalObjects
    """Its objects."""


def newest_whole(arguments: TrainingArguments, checkpoints: StepCheckpoints, folder: Path) -> Resumable | None:
    """Returns the newest whole checkpoint, the same in every process, or `None` where there is none.

    Each process verifies a part of the objects, so all of them are read once. Damaged checkpoints are named and
    passed over; they, and what was never finished, are deleted, so that this attempt writes to empty places.

    Args:
        arguments: The Trainer's arguments, for the process group; all processes call this.
        checkpoints: Where resumable checkpoints are stored.
        folder: Folder for files that are not stored on this machine; what an earlier attempt left there is deleted.
    """
    if arguments.local_process_index == 0:
        shutil.rmtree(folder, ignore_errors=True)
    arguments.distributed_state.wait_for_everyone()
    is_first = arguments.process_index == 0
    found = checkpoints.newest_first() if is_first else iter(())
    while stored := _next(arguments, found):
        objects = LocalObjects(stored, folder / f"{stored.step:08d}")
        damages = _damages(objects, arguments)
        if not damages:
            if is_first:
                checkpoints.drop_after(stored.step)
            run = objects.run()
            for name in objects.objects:
                # The small files are read by their names, in every process.
                if not name.startswith(("state-", "index-")):
                    objects.path(name)
            return Resumable(stored.step, objects.folder, run, objects)
        if is_first:
            checkpoints.pass_over("; ".join(damages))
    if is_first:
        checkpoints.drop_after(-1)
    return None


def _next(arguments: TrainingArguments, found: Iterator[Stored]) -> Stored | None:
    """Returns the first process's next checkpoint."""
    candidate = [next(found, None)]
    if arguments.world_size > 1:
        broadcast_object_list(candidate)
    return candidate[0]


def _damages(objects: LocalObjects, arguments: TrainingArguments) -> list[str]:
    """Returns what all processes together find wrong with a checkpoint."""

    def damage(name: str) -> str | None:
        try:
            objects.verify(name)
        except IntegrityError as error:
            return str(error)
        return None

    names = objects.share(arguments.process_index, arguments.world_size)
    mine = [found for found in in_parallel(damage, names) if found]
    if arguments.process_index == 0 and not mine:
        try:
            objects.run()
        except IntegrityError as error:
            mine.append(str(error))
    return list(gather_object(mine)) if arguments.world_size > 1 else mine
