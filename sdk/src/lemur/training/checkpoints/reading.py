"""Reading a checkpoint: verified files on this machine, and whatever stretches a process asks for."""

from __future__ import annotations

import fcntl
import mmap
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from lemur.errors import IntegrityError
from lemur.progress import moved
from lemur.receipt import StoredObject
from lemur.storage import open_storage
from lemur.storage.base import in_parallel
from lemur.storage.integrity import check_file
from lemur.training.checkpoints.layout import (
    ELEMENT_BYTES,
    RUN_NAME,
    Index,
    Place,
    RunRecord,
    parse,
    places,
    writer_of,
)
from lemur.training.checkpoints.steps import Stored
from lemur.training.state import Part, Stretch
from lemur.training.state.stretches import copy_shared, shared


class LocalObjects:
    """The objects of a checkpoint as files of this machine.

    Where objects are files, they are read where they are. Others are downloaded, each once for all processes of a
    machine, and appear only when they are what the manifest says.

    Args:
        stored: The checkpoint.
        folder: Local folder for downloads; what is in it was verified by this attempt.
    """

    def __init__(self, stored: Stored, folder: Path) -> None:
        self.step, self.uri = stored.step, stored.uri
        self.objects = {found.name: found for found in stored.objects}
        self._storage = open_storage(stored.uri)
        self.folder = self._storage.local_path() or folder
        """Where the files are."""

    def path(self, name: str) -> Path:
        """Returns an object as a file, downloading it where this machine does not have it.

        Raises:
            IntegrityError: It is missing, or not what the manifest says.
        """
        expected, path = self._expected(name), self._storage.local_path(name)
        if path:
            return path
        target = self.folder / name
        if not target.is_file():
            with _alone(target.with_name(f"{name}.lock")):
                if not target.is_file():
                    self._storage.download(name, target, expected, on_bytes=_unseen)
        return target

    def verify(self, name: str) -> None:
        """Reads an object whole and compares it with the manifest.

        Raises:
            IntegrityError: It is missing, or not what the manifest says.
        """
        path = self._storage.local_path(name)
        if path:
            check_file(self._storage.uri_of(name), path, self._expected(name))
        else:
            self.path(name)

    def drop_downloads(self) -> None:
        """Deletes what was downloaded; what is mapped stays until it no longer is."""
        if not self._storage.local_path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def uri_of(self, name: str) -> str:
        """Returns the URI of an object, as messages name it."""
        return self._storage.uri_of(name)

    def share(self, rank: int, num_ranks: int) -> list[str]:
        """Returns the objects that a process verifies, of all processes together each one.

        Where as many processes read as wrote, each gets the files that it will most likely need itself.
        """
        chosen = []
        for number, name in enumerate(sorted(self.objects)):
            writer = writer_of(name)
            owner = writer[0] if writer and writer[1] == num_ranks else number % num_ranks
            if owner == rank:
                chosen.append(name)
        return chosen

    def run(self) -> RunRecord:
        """Returns what the checkpoint says of the run."""
        return parse(RunRecord, self.uri_of(RUN_NAME), self.path(RUN_NAME).read_bytes())

    def _expected(self, name: str) -> StoredObject:
        if name not in self.objects:
            raise IntegrityError(f"{self.uri} has no object {name!r}; it has {', '.join(list(self.objects)[:10])}")
        return self.objects[name]


class _Found(NamedTuple):
    """Numbers in a file."""

    file: str
    place: Place
    shape: tuple[int, ...]


class StateReader:
    """Fills stretches from a checkpoint, however it is cut; opens only the files that have something of them.

    Args:
        objects: The checkpoint's objects, which were verified.
    """

    def __init__(self, objects: LocalObjects) -> None:
        self._objects = objects
        self._found: dict[tuple[str, Part], list[_Found]] = defaultdict(list)
        names = [name for name in objects.objects if name.startswith("index-")]
        for index in in_parallel(self._index, names):
            for name, part, place in places(index):
                found = _Found(index.files[place.file].name, place, index.parameters[name].shape)
                self._found[name, part].append(found)

    def files_for(self, stretches: Sequence[Stretch]) -> list[str]:
        """Returns the names of the files that have something of these stretches."""
        return sorted({found.file for stretch in stretches for found in self._overlapping(stretch)})

    def fill(self, stretches: Sequence[Stretch]) -> None:
        """Writes the checkpoint's numbers into the stretches.

        Raises:
            IntegrityError: The checkpoint does not have all of them, or has another parameter of that name.
        """
        with torch.no_grad():
            mapped = dict(zip(names := self.files_for(stretches), in_parallel(self._mapped, names), strict=True))
            for stretch in stretches:
                num_copied = 0
                for found in self._overlapping(stretch):
                    num_copied += copy_shared(self._piece(mapped[found.file], found, stretch), stretch)
                if num_copied != stretch.runs.num_elements:
                    raise IntegrityError(
                        f"{self._objects.uri} has {num_copied:,} of {stretch.runs.num_elements:,} numbers of "
                        f"{stretch.parameter} ({stretch.part}); it is the checkpoint of another model"
                    )

    def _index(self, name: str) -> Index:
        return parse(Index, self._objects.uri_of(name), self._objects.path(name).read_bytes())

    def _overlapping(self, stretch: Stretch) -> Iterator[_Found]:
        for found in self._found.get((stretch.parameter, stretch.part), []):
            if found.shape != stretch.shape:
                raise IntegrityError(
                    f"{self._objects.uri} has {stretch.parameter} of shape {found.shape}, and it is {stretch.shape} "
                    "here; it is the checkpoint of another model"
                )
            if next(shared(found.place.runs, stretch.runs), None):
                yield found

    def _mapped(self, name: str) -> mmap.mmap:
        with self._objects.path(name).open("rb") as file:
            # Private and writable, since PyTorch knows no memory that must not be written; nothing writes to it.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _piece(self, mapped: mmap.mmap, found: _Found, stretch: Stretch) -> Stretch:
        place = found.place
        if place.offset_bytes + place.runs.num_elements * ELEMENT_BYTES > len(mapped):
            raise IntegrityError(f"{self._objects.uri_of(found.file)} ends before {stretch.parameter} does")
        values = torch.frombuffer(mapped, dtype=torch.float32, count=place.runs.num_elements, offset=place.offset_bytes)
        return Stretch(stretch.parameter, stretch.part, found.shape, *place.runs[:2], values, *place.runs[2:])


def _unseen(count: int) -> None:
    """Shows no bar of a transfer, and tells whoever watches that it moves."""
    moved()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Holds a lock file of the machine's processes; the kernel drops it however the holder ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
