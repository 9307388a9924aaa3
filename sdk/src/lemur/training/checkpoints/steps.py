"""Where the resumable checkpoints of a job stand, which of them are whole, and how long they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from lemur.errors import IntegrityError
from lemur.progress import emit
from lemur.receipt import MANIFEST_NAME, Manifest, Receipt, StoredObject
from lemur.recipe import FinetuneSection, PretrainSection
from lemur.results import read_manifest
from lemur.storage import open_storage
from lemur.storage.base import Storage
from lemur.training.checkpoints.layout import RunRecord
from lemur.training.description import TrainingDescription


class Stored(NamedTuple):
    """A checkpoint with a manifest; whether its objects are what it says is for the reader to see."""

    step: int
    """Steps that are done."""
    uri: str
    """Where it stands."""
    objects: list[StoredObject]
    """What it is made of."""


class StepCheckpoints:
    """The resumable checkpoints of one training job.

    Each is a result of its own at `checkpoints/<key16>-steps/<step>`, so an unfinished one never counts. They
    stand beside the final result and not below it, because writing a result clears its prefix.

    Args:
        job: The job's description.
        section: Says which are kept.
        stage: Stage that makes them.
        parents: Results that the model is made from, by role.
    """

    def __init__(
        self,
        job: TrainingDescription,
        section: PretrainSection | FinetuneSection,
        *,
        stage: Literal["pretrain", "finetune"],
        parents: Mapping[str, Receipt],
    ) -> None:
        self.stage = stage
        self._job, self._parents = job, parents
        self._num_kept, self._keep_every_steps = section.keep_checkpoints, section.keep_every_steps
        self._storage = open_storage(job.storage).at(steps_prefix(job))

    def at(self, step: int) -> Storage:
        """Returns where the objects of a checkpoint stand."""
        return self._storage.at(_folder(step))

    def commit(self, run: RunRecord, objects: Sequence[StoredObject]) -> None:
        """Makes a checkpoint of objects that are stored, then drops those that are no longer kept.

        Raises:
            StorageError: Storage is full or cannot be reached; the earlier checkpoints are as they were.
        """
        kept = self._keep_every_steps is not None and run.step % self._keep_every_steps == 0
        manifest = Manifest(
            kind="checkpoint",
            stage=self.stage,
            key=self._job.key,
            objects=sorted(objects, key=lambda stored: stored.name),
            parents={role: parent.as_parent() for role, parent in self._parents.items()},
            metadata={
                "role": "resumable",
                "steps": run.step,
                "kept": kept,
                "engine": run.engine,
                "processes": run.num_ranks,
            },
        )
        self.at(run.step).write(MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
        # Not newer ones: other processes may have begun to write them.
        passing = [step for step in _steps(self._storage) if step <= run.step and not _is_kept(self.at(step))]
        for step in passing[: -self._num_kept]:
            self.at(step).delete()

    def newest_first(self) -> Iterator[Stored]:
        """Yields the checkpoints that have a manifest, and names those whose manifest cannot be read."""
        for step in reversed(_steps(self._storage)):
            storage = self.at(step)
            if not storage.exists(MANIFEST_NAME):
                continue
            try:
                yield Stored(step, storage.uri, read_manifest(storage.uri).objects)
            except IntegrityError as error:
                self.pass_over(error)

    def pass_over(self, error: IntegrityError | str) -> None:
        """Says that a checkpoint is damaged."""
        emit("note", text=f"{self.stage}: a checkpoint is damaged and is passed over: {error}")

    def drop_after(self, step: int) -> None:
        """Deletes what stands for later steps: checkpoints that are damaged, or were never finished."""
        for later in _steps(self._storage):
            if later > step:
                self.at(later).delete()


def steps_prefix(job: TrainingDescription) -> str:
    """Returns where the resumable checkpoints of a job stand below the storage's root."""
    return f"{job.prefix}-steps"


def clear(job: TrainingDescription) -> None:
    """Deletes the resumable checkpoints of a job whose result is finished, but for those that are kept for good."""
    storage = open_storage(job.storage).at(steps_prefix(job))
    for step in _steps(storage):
        if not _is_kept(storage.at(_folder(step))):
            storage.delete(_folder(step))


def _steps(storage: Storage) -> list[int]:
    names = {found.name.partition("/")[0] for found in storage.list()}
    return sorted(int(name) for name in names if name.isdigit())


def _folder(step: int) -> str:
    return f"{step:08d}"


def _is_kept(storage: Storage) -> bool:
    """Tells whether a checkpoint was made to be kept for good, whatever is set now."""
    try:
        return storage.exists(MANIFEST_NAME) and bool(read_manifest(storage.uri).metadata.get("kept"))
    except IntegrityError:
        return False
