"""Download in parallel ranges, each written to its place in the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TypeVar

import urllib3

from lemur.storage.base import CHUNK_BYTES, in_parallel
from lemur.storage.growing import GrowingFile

RANGE_BYTES = 32 * 1024 * 1024
"""Bytes that are asked for in one request."""

NUM_PARALLEL_RANGES = 4
"""Ranges of one object that are on the way at the same time."""

_NUM_ATTEMPTS = 3

_Result = TypeVar("_Result")


def download(
    get: Callable[[int, int], urllib3.BaseHTTPResponse],
    descriptor: int,
    size_bytes: int,
    on_bytes: Callable[[int], None],
    *,
    digest: bool,
) -> str:
    """Fills a file with an object and returns its SHA-256, or nothing where that is not asked for.

    Args:
        get: Asks for a range, by its first byte and its length.
        descriptor: The file, open for reading and writing.
        size_bytes: Size of the object.
        on_bytes: Called with the size of each piece that came, from several threads.
        digest: Whether the digest is taken.
    """
    os.truncate(descriptor, size_bytes)
    growing = GrowingFile(descriptor, size_bytes)

    def fetch(start: int) -> None:
        end = min(start + RANGE_BYTES, size_bytes)

        def go_on() -> None:
            nonlocal start
            with get(start, end - start) as answer:
                # Not decoded, which would copy each piece once more.
                while piece := answer.read(min(CHUNK_BYTES, end - start), decode_content=False):
                    _write_at(descriptor, piece, start)
                    growing.wrote(start, len(piece))
                    on_bytes(len(piece))
                    start += len(piece)
            if start < end:
                raise urllib3.exceptions.IncompleteRead(end - start, end)

        until_whole(go_on)

    with ExitStack() as stack:
        if digest:
            stack.enter_context(growing.following())
        in_parallel(fetch, range(0, size_bytes, RANGE_BYTES), NUM_PARALLEL_RANGES)
    return growing.sha256 if digest else ""


def until_whole(transfer: Callable[[], _Result]) -> _Result:
    """Calls again where the connection breaks during the answer, which the client itself does not retry."""
    for _ in range(_NUM_ATTEMPTS - 1):
        with suppress(urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
            return transfer()
    return transfer()


def _write_at(descriptor: int, piece: bytes, start: int) -> None:
    written = 0
    while written < len(piece):
        written += os.pwrite(descriptor, memoryview(piece)[written:], start + written)
