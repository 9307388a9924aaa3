"""Where a training job keeps local files: logs of its attempts, and checkpoints on their way to storage."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from lemur.errors import StorageError, TrainingError

WORK_VARIABLE = "LEMUR_WORK"
"""Folder for local files of jobs; by default one below the system's folder for temporary files."""

FOLDER_VARIABLE = "LEMUR_JOB_FOLDER"
"""The folder of the job that a process belongs to; set by the backend, the same for all processes of a machine."""


def job_folder(job_name: str) -> Path:
    """Returns the local folder of a job, made where it is missing.

    Raises:
        TrainingError: The folder belongs to someone else, who could then read and change what is in it.
    """
    named = os.environ.get(WORK_VARIABLE)
    root = Path(named) if named else Path(tempfile.gettempdir()) / f"lemur-{os.getuid()}"
    folder = root.resolve() / job_name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise TrainingError(f"{folder} belongs to another user; name a folder of your own in {WORK_VARIABLE}")
    return folder


def mark(folder: Path, what: Literal["step", "checkpoint"], step: int) -> None:
    """Writes down, for the launcher, how far a job has come.

    Args:
        folder: Local folder of the job.
        what: The last step that was made, or the last one with a whole checkpoint in storage.
        step: Number of the step.
    """
    # Of this process alone: another one that writes down the same must not take it away.
    partial = folder / f"{what}.mark.{os.getpid()}"
    partial.write_text(str(step), encoding="utf-8")
    partial.replace(folder / f"{what}.mark")


def marked(folder: Path, what: Literal["step", "checkpoint"]) -> int | None:
    """Returns what `mark` wrote; `None` before there is anything."""
    path = folder / f"{what}.mark"
    return int(path.read_text(encoding="utf-8")) if path.exists() else None


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Makes one error of whatever a library raises when it cannot write to the local disk.

    Args:
        what: What is written, as the message names it.
        folder: Where.

    Raises:
        StorageError: It could not be written, most often because the disk is full.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StorageError(
            f"{what} could not be written below {folder}: {error}. Make room there, or name another folder in "
            f"{WORK_VARIABLE}, and run again: it goes on from the last checkpoint in storage"
        ) from error
