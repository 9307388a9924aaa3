"""Training on this machine: processes below the one that asked for them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

from lemur.errors import RecipeError, TrainingError, error_classes
from lemur.progress import EVENTS_VARIABLE, emit
from lemur.training.backend import Backend, Job
from lemur.training.workplace import FOLDER_VARIABLE, job_folder

_ERROR_FILE = "error.json"
_FAILURE_FILE = "failure.json"
_GRACE_SECONDS = 10.0
_NUM_LAST_LINES = 20
_RANK_PREFIX = "[rank {rank}] "


class LocalBackend(Backend):
    """Runs a job's processes on this machine: one directly, several under torchrun's agent.

    All output goes to a log file for each attempt, below the folder that `LEMUR_WORK` names. A second run of a
    job that is still running waits for it. None of the processes outlives the caller, however it ends.
    """

    kind: Literal["local"]

    def run(self, job: Job) -> None:
        """Runs the job to its end; see `Backend.run`."""
        if job.num_nodes != 1:
            raise RecipeError(
                f"hardware.num_nodes is {job.num_nodes}, and backend 'local' has one machine; set num_nodes to 1, or "
                "choose a backend of a cluster"
            )
        folder = job_folder(job.name)
        with _alone_in(folder, job.name):
            for name in (_ERROR_FILE, _FAILURE_FILE):
                (folder / name).unlink(missing_ok=True)
            log = folder / f"attempt-{len(list(folder.glob('attempt-*.log'))) + 1}.log"
            last_lines: deque[str] = deque(maxlen=2000)
            exit_code = _run_attached(_command(job), _environment(job, folder), log, last_lines)
            if exit_code:
                raise _error(job, exit_code, log, list(last_lines))
            _keep_logs_only(folder)


def _command(job: Job) -> list[str]:
    attached = [sys.executable, "-m", "lemur.training.attached"]
    if job.processes_per_node == 1:
        return [*attached, job.module, *job.arguments]
    # What torchrun's --standalone stands for; the address is given, because a machine's own name need not resolve.
    meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={job.name}", "--local-addr=127.0.0.1"]
    agent = ["lemur.training.elastic", *meeting, "--tee=3"]
    processes = [f"--nproc-per-node={job.processes_per_node}", "--module", "lemur.training.attached"]
    return [*attached, *agent, *processes, job.module, *job.arguments]


def _environment(job: Job, folder: Path) -> dict[str, str]:
    num_threads = max(1, len(os.sched_getaffinity(0)) // job.processes_per_node)
    settings = {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(num_threads),
        # Threads that spin while they wait starve the one they wait for as soon as a machine is busy.
        "OMP_WAIT_POLICY": "PASSIVE",
        "LEMUR_JOB_ERROR": str(folder / _ERROR_FILE),
        "LEMUR_JOB_FAILURE": str(folder / _FAILURE_FILE),
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": _RANK_PREFIX.format(rank="${rank}"),
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


def _run_attached(command: list[str], environment: dict[str, str], log: Path, last_lines: deque[str]) -> int:
    """Runs a command in a group of its own, keeps its output, and returns its exit code."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with log.open("w", encoding="utf-8") as file, _end_on_sigterm():
        try:
            assert process.stdout is not None
            _keep_output(process.stdout, file, last_lines)
            return process.wait()
        finally:
            _end_group(process)


def _keep_output(output: IO[str], file: IO[str], last_lines: deque[str]) -> None:
    # With an events file, progress reaches the user through it; otherwise the processes' lines are all there is.
    shown = not os.environ.get(EVENTS_VARIABLE)
    for line in output:
        file.write(line)
        file.flush()
        last_lines.append(line.rstrip("\n"))
        if shown:
            sys.stderr.write(line)


@contextmanager
def _end_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an orderly exit, where this is the thread that signals reach."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _keep_logs_only(folder: Path) -> None:
    """Deletes what a finished job leaves: copies of data and checkpoints that storage holds."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".log" and path.name != "lock":
            path.unlink()


def _end_group(process: subprocess.Popen[str]) -> None:
    """Ends a process and its group; processes further down are bound to their parents."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error(job: Job, exit_code: int, log: Path, lines: list[str]) -> Exception:
    """Makes one error of a failed attempt: the process's own words where it left any, else what was seen of it."""
    folder = log.parent
    if (folder / _ERROR_FILE).is_file():
        said: dict[str, Any] = json.loads((folder / _ERROR_FILE).read_text(encoding="utf-8"))
        return error_classes()[said["type"]](f"{said['message']} (log: {log})")
    rank = 0
    if (folder / _FAILURE_FILE).is_file():
        failed = json.loads((folder / _FAILURE_FILE).read_text(encoding="utf-8"))
        rank, exit_code = failed["rank"], failed["exit_code"]
    prefix = _RANK_PREFIX.format(rank=rank)
    own = [line for line in lines if line.startswith(prefix)] or lines
    return TrainingError(
        f"training job {job.name} failed: rank {rank} of {job.processes_per_node} {_ending(exit_code)}.\n"
        "Its last lines:\n" + "\n".join(f"  {line}" for line in own[-_NUM_LAST_LINES:]) + f"\nThe whole log: {log}\n"
        "Run the same command again: it goes on from the last checkpoint."
    )


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
