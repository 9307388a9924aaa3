"""What every training process does around its work: its errors reach the launcher as data."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lemur.errors import LemurError, PreemptedError, StorageError
from lemur.training.workplace import FOLDER_VARIABLE, job_folder

ERROR_VARIABLE = "LEMUR_JOB_ERROR"
"""File for the error that ended a process, for the launcher to raise again: `{"type", "message"}`."""


def run_process(work: Callable[[str, Path], None], arguments: list[str] | None = None) -> None:
    """Runs a training module's work.

    Args:
        work: Called with the URI of the job's description and the job's local folder.
        arguments: Command-line arguments; by default the process's own.
    """
    leave_on_sigterm()
    parser = argparse.ArgumentParser(description="One process of a training job; a backend starts it.")
    parser.add_argument("--job", required=True, help="URI of the job's description")
    uri = parser.parse_args(arguments).job
    # What has been imported stays; going through it at every collection takes half a second each time.
    gc.freeze()
    folder = os.environ.get(FOLDER_VARIABLE)
    try:
        work(uri, Path(folder) if folder else job_folder(uri.rpartition("/")[2]))
    except LemurError as error:
        leave(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        leave(StorageError(f"no space left on the disk of {error.filename or folder}; make room and run again"))


def leave_on_sigterm() -> None:
    """Has SIGTERM end this process at once, as one that is to be started again; until training takes it over.

    Processes that it forks, such as readers of data, take no notice: they go on until they are not needed.
    """
    process_id = os.getpid()

    def take(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process_id:
            leave(PreemptedError("training was asked to stop before its first step; run the same command again"))

    signal.signal(signal.SIGTERM, take)


def leave(error: LemurError) -> NoReturn:
    """Ends the process with the error's own exit code, after writing the error where the launcher looks.

    The first error stands: the ones that other processes end with may only follow from it.
    """
    path = os.environ.get(ERROR_VARIABLE)
    if path:
        partial = Path(f"{path}.{os.getpid()}")
        partial.write_text(json.dumps({"type": type(error).__name__, "message": str(error)}), encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
        partial.unlink()
    # Past the buffers of the interpreter, which may be in the middle of a line when a signal leads here.
    os.write(2, f"{type(error).__name__}: {error}\n".encode())
    # Without the interpreter's own ending, which could wait for a process group that other ranks have left.
    os._exit(error.exit_code)
