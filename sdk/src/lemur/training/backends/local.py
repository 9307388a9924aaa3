"""Training on this machine: processes below the one that asked for them."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat

from lemur.errors import RecipeError
from lemur.progress import emit
from lemur.training.attempt import run_attempt
from lemur.training.backend import Backend, Job
from lemur.training.failure import ERROR_FILE, FAILURE_FILE, RANK_PREFIX, Failure, find_failure, forget
from lemur.training.workplace import FOLDER_VARIABLE, job_folder, marked

_AGENT_SECONDS = 5.0
"""Time for the agent, after that of its processes, to end them itself."""
_LONGEST_PAUSE_SECONDS = 60.0
_KEPT_SUFFIXES = {".log", ".txt"}
"""Of what outlives a job: logs, and stacks of processes that hung."""


class LocalBackend(Backend):
    """Runs a job's processes on this machine: one directly, several under torchrun's agent.

    All output goes to a log file for each attempt, below the folder that `LEMUR_WORK` names. A second run of a
    job that is still running waits for it. None of the processes outlives the caller, however it ends.
    """

    kind: Literal["local"]
    max_restarts: NonNegativeInt = 3
    """How often a job whose processes were killed, hung or lost the storage is started again without a checkpoint
    newer than before; each new checkpoint allows as many again. Errors in the recipe or the data are not retried."""
    grace_seconds: PositiveFloat = 60.0
    """Time that processes have, once asked to stop (SIGTERM, Ctrl-C), to finish a step and store a checkpoint."""
    storage_pause_seconds: PositiveFloat = 10.0
    """Pause before a job is started again that lost the storage; twice as long each time, and at most a minute."""

    def run(self, job: Job) -> None:
        """Runs the job to its end; see `Backend.run`."""
        if job.num_nodes != 1:
            raise RecipeError(
                f"hardware.num_nodes is {job.num_nodes}, and backend 'local' has one machine; set num_nodes to 1, or "
                "choose a backend of a cluster"
            )
        folder = job_folder(job.name)
        with _alone_in(folder, job.name):
            num_restarts, checkpoint = 0, marked(folder, "checkpoint")
            while failure := self._attempt(job, folder):
                if marked(folder, "checkpoint") != checkpoint:
                    num_restarts, checkpoint = 0, marked(folder, "checkpoint")
                if failure.again == "no" or num_restarts == self.max_restarts:
                    raise failure.error
                self._announce(job, folder, failure, num_restarts)
                if failure.again == "after a pause":
                    time.sleep(self._pause_seconds(num_restarts))
                num_restarts += 1
            _keep_logs_only(folder)

    def _attempt(self, job: Job, folder: Path) -> Failure | None:
        """Runs the job once; returns why it failed, or `None` where it did not."""
        forget(folder)
        log = folder / f"attempt-{len(list(folder.glob('attempt-*.log'))) + 1}.log"
        attempt = run_attempt(
            self._command(job), _environment(job, folder), log, grace_seconds=self.grace_seconds + _AGENT_SECONDS
        )
        return find_failure(job, folder, attempt) if attempt.exit_code else None

    def _command(self, job: Job) -> list[str]:
        attached = [sys.executable, "-m", "lemur.training.attached"]
        if job.processes_per_node == 1:
            return [*attached, job.module, *job.arguments]
        # What torchrun's --standalone stands for; the address is given, because a machine's own name need not resolve.
        meeting = [
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0",
            f"--rdzv-id={job.name}",
            "--local-addr=127.0.0.1",
        ]
        ending = [f"--shutdown-timeout={math.ceil(self.grace_seconds)}"]
        agent = ["lemur.training.elastic", *meeting, *ending, "--tee=3"]
        processes = [f"--nproc-per-node={job.processes_per_node}", "--module", "lemur.training.attached"]
        return [*attached, *agent, *processes, job.module, *job.arguments]

    def _announce(self, job: Job, folder: Path, failure: Failure, num_restarts: int) -> None:
        step, checkpoint = marked(folder, "step"), marked(folder, "checkpoint")
        when = "before its first step" if step is None else f"after step {step:,}"
        where = "from the beginning" if checkpoint is None else f"from the checkpoint of step {checkpoint:,}"
        pause = self._pause_seconds(num_restarts) if failure.again == "after a pause" else 0
        emit(
            "note",
            text=f"training job {job.name} ended {when}: {failure.cause}; starting it again {where}"
            + (f" in {pause:g} s" if pause else "")
            + f" (restart {num_restarts + 1} of {self.max_restarts})",
        )

    def _pause_seconds(self, num_restarts: int) -> float:
        return min(_LONGEST_PAUSE_SECONDS, self.storage_pause_seconds * 2.0**num_restarts)


def _environment(job: Job, folder: Path) -> dict[str, str]:
    num_threads = max(1, len(os.sched_getaffinity(0)) // job.processes_per_node)
    settings = {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(num_threads),
        # Threads that spin while they wait starve the one they wait for as soon as a machine is busy.
        "OMP_WAIT_POLICY": "PASSIVE",
        "LEMUR_JOB_ERROR": str(folder / ERROR_FILE),
        "LEMUR_JOB_FAILURE": str(folder / FAILURE_FILE),
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": RANK_PREFIX.format(rank="${rank}"),
        FOLDER_VARIABLE: str(folder),
    }
    if job.processes_per_node > 1:
        settings["GLOO_SOCKET_IFNAME"] = "lo"
    return {**os.environ, **settings, **job.environment}


@contextmanager
def _alone_in(folder: Path, name: str) -> Iterator[None]:
    """Lets one launcher work in a job's folder; the kernel drops the lock however the holder ends."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            emit("note", text=f"training job {name} is running already; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _keep_logs_only(folder: Path) -> None:
    """Deletes what a finished job leaves: copies of data and checkpoints that storage holds."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix not in _KEPT_SUFFIXES and path.name != "lock":
            path.unlink()
