"""A job that is killed, asked to stop, or loses its storage: when it is started again, and when not."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written import is_running, launch, wait_for, write_job

from lemur.errors import IntegrityError, PreemptedError, RecipeError, StorageError, TrainingError
from lemur.training.backend import Job
from lemur.training.backends.local import LocalBackend

COUNTED = """
import os, pathlib, signal, sys, time
from lemur.errors import *
from lemur.training.process import leave
from lemur.training.workplace import mark
rank, folder, own = int(os.environ.get("RANK", "0")), pathlib.Path(os.environ["FOLDER"]), pathlib.Path(
    os.environ["LEMUR_JOB_FOLDER"])
attempts = folder / f"attempts-{rank}"
attempt = int(attempts.read_text()) + 1 if attempts.exists() else 1
attempts.write_text(str(attempt))
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Makes a job of a module with the given source, which knows the number of its `attempt`."""

    def make(source: str, **settings: object) -> Job:
        return write_job(tmp_path, COUNTED + source, **settings)

    return make


def attempts(tmp_path: Path) -> int:
    return int((tmp_path / "attempts-0").read_text(encoding="utf-8"))


def local(**settings: Any) -> LocalBackend:
    return LocalBackend(kind="local", **{"storage_pause_seconds": 0.1, **settings})


def test_a_job_goes_on_by_itself_when_one_of_its_processes_is_killed(
    job: Callable[..., Job], tmp_path: Path, notes: Callable[[], str]
) -> None:
    source = """
mark(own, "step", 7), mark(own, "checkpoint", 4)
if attempt == 1:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""
    local().run(job(source, processes_per_node=2))

    assert attempts(tmp_path) == 2
    assert "ended after step 7: rank 1 of 2 was ended by SIGKILL" in notes()
    assert "starting it again from the checkpoint of step 4 (restart 1 of 3)" in notes()


def test_it_gives_up_where_restarts_lead_nowhere(job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="rank 0 of 1 was ended by SIGSEGV"):
        local(max_restarts=2).run(job("os.kill(os.getpid(), signal.SIGSEGV)"))

    assert attempts(tmp_path) == 3


def test_a_new_checkpoint_allows_as_many_restarts_again(job: Callable[..., Job], tmp_path: Path) -> None:
    source = """
if attempt < 5:
    mark(own, "checkpoint", 10 * attempt)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    local(max_restarts=1).run(job(source))

    assert attempts(tmp_path) == 5


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("leave(RecipeError('seed is no number'))", RecipeError),
        ("leave(TrainingError('too many spikes'))", TrainingError),
        ("leave(IntegrityError('s3://b/tokens is damaged'))", IntegrityError),
        ("raise ValueError('a fault of this project')", TrainingError),
    ],
    ids=["a recipe error", "a training error", "damaged data", "a fault"],
)
def test_what_would_only_happen_again_is_not_tried_again(
    job: Callable[..., Job], tmp_path: Path, source: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        local().run(job(source))

    assert attempts(tmp_path) == 1


def test_a_storage_that_is_away_is_waited_for(
    job: Callable[..., Job], tmp_path: Path, notes: Callable[[], str]
) -> None:
    started = time.monotonic()

    local(storage_pause_seconds=0.5).run(job("if attempt < 3: leave(StorageError('s3://b cannot be reached'))"))

    assert attempts(tmp_path) == 3
    assert time.monotonic() - started > 1.5
    assert "s3://b cannot be reached" in notes()
    assert "in 0.5 s (restart 1 of 3)" in notes()
    assert "in 1 s (restart 2 of 3)" in notes()


def test_a_storage_that_stays_away_is_named(job: Callable[..., Job]) -> None:
    with pytest.raises(StorageError, match="s3://b cannot be reached"):
        local(max_restarts=1).run(job("leave(StorageError('s3://b cannot be reached'))"))


def test_processes_that_were_asked_to_stop_are_started_again(
    job: Callable[..., Job], tmp_path: Path, notes: Callable[[], str]
) -> None:
    source = """
if attempt == 1:
    from lemur.training.process import run_process
    run_process(lambda uri, folder: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60)))
"""
    local().run(job(source, arguments=["--job", "x"]))

    assert attempts(tmp_path) == 2
    assert "asked to stop before its first step" in notes()


def test_a_process_that_is_ended_because_another_failed_does_not_hide_why(job: Callable[..., Job]) -> None:
    source = """
from lemur.training.process import run_process
def work(uri, folder):
    (folder_ := pathlib.Path(os.environ["FOLDER"]), (folder_ / f"ready-{rank}").touch())
    while not (folder_ / f"ready-{1 - rank}").exists():
        time.sleep(0.01)
    if rank == 1:
        raise RecipeError("no such tokenizer")
    time.sleep(60)
run_process(work)
"""
    with pytest.raises(RecipeError, match="no such tokenizer"):
        local().run(job(source, arguments=["--job", "x"], processes_per_node=2))


SLOW_TO_STOP = """
def stop(number, frame):
    print("stopping", flush=True)
    time.sleep({seconds})
    print("stopped", flush=True)
    os._exit(PreemptedError.exit_code)
signal.signal(signal.SIGTERM, stop)
(folder / f"pid-{{os.getpid()}}").touch()
time.sleep(600)
"""


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize(
    ("seconds", "grace_seconds", "signals", "finishes"),
    [(2, 20, 1, True), (600, 2, 1, False), (600, 60, 2, False)],
    ids=["in time", "too slowly", "but not at once as asked twice"],
)
def test_a_launcher_that_is_asked_to_stop_gives_its_processes_time(
    job: Callable[..., Job],
    tmp_path: Path,
    num_processes: int,
    seconds: int,
    grace_seconds: int,
    signals: int,
    finishes: bool,
) -> None:
    described = job(SLOW_TO_STOP.format(seconds=seconds), processes_per_node=num_processes)
    launcher = launch(local(grace_seconds=grace_seconds), described)
    log = tmp_path / "work" / "written" / "attempt-1.log"
    try:
        wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == num_processes)
        started = time.monotonic()
        for _ in range(signals):
            launcher.send_signal(signal.SIGTERM)
            wait_for(functools.partial(_says, log, "stopping", num_processes))

        assert launcher.wait(30) == PreemptedError.exit_code
        pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
        wait_for(lambda: not any(is_running(pid) for pid in pids), seconds=5)
    finally:
        launcher.kill()
        launcher.wait()
    assert time.monotonic() - started < 20
    assert _says(log, "stopped", num_processes) == finishes
    # The launcher itself was asked to stop, so it does not start the job again.
    assert attempts(tmp_path) == 1


def _says(log: Path, word: str, times: int) -> bool:
    return log.read_text(encoding="utf-8").count(word) >= times
