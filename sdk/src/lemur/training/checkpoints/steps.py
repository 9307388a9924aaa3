"""Resumable checkpoints: what a run needs to go on as if nothing had happened, stored every so many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from lemur.errors import IntegrityError
from lemur.progress import emit
from lemur.receipt import Receipt
from lemur.results import fetch, find_result, write_result
from lemur.storage import open_storage
from lemur.training.description import TrainingDescription


class Resumable(NamedTuple):
    """A checkpoint to go on from."""

    step: int
    """Steps that are done."""
    folder: Path
    """Its files, verified; not to be changed."""


class StepCheckpoints:
    """The resumable checkpoints of one training job.

    Each is a result of its own at `checkpoints/<key16>-steps/<step>`, so an unfinished one never counts. They
    stand beside the final result and not below it, because writing a result clears its prefix.

    Args:
        job: The job's description.
        stage: Stage that makes them.
        parents: Results that the model is made from, by role.
        num_kept: Newest checkpoints that are kept.
    """

    def __init__(
        self,
        job: TrainingDescription,
        *,
        stage: Literal["pretrain", "finetune"],
        parents: Mapping[str, Receipt],
        num_kept: int,
    ) -> None:
        self._job, self._stage, self._parents, self._num_kept = job, stage, parents, num_kept
        self._prefix = steps_prefix(job)
        self._storage = open_storage(job.storage).at(self._prefix)

    def store(self, step: int, folder: Path) -> None:
        """Stores a checkpoint, then drops the ones that are older than the newest kept.

        Raises:
            StorageError: Storage is full or cannot be reached; the earlier checkpoints are as they were.
        """
        writer = write_result(
            self._job.storage,
            prefix=f"{self._prefix}/{step:08d}",
            kind="checkpoint",
            stage=self._stage,
            key=self._job.key,
            parents=self._parents,
        )
        writer.add_folder(folder)
        writer.commit(metadata={"role": "resumable", "steps": step})
        for name in self._names()[: -self._num_kept]:
            self._storage.delete(name)

    def newest(self, destination: Path) -> Resumable | None:
        """Returns the newest whole checkpoint, or `None` where there is none; names the damaged ones it passes over.

        Args:
            destination: Folder for its files where storage is not a local folder.
        """
        for receipt in self._found():
            try:
                folder = fetch(receipt, destination / Path(receipt.uri).name)
            except IntegrityError as error:
                emit("note", text=f"{self._stage}: a checkpoint is damaged and is passed over: {error}")
                continue
            return Resumable(int(receipt.metadata["steps"]), folder)
        return None

    def _found(self) -> Iterator[Receipt]:
        for name in reversed(self._names()):
            try:
                receipt = find_result(self._job.storage, f"{self._prefix}/{name}")
            except IntegrityError as error:
                emit("note", text=f"{self._stage}: a checkpoint is damaged and is passed over: {error}")
                continue
            if receipt:
                yield receipt

    def _names(self) -> list[str]:
        return sorted({found.name.partition("/")[0] for found in self._storage.list()})


def steps_prefix(job: TrainingDescription) -> str:
    """Returns where the resumable checkpoints of a job stand below the storage's root."""
    return f"{job.prefix}-steps"


def clear(job: TrainingDescription) -> None:
    """Deletes all resumable checkpoints of a job whose result is finished."""
    open_storage(job.storage).at(steps_prefix(job)).delete()
