"""Files that are mapped into memory, as many at a time as a process may have open."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path

from lemur.errors import IntegrityError

_MAX_MAPS = 4096


def max_maps() -> int:
    """Returns how many maps a reader may hold: each keeps a file open, and others need files too."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_MAPS if limit == resource.RLIM_INFINITY else min(_MAX_MAPS, limit // 4)


def map_file(path: Path | str, size_bytes: int) -> mmap.mmap:
    """Maps a file for reading.

    Raises:
        IntegrityError: It is missing or of another size.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing; run again to make the dataset anew") from error
    try:
        found_bytes = os.fstat(descriptor).st_size
        if found_bytes != size_bytes:
            raise IntegrityError(
                f"{path} has {found_bytes:,} bytes instead of {size_bytes:,}; run again to make the dataset anew"
            )
        return mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
