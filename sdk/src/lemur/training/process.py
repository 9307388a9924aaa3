"""What every training process does around its work: its errors reach the launcher as data."""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lemur.errors import LemurError, StorageError
from lemur.training.workplace import FOLDER_VARIABLE, job_folder

ERROR_VARIABLE = "LEMUR_JOB_ERROR"
"""File for the error that ended a process, for the launcher to raise again: `{"type", "message"}`."""


def run_process(work: Callable[[str, Path], None], arguments: list[str] | None = None) -> None:
    """Runs a training module's work.

    Args:
        work: Called with the URI of the job's description and the job's local folder.
        arguments: Command-line arguments; by default the process's own.
    """
    parser = argparse.ArgumentParser(description="One process of a training job; a backend starts it.")
    parser.add_argument("--job", required=True, help="URI of the job's description")
    uri = parser.parse_args(arguments).job
    # What has been imported stays; going through it at every collection takes half a second each time.
    gc.freeze()
    folder = os.environ.get(FOLDER_VARIABLE)
    try:
        work(uri, Path(folder) if folder else job_folder(uri.rpartition("/")[2]))
    except LemurError as error:
        _leave(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _leave(StorageError(f"no space left on the disk of {error.filename or folder}; make room and run again"))


def _leave(error: LemurError) -> None:
    """Ends the process with the error's own exit code, after writing the error where the launcher looks."""
    path = os.environ.get(ERROR_VARIABLE)
    if path:
        # Several ranks may fail alike; each replaces the file whole.
        partial = Path(f"{path}.{os.getpid()}")
        partial.write_text(json.dumps({"type": type(error).__name__, "message": str(error)}), encoding="utf-8")
        partial.replace(path)
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    # Without the interpreter's own ending, which could wait for a process group that other ranks have left.
    os._exit(error.exit_code)
