"""Checkpoints are stored in the background, whole or not at all."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import NUM_STEPS, Run
from small_training import pretrain_section

from lemur.errors import StorageError
from lemur.storage import open_storage
from lemur.training.checkpoints.layout import RunRecord
from lemur.training.checkpoints.saving import Saver
from lemur.training.checkpoints.steps import StepCheckpoints, clear
from lemur.training.description import TrainingDescription
from lemur.training.state import Stretch

ENGINE = {"kind": "ddp"}


@pytest.fixture
def job(storage: str) -> TrainingDescription:
    return TrainingDescription(storage=storage, key="0" * 64, peak_flops=1.0)


@pytest.fixture
def saver(job: TrainingDescription, tmp_path: Path) -> Iterator[Callable[..., Saver]]:
    """Makes what stores one process's part; keyword arguments are settings of the section."""
    made = []

    def make(
        rank: int = 0, num_ranks: int = 1, attempt: str = "a", retry_seconds: float = 0.0, **section: Any
    ) -> Saver:
        checkpoints = StepCheckpoints(job, pretrain_section(**section), stage="pretrain", parents={})
        made.append(
            Saver(
                checkpoints,
                rank=rank,
                num_ranks=num_ranks,
                attempt=attempt,
                folder=tmp_path / "work",
                retry_seconds=retry_seconds,
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.stop()


def save(saver: Saver, step: int, *, values: torch.Tensor | None = None, num_ranks: int = 1) -> None:
    numbers = torch.full((6,), float(step)) if values is None else values
    run = RunRecord(step=step, num_updates=step, engine=ENGINE, num_ranks=num_ranks, seed=0)
    saver.save(run, [Stretch("w", "weight", (6,), 0, 6, numbers)], {"curve.json": b"{}"})


def stored(job: TrainingDescription) -> dict[int, bool]:
    """Returns the steps of which there is something, and whether there is a manifest."""
    names = [found.name for found in open_storage(job.storage).at(f"{job.prefix}-steps").list()]
    return {int(name.split("/")[0]): f"{name.split('/')[0]}/manifest.json" in names for name in names}


def test_the_manifest_comes_when_all_processes_have_stored_their_parts(
    saver: Callable[..., Saver], job: TrainingDescription
) -> None:
    first, second = saver(0, 2), saver(1, 2)

    save(first, 4, num_ranks=2)
    assert not first.finish(0.5)
    assert stored(job) == {4: False}
    save(second, 4, num_ranks=2)
    assert first.finish(30)

    assert stored(job) == {4: True}
    assert (first.stored_step, second.stored_step) == (4, 4)


def test_what_an_earlier_attempt_left_is_not_taken_for_a_part(
    saver: Callable[..., Saver], job: TrainingDescription
) -> None:
    left = saver(1, 2, attempt="before")
    save(left, 4, num_ranks=2)
    left.finish()

    first = saver(0, 2)
    save(first, 4, num_ranks=2)

    assert not first.finish(0.5)
    save(saver(1, 2), 4, num_ranks=2)
    assert first.finish(30)
    assert stored(job) == {4: True}


def test_the_copy_is_taken_at_once(saver: Callable[..., Saver], job: TrainingDescription, tmp_path: Path) -> None:
    values, first = torch.ones(6), saver(0, 2)

    save(first, 4, values=values, num_ranks=2)
    values.zero_()
    save(saver(1, 2), 4, num_ranks=2)
    first.finish()

    (path,) = tmp_path.rglob("state-00000-of-00002-0.safetensors")
    assert path.read_bytes()[-24:] == torch.ones(6).numpy().tobytes()


def test_a_storage_that_cannot_be_written_to_is_an_error_of_training(
    saver: Callable[..., Saver], tmp_path: Path
) -> None:
    (tmp_path / "storage").write_text("in the way")
    one = saver()

    save(one, 4)

    with pytest.raises(StorageError, match="storage"):
        one.finish()
    one.check()  # It is raised once.


def test_a_storage_that_is_away_for_a_while_is_waited_for(
    saver: Callable[..., Saver], job: TrainingDescription, tmp_path: Path, notes: Callable[[], str]
) -> None:
    (tmp_path / "storage").write_text("in the way")
    one = saver(retry_seconds=60)

    save(one, 4)
    one.check()
    assert not one.finish(1.2)
    (tmp_path / "storage").unlink()

    assert one.finish(30)
    assert stored(job) == {4: True}
    assert notes().count("cannot be stored yet") == 1


def test_the_next_checkpoint_waits_for_the_one_before_it_and_says_so(
    saver: Callable[..., Saver], job: TrainingDescription, notes: Callable[[], str]
) -> None:
    first, second = saver(0, 2), saver(1, 2)
    save(first, 4, num_ranks=2)
    threading.Timer(1.3, save, [second, 4], {"num_ranks": 2}).start()

    began = time.monotonic()
    save(first, 8, num_ranks=2)
    waited = time.monotonic() - began

    assert waited > 1.2
    assert stored(job)[4]
    assert first.stall_seconds == pytest.approx(waited, abs=0.2)
    assert "for the checkpoint of step 4 to be stored before it could copy step 8" in notes()


def test_the_newest_are_kept_and_some_for_good(saver: Callable[..., Saver], job: TrainingDescription) -> None:
    one = saver(keep_checkpoints=2, keep_every_steps=6)
    for step in range(2, 18, 2):
        save(one, step)
    one.finish()

    assert stored(job) == {6: True, 12: True, 14: True, 16: True}
    clear(job)
    assert stored(job) == {6: True, 12: True}


def test_training_goes_on_while_a_checkpoint_is_stored(tmp_path: Path) -> None:
    (told,) = Run(tmp_path, slow_storage=str(tmp_path / "go"), section={"checkpoint_every_steps": 3}).go()

    assert told["exit_code"] == 0, told.get("traceback")
    # The checkpoint of step 3 could not be stored before step 6, which waited until the file was there.
    assert told["stored_when_let_go"] is None
    assert told["stall_seconds"] < 5


def test_a_process_that_dies_while_it_stores_leaves_no_whole_checkpoint(tmp_path: Path) -> None:
    ends = [told["exit_code"] for told in Run(tmp_path, num_ranks=2, kill_in_upload_of=8).go()]
    assert -9 in ends
    job = TrainingDescription(storage=(tmp_path / "storage").as_uri(), key="0" * 64, peak_flops=1.0)
    assert stored(job) == {4: True, 8: False}

    resumed = Run(tmp_path, num_ranks=2).go()

    assert [told["resumed_at"] for told in resumed] == [4, 4]
    assert resumed[0]["num_updates"] == NUM_STEPS
    assert stored(job) == {4: True, 8: True}
    assert not list(tmp_path.rglob("*.half"))


def test_a_full_disk_ends_training_with_its_error_and_harms_no_earlier_checkpoint(
    tmp_path: Path, small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(bytes(1_300_000))
    run = Run(tmp_path, storage=small_disk.as_uri(), section={"checkpoint_every_steps": 1, "keep_checkpoints": 50})

    (told,) = run.go()

    assert told["exit_code"] == 1
    assert re.match(r"StorageError: .*/state-.* does not fit: .* make room", told["error"])
    (small_disk / "filler").unlink()
    (resumed,) = run.go()
    assert resumed["exit_code"] == 0
    assert resumed["resumed_at"] >= 3
    assert resumed["num_updates"] == NUM_STEPS


def test_a_run_stores_what_it_was_and_who_wrote_it(tmp_path: Path) -> None:
    Run(tmp_path, num_ranks=2, stop_after=5).go()

    folder = next((tmp_path / "storage" / "checkpoints").glob("*-steps/00000005"))
    run = json.loads((folder / "run.json").read_text())
    assert (run["step"], run["num_updates"], run["num_ranks"], run["engine"]) == (5, 5, 2, ENGINE)
    assert run["extra"]["Watching"] == {"said": 5}
    assert not list(folder.rglob("*.bin"))
    assert not list(folder.rglob("*.pt"))
