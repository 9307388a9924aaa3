"""What an object's bytes are, by size and SHA-256, and whether they are what they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lemur.errors import IntegrityError
from lemur.receipt import StoredObject


class HashingReader:
    """A stream that takes the digest and the count of what is read from it.

    Args:
        stream: Where the bytes come from.
        on_bytes: Called with the size of each piece.
    """

    def __init__(self, stream: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self.size_bytes = 0
        self._stream, self._on_bytes, self._hash = stream, on_bytes, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes, at most `size` of them."""
        piece = self._stream.read(size)
        self._hash.update(piece)
        self.size_bytes += len(piece)
        self._on_bytes(len(piece))
        return piece

    def stored_object(self, name: str) -> StoredObject:
        """Returns what has been read, as an object of that name."""
        return StoredObject(name=name, size_bytes=self.size_bytes, sha256=self._hash.hexdigest())


def describe(name: str, content: Path | bytes) -> StoredObject:
    """Returns a file, or bytes, as the object of that name that it would make."""
    if isinstance(content, bytes):
        return StoredObject(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return StoredObject(name=name, size_bytes=file.tell(), sha256=digest)


def check_content(uri: str, found: StoredObject, expected: StoredObject) -> None:
    """Refuses an object whose size or digest is not what it should be.

    Raises:
        IntegrityError: Names the object's URI, and what was expected and found.
    """
    if found.size_bytes != expected.size_bytes:
        raise wrong_size(uri, found.size_bytes, expected.size_bytes)
    if found.sha256 != expected.sha256:
        raise IntegrityError(
            f"{uri} was altered: it should have SHA-256 {expected.sha256} and has {found.sha256} "
            f"({found.size_bytes:,} bytes, as expected)"
        )


def wrong_size(uri: str, found_bytes: int, expected_bytes: int) -> IntegrityError:
    """Returns the error for an object that is too short or too long."""
    state = "was truncated" if found_bytes < expected_bytes else "is too long"
    return IntegrityError(f"{uri} {state}: it should have {expected_bytes:,} bytes and has {found_bytes:,}")


def cut_short(uri: str, start: int, length: int, found_bytes: int) -> IntegrityError:
    """Returns the error for a part of an object that is not there in full."""
    return IntegrityError(
        f"{uri} was truncated: bytes {start:,} to {start + length:,} were asked for, and {found_bytes:,} of them came"
    )


def missing(uri: str) -> IntegrityError:
    """Returns the error for an object that is not there."""
    return IntegrityError(f"{uri} is missing")


def check_file(uri: str, path: Path, expected: StoredObject) -> None:
    """Refuses a stored file that is missing, truncated or altered; reads it only where its size is right.

    Raises:
        IntegrityError: As for `check_content`.
    """
    if not path.is_file():
        raise missing(uri)
    size_bytes = path.stat().st_size
    if size_bytes != expected.size_bytes:
        raise wrong_size(uri, size_bytes, expected.size_bytes)
    check_content(uri, describe(expected.name, path), expected)
