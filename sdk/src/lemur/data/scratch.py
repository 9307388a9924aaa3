"""Room for files that are needed only meanwhile."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemur.errors import StorageError


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Lends a folder that is gone afterwards.

    Raises:
        StorageError: The disk it is on is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="lemur-mix-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"no space left in {tempfile.gettempdir()} for files needed while mixing: make room there, or name a "
            "folder with more room in TMPDIR"
        ) from error
