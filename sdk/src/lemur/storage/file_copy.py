"""Copies of files that the kernel makes, with the digest of what was copied."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import BinaryIO

from lemur.errors import StorageError
from lemur.receipt import StoredObject
from lemur.storage.base import CHUNK_BYTES
from lemur.storage.growing import GrowingFile

# Some file systems, and some pairs of them, cannot copy by themselves.
_NOT_BETWEEN_THESE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def copy_file(
    source: BinaryIO,
    target: io.FileIO,
    name: str,
    size_bytes: int,
    on_bytes: Callable[[int], None],
    *,
    durable: bool,
) -> StoredObject:
    """Copies a file, and takes the digest of the copy meanwhile.

    Args:
        source: File to copy.
        target: File to fill, open for reading and writing.
        name: What the copy is called as an object.
        size_bytes: Bytes to copy.
        on_bytes: Called with the size of each piece.
        durable: Whether the copy is flushed to the disk, also while the digest is taken.

    Raises:
        StorageError: The source has fewer bytes.
    """
    growing = GrowingFile(target.fileno(), size_bytes)
    with growing.following():
        start = 0
        while start < size_bytes:
            count = _copy_piece(source.fileno(), target.fileno(), start, min(CHUNK_BYTES, size_bytes - start))
            if not count:
                raise StorageError(
                    f"{source.name} became shorter while it was copied, so nothing was stored; run again"
                )
            growing.wrote(start, count)
            on_bytes(count)
            start += count
        if durable:
            os.fsync(target.fileno())
    return StoredObject(name=name, size_bytes=size_bytes, sha256=growing.sha256)


def _copy_piece(source: int, target: int, start: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, length, start, start)
    except OSError as error:
        if error.errno not in _NOT_BETWEEN_THESE:
            raise
    os.lseek(target, start, os.SEEK_SET)
    return os.sendfile(target, source, start, length)
