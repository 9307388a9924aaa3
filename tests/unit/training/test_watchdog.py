"""A job in which nothing moves any more is ended, and says where each of its processes stood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from written import write_job

from lemur.errors import HungError
from lemur.training.backend import Job
from lemur.training.backends.local import LocalBackend

WATCHED = """
import os, pathlib, time
import torch
import torch.distributed as dist
from lemur import progress
from lemur.training.loop import watchdog as watching
from transformers import TrainerControl, TrainerState, TrainingArguments

rank, folder = int(os.environ.get("RANK", "0")), pathlib.Path(os.environ["LEMUR_JOB_FOLDER"])
if "RANK" in os.environ:
    dist.init_process_group("gloo")
watching._OTHERS_SECONDS = 1.5
watching._STUCK_INTERPRETER_SECONDS = 1.0
watchdog = watching.Watchdog({limit}, folder).start()

def step(number):
    watchdog.on_step_end(None, TrainerState(global_step=number, max_steps=100), TrainerControl())
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(source: str, *, limit: float, **settings: object) -> Job:
        return write_job(tmp_path, WATCHED.format(limit=limit) + source, **settings)

    return make


def local(**settings: int) -> LocalBackend:
    return LocalBackend(kind="local", **{"max_restarts": 0, **settings})


def test_a_rank_that_hangs_ends_the_job_and_all_ranks_tell_where_they_stand(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    source = """
def sleep_for_ever():
    time.sleep(600)
step(7)
if rank == 1:
    sleep_for_ever()
dist.all_reduce(torch.ones(1))
"""
    with pytest.raises(HungError) as caught:
        local().run(job(source, limit=2.0, processes_per_node=2))

    first, second = [line for line in str(caught.value).splitlines() if line.startswith("  rank")]
    assert "rank 0: " in first
    assert "s without a movement after step 7, in all_reduce (torch/distributed/distributed_c10d.py:" in first
    assert "called from <module> (" in first
    assert "written_module.py:" in first
    assert "rank 1: " in second
    assert "sleep_for_ever" in second
    folder = tmp_path / "work" / "written"
    # The watchdog's own thread is among all the threads of a process.
    assert "distributed_c10d.py" in (folder / "stacks-rank-0.txt").read_text(encoding="utf-8")
    assert "in sleep_for_ever" in (folder / "stacks-rank-1.txt").read_text(encoding="utf-8")
    assert "in sleep_for_ever" in (folder / "attempt-1.log").read_text(encoding="utf-8")


def test_a_job_that_hung_is_started_again(job: Callable[..., Job], tmp_path: Path, notes: Callable[[], str]) -> None:
    source = f"""
path = pathlib.Path({str(tmp_path)!r}, "hung-before")
if not path.exists():
    path.touch()
    step(3)
    time.sleep(600)
"""
    local(max_restarts=1).run(job(source, limit=1.0))

    assert "training hung" in notes()
    assert "restart 1 of 1" in notes()


def test_a_process_whose_interpreter_is_stuck_in_a_library_is_ended_too(job: Callable[..., Job]) -> None:
    # Called through PyDLL, the function keeps the lock that every Python thread needs.
    source = """
import ctypes
step(3)
time.sleep(1)
ctypes.PyDLL(None).sleep(600)
"""
    with pytest.raises(HungError, match="a library that holds the Python interpreter; the stacks: "):
        local().run(job(source, limit=2.0))


def test_processes_that_wait_while_another_one_moves_data_do_not_hang(job: Callable[..., Job]) -> None:
    source = """
step(3)
if rank == 0:
    with progress.task("store model", total=25, unit="bytes") as bar:
        for _ in range(25):
            time.sleep(0.2)
            bar.advance()
dist.barrier()
"""
    local().run(job(source, limit=2.0, processes_per_node=2))


def test_what_comes_before_the_first_step_may_take_longer(job: Callable[..., Job]) -> None:
    local().run(job("time.sleep(2.5)", limit=1.0))

    with pytest.raises(HungError, match="before its first step was done"):
        local().run(job("time.sleep(60)", limit=1.0))
