"""What ended an attempt at a job, from what its processes left, and whether another attempt can help."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lemur.errors import (
    HungError,
    IntegrityError,
    LemurError,
    PreemptedError,
    StorageError,
    TrainingError,
    error_classes,
)
from lemur.training.attempt import Attempt
from lemur.training.backend import Job

ERROR_FILE = "error.json"
"""The first error of ours that ended a process; see `process.leave`."""
FAILURE_FILE = "failure.json"
"""Exit codes of the processes; see `elastic`."""
RANK_PREFIX = "[rank {rank}] "
"""What each line of a process's output begins with, where there are several."""

Again = Literal["no", "at once", "after a pause"]
"""Whether another attempt can help."""

_NUM_LAST_LINES = 20
_RUN_AGAIN = "Run the same command again: it goes on from the last checkpoint."


class Failure(NamedTuple):
    """Why an attempt failed."""

    cause: str
    """In half a sentence, with the rank."""
    error: LemurError
    """What is raised where nobody tries again."""
    again: Again
    """Whether to try again."""


def find_failure(job: Job, folder: Path, attempt: Attempt) -> Failure:
    """Says why an attempt failed.

    The processes' own words come first, except that a process which only was asked to end, because another one had
    failed, says nothing of why. Then come deaths by a signal: the errors of other processes follow from those.

    Args:
        job: The job.
        folder: Its local folder.
        attempt: The attempt.
    """
    said = _said(folder, attempt)
    if said and not isinstance(said, PreemptedError):
        return Failure(_first_line(said), said, _helps_against(said))
    ends = _ends(job, folder, attempt)
    by_signal = [(rank, code) for rank, code in ends if code < 0 and code != -signal.SIGTERM]
    if not by_signal and said:
        return Failure(_first_line(said), said, "at once")
    hung = _hung(folder)
    if hung:
        return Failure(_first_line(hung), hung, "at once")
    rank, exit_code = (by_signal or ends)[0]
    cause = f"rank {rank} of {job.processes_per_node} {_ending(exit_code)}"
    return Failure(cause, _unsaid(job, rank, cause, attempt), "at once" if _is_from_outside(exit_code) else "no")


def forget(folder: Path) -> None:
    """Deletes what an earlier attempt left."""
    for pattern in (ERROR_FILE, FAILURE_FILE, "hung-rank-*.json", "stacks-rank-*.txt"):
        for path in folder.glob(pattern):
            path.unlink()


def _said(folder: Path, attempt: Attempt) -> LemurError | None:
    path = folder / ERROR_FILE
    if not path.is_file():
        return None
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return error_classes()[said["type"]](f"{said['message']} (log: {attempt.log})")


def _helps_against(error: LemurError) -> Again:
    if isinstance(error, HungError):
        return "at once"
    # An object that is damaged is so the next time too; a storage that is away may be back.
    return "after a pause" if isinstance(error, StorageError) and not isinstance(error, IntegrityError) else "no"


def _ends(job: Job, folder: Path, attempt: Attempt) -> list[tuple[int, int]]:
    """Returns rank and exit code of the processes that failed, in the order in which that was seen."""
    path = folder / FAILURE_FILE
    if job.processes_per_node == 1 or not path.is_file():
        return [(0, attempt.exit_code)]
    return [(failure["rank"], failure["exit_code"]) for failure in json.loads(path.read_text(encoding="utf-8"))]


def _hung(folder: Path) -> HungError | None:
    """Returns the error of a process that could write its stacks only, because a library held the interpreter."""
    paths = [path for path in sorted(folder.glob("stacks-rank-*.txt")) if path.stat().st_size]
    if not paths:
        return None
    return HungError(
        f"training hung in a library that holds the Python interpreter; the stacks: {', '.join(map(str, paths))}. "
        + _RUN_AGAIN
    )


def _is_from_outside(exit_code: int) -> bool:
    """Returns whether an exit code stands for a signal: of the kernel, a person, or a library that gave up."""
    return exit_code < 0 or exit_code >= 128


def _unsaid(job: Job, rank: int, cause: str, attempt: Attempt) -> TrainingError:
    prefix = RANK_PREFIX.format(rank=rank)
    own = [line for line in attempt.last_lines if line.startswith(prefix)] or attempt.last_lines
    return TrainingError(
        f"training job {job.name} failed: {cause}.\nIts last lines:\n"
        + "\n".join(f"  {line}" for line in own[-_NUM_LAST_LINES:])
        + f"\nThe whole log: {attempt.log}\n{_RUN_AGAIN}"
    )


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _first_line(error: LemurError) -> str:
    return str(error).partition("\n")[0].rstrip(".:")
