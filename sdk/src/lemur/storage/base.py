"""Where bytes live: one small interface over a folder (`file://`) and an S3 bucket (`s3://`).

An object appears whole or not at all: a file is written under another name, synced and renamed; S3 shows an
object when its upload is complete. Names are checked alike on both, so that what one takes, the other takes.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lemur import progress
from lemur.errors import StorageError
from lemur.receipt import MANIFEST_NAME, StoredObject

PARTIAL_PREFIX = ".lemur-partial-"
"""How the name of a file begins while it is being written; no object may be called so."""

NUM_PARALLEL_OBJECTS = 4
"""Objects that are transferred or verified at the same time."""

CHUNK_BYTES = 1024 * 1024
"""Bytes that are read, hashed and written at once."""

_PROGRESS_FROM_BYTES = 64 * 1024 * 1024
_MAX_SEGMENT_BYTES = 255

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing tells of an object."""

    name: str
    """Path below the storage's prefix."""
    size_bytes: int
    """Size of the object."""
    etag: str = field(default="", compare=False)
    """What the server says is another when the content is; empty where objects are files."""


class Storage(ABC):
    """Objects below one prefix; names are paths below it, with forward slashes.

    Every method raises `StorageError` where the storage cannot be reached, is full or refuses, and
    `IntegrityError` where an object that is asked for is not there.
    """

    uri: str
    """The prefix in its one canonical form: `file:///folder` or `s3://bucket/prefix`, no slash at the end."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Returns the bytes of an object."""

    @abstractmethod
    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Returns a part of an object.

        Args:
            name: Name of the object.
            start: Its first byte, counted from 0.
            length: Bytes in it, at least 1.

        Raises:
            IntegrityError: The object is missing, or ends before the part does.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> StoredObject:
        """Stores bytes as an object, replacing one of that name at once."""

    @abstractmethod
    def upload(
        self, name: str, path: Path, *, on_bytes: Callable[[int], None] | None = None, move: bool = False
    ) -> StoredObject:
        """Stores a file as an object, replacing one of that name at once.

        Args:
            name: Name of the object.
            path: File to read, once; its digest is taken on the way.
            on_bytes: Called with the number of bytes of each piece that went out. Without it, a large
                upload shows its own progress.
            move: Whether the file itself may become the object, where that saves a copy; it may be gone then.
        """

    @abstractmethod
    def download(
        self,
        name: str,
        path: Path,
        expected: StoredObject | None = None,
        *,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Copies an object to a file that appears whole or not at all.

        Args:
            name: Name of the object.
            path: File to make; its folders are made too.
            expected: Size and digest that the object must have.
            on_bytes: As for `upload`.

        Raises:
            IntegrityError: The object is missing, or is not what is expected.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Tells whether there is an object of that name."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Returns the object `prefix` and all objects below it as a folder, sorted by name."""

    @abstractmethod
    def delete(self, prefix: str = "") -> None:
        """Deletes the object `prefix` and all objects below it, every `manifest.json` first.

        A result without its manifest does not count as one, so a deletion that is cut short leaves nothing that
        could be taken for complete. Deleting what is not there does nothing.
        """

    @abstractmethod
    def at(self, prefix: str) -> Storage:
        """Returns the storage below a prefix of this one."""

    @abstractmethod
    def uri_of(self, name: str) -> str:
        """Returns the full URI of an object, as messages name it."""

    def keep_only(self, names: AbstractSet[str]) -> None:
        """Deletes every object that is not named, and what killed writers left of unfinished ones."""
        for stored in self.list():
            if stored.name not in names:
                self.delete(stored.name)

    def local_path(self, name: str = "") -> Path | None:
        """Returns the path of an object (or of the prefix) where objects are files, else `None`."""
        return None


def checked_name(name: str) -> str:
    """Returns the name of an object, refusing one that could leave its prefix or that a backend cannot hold."""
    segments = name.split("/")
    reason = ""
    if not name or name.startswith("/"):
        reason = "it must be a path below the prefix"
    elif any(segment in ("", ".", "..") for segment in segments):
        reason = "no part of it may be empty, '.' or '..'"
    elif any(segment.startswith(PARTIAL_PREFIX) for segment in segments):
        reason = f"parts that begin with {PARTIAL_PREFIX!r} are unfinished files"
    elif not name.isprintable() or "\\" in name:
        reason = "it must hold printable characters only, and no backslash"
    elif any(len(segment.encode()) > _MAX_SEGMENT_BYTES for segment in segments):
        reason = f"no part of it may be longer than {_MAX_SEGMENT_BYTES} bytes"
    if reason:
        raise StorageError(f"{name!r} cannot be the name of an object: {reason}")
    return name


def checked_prefix(prefix: str) -> str:
    """Returns the name of a folder of objects, with no slash at its end; empty means all there is."""
    return checked_name(prefix.rstrip("/")) if prefix else ""


def is_manifest(name: str) -> bool:
    """Tells whether an object is what makes a result complete."""
    return name.rpartition("/")[2] == MANIFEST_NAME


def in_parallel(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int = NUM_PARALLEL_OBJECTS
) -> list[_Result]:
    """Calls a function for each item in threads; the first failure (or Ctrl-C) drops what has not begun."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future in finished:
                    future.result()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def byte_counter(
    name: str, total_bytes: int, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows the progress of a transfer that is large enough to wait for; threads may share the counter.

    Args:
        name: What the progress is called.
        total_bytes: Size of the transfer.
        on_bytes: Counts instead, where someone else shows the progress already.
    """
    if on_bytes or total_bytes < _PROGRESS_FROM_BYTES:
        yield on_bytes or (lambda count: None)
        return
    lock = threading.Lock()
    with progress.task(name, total=total_bytes, unit="bytes") as bar:

        def count_bytes(count: int) -> None:
            with lock:
                bar.advance(count)

        yield count_bytes
