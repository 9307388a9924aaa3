"""Files of a source brought to this machine, one after another, for as long as each is read."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from lemur.data.reading.source_files import is_object
from lemur.data.source import SourceFile
from lemur.errors import RecipeError
from lemur.storage import open_storage

_NUM_AHEAD = 8
_BYTES_AHEAD = 64 * 2**20
"""Small objects are fetched several at a time, since each is a wait; large ones one ahead, for they fill the disk."""


def at_hand(files: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """Yields each file with a path on this machine as its location.

    An object is copied into the temporary folder (`TMPDIR`) while the one before it is read, and deleted when the next
    one is asked for.

    Args:
        files: What to read, in this order.

    Raises:
        RecipeError: A file has another size than when the source was listed.
        StorageError: Object storage cannot be reached or refuses, or the disk is full.
    """
    listed = deque(files)
    if not any(map(is_object, listed)):
        yield from map(_checked, listed)
        return
    with tempfile.TemporaryDirectory(prefix="lemur-read-") as folder, ThreadPoolExecutor(_NUM_AHEAD) as pool:
        ahead: deque[tuple[SourceFile, Future[SourceFile]]] = deque()
        number = 0
        try:
            while listed or ahead:
                while listed and _has_room([file for file, _ in ahead], listed[0]):
                    file = listed.popleft()
                    target = Path(folder, f"{number}{PurePosixPath(file.name).suffix}")
                    ahead.append((file, pool.submit(_fetched, file, target)))
                    number += 1
                file, coming = ahead.popleft()
                here = coming.result()
                yield here
                if is_object(file):
                    Path(here.location).unlink()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _has_room(ahead: list[SourceFile], following: SourceFile) -> bool:
    """Tells whether one more file may be fetched while others are read."""
    bytes_ahead = sum(file.size_bytes for file in ahead) + following.size_bytes
    return len(ahead) < 2 or (len(ahead) < _NUM_AHEAD and bytes_ahead <= _BYTES_AHEAD)


def _fetched(file: SourceFile, target: Path) -> SourceFile:
    if not is_object(file):
        return _checked(file)
    folder, _, name = file.location.rpartition("/")
    open_storage(folder).download(name, target)
    return _checked(file._replace(location=str(target)), file.location)


def _checked(file: SourceFile, shown: str = "") -> SourceFile:
    """Refuses a file that has changed: what is made of it would be kept under the fingerprint of what it was."""
    try:
        size_bytes = os.stat(file.location).st_size
    except OSError:
        return file  # Not there or not to be read; whoever opens it says so.
    if size_bytes != file.size_bytes:
        raise RecipeError(
            f"{shown or file.location} has changed since its source was listed: it had {file.size_bytes:,} bytes then "
            f"and has {size_bytes:,} now; run again when nothing writes to it"
        )
    return file
