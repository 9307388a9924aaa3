"""Runs training jobs in real processes that need not import torch again: forked from a server that has done so."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any, Literal

from lemur.errors import TrainingError
from lemur.training.backend import Backend, Job
from lemur.training.run import QUIET

_WORK = {"lemur.training.pretraining": "pretrain", "lemur.training.finetuning": "finetune"}
# The server imports the libraries, which look at these when they are imported.
os.environ.update(QUIET)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_WORK))


class ForkedBackend(Backend):
    """Runs a job's processes as `local` does, apart from how they are started."""

    kind: Literal["forked"] = "forked"
    kill_after_step: int | None = None
    """Step after which the processes kill themselves with SIGKILL, once checkpoints of earlier steps are stored."""
    kill_in_commit_of_step: int | None = None
    """Step whose checkpoint lacks but its manifest when they do."""

    max_file_bytes: int | None = None
    """Largest file the processes can write; beyond it the system fails them, as a full disk does."""
    prepare: str | None = None
    """Module whose `prepare` is called in each process before its work."""

    def run(self, job: Job) -> None:
        """Runs the job; a process that fails makes it fail."""
        folder = Path(os.environ["LEMUR_WORK"]) / job.name
        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        processes = [
            _CONTEXT.Process(target=_run, args=(job, self, rank, port, dict(os.environ), str(folder)))
            for rank in range(job.processes_per_node)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        ends = [process.exitcode for process in processes]
        if any(ends):
            raise TrainingError(f"exit codes {ends}")


class NoBackend(Backend):
    """Fails the test that starts a job."""

    kind: Literal["none"] = "none"

    def run(self, job: Job) -> None:
        """Is not to be called."""
        raise AssertionError(f"job {job.name} was started")


def _run(job: Job, backend: ForkedBackend, rank: int, port: int, environment: dict[str, str], folder: str) -> None:
    import importlib

    import torch

    from lemur.training.process import run_process

    size = job.processes_per_node
    os.environ.clear()
    os.environ.update(environment, LEMUR_JOB_FOLDER=folder)
    torch.set_num_threads(1)
    if size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(size),
            LOCAL_WORLD_SIZE=str(size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            GLOO_SOCKET_IFNAME="lo",
        )
    _plant_kills(backend)
    if backend.max_file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (backend.max_file_bytes, resource.RLIM_INFINITY))
    if backend.prepare:
        importlib.import_module(backend.prepare).prepare(rank)
    run_process(getattr(importlib.import_module(job.module), _WORK[job.module]), job.arguments)


def _plant_kills(backend: ForkedBackend) -> None:
    from lemur.storage.file import FileStorage
    from lemur.training.checkpoints.saving import Saver
    from lemur.training.loop.watching import Watching

    on_log, write, save = Watching.on_log, FileStorage.write, Saver.save
    savers = []

    def on_log_then_die(self: Watching, args: Any, state: Any, *rest: Any, **named: Any) -> None:
        on_log(self, args, state, *rest, **named)
        if state.global_step == backend.kill_after_step:
            for saver in savers:
                saver.finish()
            os.kill(os.getpid(), signal.SIGKILL)

    def save_known(self: Saver, *rest: Any) -> None:
        savers[:] = [self]
        save(self, *rest)

    def write_unless_dead(self: FileStorage, name: str, data: bytes) -> Any:
        if name == "manifest.json" and self.uri.endswith(f"-steps/{backend.kill_in_commit_of_step or 0:08d}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, name, data)

    Saver.save = save_known  # type: ignore[method-assign]
    Watching.on_log = on_log_then_die  # type: ignore[method-assign]
    FileStorage.write = write_unless_dead  # type: ignore[method-assign]
