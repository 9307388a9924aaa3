"""The local backend: processes that end well, badly, or with whoever asked for them."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from small_training import finetune_section, hardware_section, losses_of, pretrain_section
from written import is_running, launch, wait_for, write_job

from lemur.errors import RecipeError, StorageError, TrainingError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.training import run
from lemur.training.backend import Job
from lemur.training.backends.local import LocalBackend

LOCAL = LocalBackend(kind="local", max_restarts=0)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Makes a job of a module with the given source."""
    return functools.partial(write_job, tmp_path)


def test_a_job_runs_with_its_arguments_and_keeps_its_output(job: Callable[..., Job], tmp_path: Path) -> None:
    LOCAL.run(job("import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'])", arguments=["--job", "x"]))

    log = (tmp_path / "work" / "written" / "attempt-1.log").read_text(encoding="utf-8")
    assert log == f"['--job', 'x'] {len(os.sched_getaffinity(0))}\n"


def test_a_failure_shows_the_last_lines_and_where_the_rest_is(job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        LOCAL.run(job("for n in range(99): print('line', n)\nraise ValueError('no such thing')"))

    message = str(caught.value)
    assert "training job written failed: rank 0 of 1 ended with exit code 1" in message
    assert "ValueError: no such thing" in message
    assert "line 98" in message
    assert "line 50" not in message
    assert str(tmp_path / "work" / "written" / "attempt-1.log") in message


def test_the_rank_that_was_killed_is_named(job: Callable[..., Job]) -> None:
    source = """
        import os, signal, time
        print("this is rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"])
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """
    with pytest.raises(TrainingError) as caught:
        LOCAL.run(job(source, processes_per_node=2))

    message = str(caught.value)
    assert "rank 1 of 2 was ended by SIGKILL; the system does that when memory runs out" in message
    assert "[rank 1] this is rank 1 of 2" in message
    assert "[rank 0]" not in message


def test_an_error_of_ours_comes_back_as_itself(job: Callable[..., Job]) -> None:
    source = """
        from lemur.errors import StorageError
        from lemur.training.process import run_process
        def work(uri, folder):
            raise StorageError(f"{uri} is full")
        run_process(work)
    """
    with pytest.raises(StorageError, match=r"s3://somewhere is full \(log: "):
        LOCAL.run(job(source, arguments=["--job", "s3://somewhere"]))


def test_a_full_disk_is_a_storage_error(job: Callable[..., Job]) -> None:
    source = """
        from lemur.training.process import run_process
        def work(uri, folder):
            with open("/dev/full", "w") as file:
                file.write("x")
        run_process(work)
    """
    with pytest.raises(StorageError, match="no space left"):
        LOCAL.run(job(source, arguments=["--job", "s3://somewhere"]))


def test_several_machines_are_refused(job: Callable[..., Job]) -> None:
    with pytest.raises(RecipeError, match="num_nodes is 2"):
        LOCAL.run(job("", num_nodes=2))


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_launcher(
    job: Callable[..., Job], tmp_path: Path, how: signal.Signals, num_processes: int
) -> None:
    sleeper = job(
        """
        import os, pathlib, time
        pathlib.Path(os.environ["FOLDER"], f"pid-{os.getpid()}").touch()
        time.sleep(600)
        """,
        processes_per_node=num_processes,
    )
    launcher = launch(LOCAL, sleeper)
    try:
        wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == num_processes)
        pids = [int(path.name.partition("-")[2]) for path in tmp_path.glob("pid-*")]
        assert all(is_running(pid) for pid in pids)

        launcher.send_signal(how)

        wait_for(lambda: not any(is_running(pid) for pid in pids))
        assert launcher.wait(30) != 0
    finally:
        launcher.kill()
        launcher.wait()


def test_a_second_launcher_waits_for_the_first(
    job: Callable[..., Job], tmp_path: Path, notes: Callable[[], str]
) -> None:
    source = """
        import os, pathlib, time
        path = pathlib.Path(os.environ["FOLDER"], "busy")
        path.touch(exist_ok=False)
        time.sleep(1)
        path.unlink()
    """
    described = job(source)
    first = launch(LOCAL, described)
    wait_for((tmp_path / "busy").exists)

    LOCAL.run(described)

    assert first.wait(30) == 0
    assert "is running already; waiting for it" in notes()


def test_torchrun_trains_and_tunes_as_one_process_does(
    storage: str,
    tokens: Receipt,
    model: ModelSection,
    dialogues: Receipt,
    pretrained: run.Pretrained,
    finetuned: Receipt,
) -> None:
    hardware = hardware_section(LOCAL, devices_per_node=2)
    made = run.pretrain(
        model=model, pretrain=pretrain_section(), hardware=hardware, tokens=tokens, storage=storage, run="tiny"
    )
    chat = run.finetune(
        finetune=finetune_section(),
        hardware=hardware_section(LOCAL),
        base=pretrained.base,
        dialogues=dialogues,
        storage=storage,
        run="tiny",
    )

    assert losses_of(made.base) == pytest.approx(losses_of(pretrained.base), abs=1e-4)
    assert losses_of(chat) == pytest.approx(losses_of(finetuned), abs=1e-4)
