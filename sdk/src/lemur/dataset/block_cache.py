"""A bounded cache of blocks on the local disk, which any number of processes may share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lemur.storage.base import PARTIAL_PREFIX
from lemur.storage.file import new_file

_SIZE_NAME = "size"
_KEPT_SHARE = 0.9
"""Part of the cache that stays when it is full; looking for the oldest blocks is worth it for many at once only."""
_RECENT_SECONDS = 10.0
"""How exactly the last use of a block is known: noting each one would write to the disk all the time."""
_UNFINISHED_SECONDS = 60.0
"""Age from which a file that is still being written was left by a killed process."""


class Block(NamedTuple):
    """One block of an object."""

    digest: str
    """Digest of the result that the object belongs to, so that what is made anew is another block."""
    number: int
    """Its number in the object."""


class BlockCache:
    """Blocks as files; those that have not been used for longest go when there are too many.

    A block appears whole or not at all, and never changes. How many bytes there are is counted in one file, under a
    lock, so that the bound holds however many processes write; what a killed one counted and did not write is put
    right when blocks are next deleted.

    Args:
        folder: Folder of the cache; made when the first block is written.
        max_bytes: What its blocks may take together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._root = str(folder)

    def read(self, block: Block, start: int, length: int) -> bytes | None:
        """Returns a part of a block, or `None` where that is not here (any more)."""
        try:
            descriptor = os.open(self._path(block), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            data = os.pread(descriptor, length, start)
            if time.time() - os.fstat(descriptor).st_mtime > _RECENT_SECONDS:
                os.utime(descriptor)
        finally:
            os.close(descriptor)
        return data if len(data) == length else None

    def write(self, block: Block, data: bytes) -> None:
        """Keeps a block, and deletes old ones where it would be too many bytes.

        Raises:
            StorageError: The disk is full or refuses.
        """
        with self._counter() as counter:
            total = int.from_bytes(os.pread(counter, 8, 0), "little") + len(data)
            if total > self.max_bytes:
                total = self._shrink(int(self.max_bytes * _KEPT_SHARE) - len(data)) + len(data)
            os.pwrite(counter, total.to_bytes(8, "little"), 0)
            with new_file(Path(self._path(block)), len(data), durable=False) as file:
                file.write(data)

    def _path(self, block: Block) -> str:
        return f"{self._root}/{block.digest[:2]}/{block.digest[2:32]}-{block.number}"

    @contextlib.contextmanager
    def _counter(self) -> Iterator[int]:
        """Opens the file that counts the bytes, and keeps every other process and thread out of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _SIZE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            # Closing alone would not give the lock back where the process was forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _shrink(self, wanted_bytes: int) -> int:
        """Deletes the blocks that were used longest ago until so many bytes are left, and returns how many are."""
        found = sorted(self._files())
        total = sum(size_bytes for _, size_bytes, _ in found)
        for _, size_bytes, path in found:
            if total <= wanted_bytes:
                break
            # Another process may be clearing the whole folder away.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size_bytes
        return total

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yields last use, size and path of each block, and of what killed writers left."""
        now = time.time()
        for folder in os.scandir(self.folder):
            if folder.is_dir():
                for file in os.scandir(folder):
                    with contextlib.suppress(FileNotFoundError):
                        status = file.stat()
                        unfinished = file.name.startswith(PARTIAL_PREFIX)
                        if not unfinished or now - status.st_mtime > _UNFINISHED_SECONDS:
                            yield status.st_mtime, status.st_size, file.path
