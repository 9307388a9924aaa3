"""What can go wrong, as the user sees it.

Every error a user can cause or mend is a `LemurError`: its message names the bad value, the place, the
valid choices and what to do. The command line prints that message alone and leaves with the class's
`exit_code`; anything else that escapes is a fault of this project and keeps its traceback.
"""

from __future__ import annotations


class LemurError(Exception):
    """A failure that the user can understand and mend; the message says how."""

    exit_code = 1


class RecipeError(LemurError):
    """A recipe that cannot be run as written; raised before any work starts."""

    exit_code = 2


class PlanError(RecipeError):
    """A recipe whose run cannot fit: too little data, too little memory, or sizes that do not divide."""


class GateError(LemurError):
    """The gate refused the candidate, or could not tell; nothing was published."""

    exit_code = 3


class StorageError(LemurError):
    """Object storage that cannot be reached, is full, or refuses the credentials."""

    exit_code = 4


class IntegrityError(StorageError):
    """An object that is missing, truncated or altered, named by its URI."""

    exit_code = 5


class TrainingError(LemurError):
    """A training job that ended in failure; the message carries the failed rank's last lines."""

    exit_code = 6


class HungError(TrainingError):
    """Training processes that stood still; the message names each and the line it stood at.

    Exit codes from 128 on mean "start it again" to those who start training jobs: a `PyTorchJob` with
    `restartPolicy: ExitCode` retries just those, and a failure policy of a `TrainJob` names them. So this is 128
    and the number of SIGALRM, the signal of a clock that ran out.
    """

    exit_code = 142


class PreemptedError(LemurError):
    """Training that was asked to make room, and stopped after a checkpoint; started again, it goes on from there.

    Its exit code is 128 and the number of SIGTERM: what a shell reports of a program that SIGTERM ended, and one of
    those that mean "start it again" (see `HungError`).
    """

    exit_code = 143


class SandboxError(LemurError):
    """Model-written code was to be run and no sandbox is installed."""

    exit_code = 7


class ServingError(LemurError):
    """A model server that did not start, or an answer that is not one."""

    exit_code = 8


def error_classes() -> dict[str, type[LemurError]]:
    """Returns every error class by name, so that an error can cross a process boundary as data."""
    found: dict[str, type[LemurError]] = {}
    pending: list[type[LemurError]] = [LemurError]
    while pending:
        error_class = pending.pop()
        found[error_class.__name__] = error_class
        pending.extend(error_class.__subclasses__())
    return found
