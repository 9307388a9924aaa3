"""The digest of a file that grows at several places at once, taken while it grows."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lemur.storage.base import CHUNK_BYTES


class GrowingFile:
    """A file whose ranges become whole in any order, and its SHA-256, which follows behind them in theirs.

    What was just written is still in memory, so reading it again costs a copy and no disk.

    Args:
        descriptor: The file, open for reading.
        size_bytes: Its size in the end.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self._descriptor, self._size_bytes = descriptor, size_bytes
        self._ends: dict[int, int] = {}
        self._changed = threading.Condition()
        self._given_up = False
        self._hash = hashlib.sha256()

    def wrote(self, start: int, length: int) -> None:
        """Says that a range is in the file; ranges meet and do not overlap."""
        if length:
            with self._changed:
                self._ends[start] = start + length
                self._changed.notify()

    @property
    def sha256(self) -> str:
        """Digest of the whole file, after `following`."""
        return self._hash.hexdigest()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Takes the digest in a thread meanwhile, and waits for it in the end."""
        follower = threading.Thread(target=self._follow)
        follower.start()
        try:
            yield
        except BaseException:
            with self._changed:
                self._given_up = True
                self._changed.notify()
            raise
        finally:
            follower.join()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        start = 0
        while start < self._size_bytes:
            with self._changed:
                self._changed.wait_for(lambda start=start: self._given_up or start in self._ends)  # type: ignore[misc]
                if self._given_up:
                    return
                end = self._ends.pop(start)
            while start < end:
                count = os.preadv(self._descriptor, [buffer[: end - start]], start)
                self._hash.update(buffer[:count])
                start += count
