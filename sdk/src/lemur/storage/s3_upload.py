"""Upload in parallel parts: the file is read once, in order, and its digest is taken on the way."""

from __future__ import annotations

import functools
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from lemur.errors import StorageError
from lemur.storage.base import CHUNK_BYTES
from lemur.storage.s3_object import Part, S3Object

PART_BYTES = 8 * 1024 * 1024
"""Size of a part, and of the largest object that goes out in one request."""

NUM_PARALLEL_PARTS = 4
"""Parts of one object that are on the way at the same time."""

MAX_BUFFERED_BYTES = 160 * 1024 * 1024
"""Memory for parts that all uploads of a process share."""

_MAX_PARTS = 10_000
"""As many as S3 takes; larger objects have larger parts."""


class Source(Protocol):
    """What is uploaded: a file without a buffer of its own, or bytes in memory."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fills a buffer, or the beginning of it; 0 at the end."""


class Digest(Protocol):
    """What takes the digest of the bytes in their order."""

    def update(self, data: memoryview, /) -> None:
        """Takes the next bytes."""

    def hexdigest(self) -> str:
        """Returns the digest of all of them."""


def upload(
    target: S3Object,
    source: Source,
    size_bytes: int,
    on_bytes: Callable[[int], None],
    digest: Digest | None = None,
) -> str:
    """Stores an object and returns its SHA-256.

    Args:
        target: The object.
        source: Its bytes.
        size_bytes: How many there are.
        on_bytes: Called with the number of bytes that went out, from several threads.
        digest: Takes the digest, where it is to be another one.

    Raises:
        StorageError: There are fewer bytes than there should be.
    """
    digest = digest or hashlib.sha256()
    part_bytes = part_bytes_of(size_bytes)
    if size_bytes <= part_bytes:
        data = memoryview(bytearray(size_bytes))
        _fill(data, source, digest)
        target.put(data, digest.hexdigest())
        on_bytes(size_bytes)
    else:
        name = target.begin()
        try:
            target.finish(name, _send_parts(target, name, source, size_bytes, on_bytes, digest))
        except BaseException:
            target.abandon(name)
            raise
    return digest.hexdigest()


def part_bytes_of(size_bytes: int) -> int:
    """Returns the size of the parts of an object: whole mebibytes, more of them where there would be too many parts."""
    return max(PART_BYTES, -(-size_bytes // (_MAX_PARTS * CHUNK_BYTES)) * CHUNK_BYTES)


def _send_parts(
    target: S3Object, name: str, source: Source, size_bytes: int, on_bytes: Callable[[int], None], digest: Digest
) -> list[Part]:
    part_bytes = part_bytes_of(size_bytes)
    failed = threading.Event()

    def send(number: int, buffer: memoryview, length: int) -> Part:
        try:
            part = target.put_part(name, number, buffer[:length])
            on_bytes(length)
            return part
        except BaseException:
            failed.set()
            raise
        finally:
            buffers.put(buffer)

    with _part_buffers(part_bytes) as buffers, ThreadPoolExecutor(NUM_PARALLEL_PARTS) as pool:
        futures: list[Future[Part]] = []
        try:
            for start in range(0, size_bytes, part_bytes):
                buffer = buffers.get()
                if failed.is_set():
                    break
                length = min(part_bytes, size_bytes - start)
                _fill(buffer[:length], source, digest)
                futures.append(pool.submit(send, len(futures) + 1, buffer, length))
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fill(buffer: memoryview, source: Source, digest: Digest) -> None:
    """Reads in pieces that stay in the processor's cache for the digest."""
    start = 0
    while start < len(buffer):
        count = source.readinto(buffer[start : start + CHUNK_BYTES])
        if not count:
            raise StorageError("the file became shorter while it was uploaded, so nothing was stored; run again")
        digest.update(buffer[start : start + count])
        start += count


class _Buffers:
    """Buffers of one upload, made when they are needed, until it has enough or the process' share is used up."""

    def __init__(self, part_bytes: int, budget: _Budget) -> None:
        self._part_bytes, self._budget = part_bytes, budget
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._num_buffers = 0

    def get(self) -> memoryview:
        """Returns a buffer of a whole part; the first one, and later each that is put back, is waited for."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            # One more than are on the way, to be filled meanwhile.
            if self._num_buffers <= NUM_PARALLEL_PARTS and self._budget.take(
                self._part_bytes, wait=self._num_buffers == 0
            ):
                self._num_buffers += 1
                return memoryview(bytearray(self._part_bytes))
            return self._free.get()

    def put(self, buffer: memoryview) -> None:
        """Takes a buffer back."""
        self._free.put(buffer)

    def close(self) -> None:
        """Gives all that was taken back to the process' other uploads."""
        self._budget.give_back(self._num_buffers * self._part_bytes)


class _Budget:
    """Bytes that are left to all uploads of a process."""

    def __init__(self) -> None:
        self._used_bytes = 0
        self._changed = threading.Condition()

    def take(self, num_bytes: int, *, wait: bool) -> bool:
        """Takes bytes; one upload alone always gets its first buffer, however large it is."""
        with self._changed:
            while self._used_bytes and self._used_bytes + num_bytes > MAX_BUFFERED_BYTES:
                if not wait:
                    return False
                self._changed.wait()
            self._used_bytes += num_bytes
            return True

    def give_back(self, num_bytes: int) -> None:
        """Leaves bytes to others."""
        with self._changed:
            self._used_bytes -= num_bytes
            self._changed.notify_all()


@functools.cache
def _budget(process: int) -> _Budget:
    return _Budget()


@contextmanager
def _part_buffers(part_bytes: int) -> Iterator[_Buffers]:
    buffers = _Buffers(part_bytes, _budget(os.getpid()))
    try:
        yield buffers
    finally:
        buffers.close()
