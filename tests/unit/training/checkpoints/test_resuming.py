"""Which checkpoint a run goes on from, and what it reads of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import NUM_STEPS, Run, whole_state
from small_training import pretrain_section
from transformers import TrainingArguments

from lemur.training.checkpoints.layout import RunRecord
from lemur.training.checkpoints.reading import LocalObjects, StateReader
from lemur.training.checkpoints.resuming import Resumable, newest_whole
from lemur.training.checkpoints.saving import Saver
from lemur.training.checkpoints.steps import StepCheckpoints
from lemur.training.description import TrainingDescription
from lemur.training.state import Stretch


@pytest.fixture
def checkpoints(storage: str) -> StepCheckpoints:
    job = TrainingDescription(storage=storage, key="0" * 64, peak_flops=1.0)
    return StepCheckpoints(job, pretrain_section(keep_checkpoints=5), stage="pretrain", parents={})


@pytest.fixture
def newest(checkpoints: StepCheckpoints, tmp_path: Path) -> Callable[[], Resumable | None]:
    """Looks for the newest whole checkpoint, as the only process."""
    arguments = TrainingArguments(output_dir=str(tmp_path / "trainer"), use_cpu=True, report_to="none")
    return lambda: newest_whole(arguments, checkpoints, tmp_path / "resumed")


def save(checkpoints: StepCheckpoints, folder: Path, *steps: int) -> None:
    saver = Saver(checkpoints, rank=0, num_ranks=1, attempt="a", folder=folder, retry_seconds=0)
    for step in steps:
        run = RunRecord(step=step, num_updates=step, engine={"kind": "ddp"}, num_ranks=1, seed=0)
        saver.save(run, [stretch(torch.full((1000,), float(step)))], {"curve.json": b"{}", "metrics.jsonl": b""})
        saver.finish()


def stretch(values: torch.Tensor) -> Stretch:
    return Stretch("w", "weight", (1000,), 0, 1000, values)


def test_without_a_checkpoint_a_run_begins(newest: Callable[[], Resumable | None]) -> None:
    assert newest() is None


@pytest.mark.parametrize("name", ["state-00000-of-00001-0.safetensors", "index-00000-of-00001.json", "run.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_named_and_passed_over_for_the_one_before_it(
    checkpoints: StepCheckpoints,
    newest: Callable[[], Resumable | None],
    tmp_path: Path,
    notes: Callable[[], str],
    name: str,
    damage: str,
) -> None:
    save(checkpoints, tmp_path, 4, 8)
    path = checkpoints.at(8).local_path(name)
    assert path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "altered" else content[: len(content) // 2])

    found = newest()

    assert found
    assert found.step == found.run.step == 4
    assert f"00000008/{name}" in notes()
    # What stood for later steps is gone, so that this attempt writes to empty places.
    assert not checkpoints.at(8).list()
    target = stretch(torch.zeros(1000))
    StateReader(found.objects).fill([target])
    assert torch.equal(target.values, torch.full((1000,), 4.0))


def test_where_all_are_damaged_a_run_begins_anew(
    checkpoints: StepCheckpoints, newest: Callable[[], Resumable | None], tmp_path: Path
) -> None:
    save(checkpoints, tmp_path, 4, 8)
    checkpoints.at(8).delete("manifest.json")
    checkpoints.at(4).write("manifest.json", b"{")

    assert newest() is None
    assert not checkpoints.at(4).list()
    assert not checkpoints.at(8).list()


def test_a_damaged_part_of_one_process_is_seen_by_all(tmp_path: Path) -> None:
    run = Run(tmp_path, num_ranks=2)
    run.go()
    (path,) = tmp_path.rglob("00000008/state-00001-of-00002-0.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    assert [told["resumed_at"] for told in run.go()] == [4, 4]


def test_from_another_machines_storage_each_file_is_read_once_and_then_dropped(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    before = Run(tmp_path, "zero1", 2, storage=bucket, stop_after=6).go()

    after = Run(tmp_path, "ddp", 2, storage=bucket).go()

    assert [told["resumed_at"] for told in after] == [6, 6]
    assert whole_state(after, "state_at_start") == whole_state(before, "state_at_end")
    assert not list((tmp_path / "work").rglob("state-*"))


def test_what_was_downloaded_is_not_downloaded_again(
    checkpoints: StepCheckpoints, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.use(monkeypatch)
    job = TrainingDescription(storage=s3.new_bucket(), key="0" * 64, peak_flops=1.0)
    remote = StepCheckpoints(job, pretrain_section(), stage="pretrain", parents={})
    save(remote, tmp_path / "work", 4)
    (stored,) = remote.newest_first()
    name = "state-00000-of-00001-0.safetensors"

    objects = LocalObjects(stored, tmp_path / "resumed")
    path = objects.path(name)
    remote.at(4).delete(name)

    assert LocalObjects(stored, tmp_path / "resumed").path(name) == path
    objects.drop_downloads()
    assert not path.exists()


def test_adapters_alone_are_stored_and_go_on_with_another_engine(tmp_path: Path) -> None:
    unbroken = Run(tmp_path / "unbroken", adapters=True).go()
    Run(tmp_path / "handed", "ddp", 2, adapters=True, stop_after=5).go()

    (path,) = tmp_path.rglob("handed/storage/checkpoints/*/00000005/index-00000-of-00002.json")
    names = json.loads(path.read_text())["parameters"]
    assert names
    assert all(".lora_" in name for name in names)
    after = Run(tmp_path / "handed", "zero2", 1, adapters=True).go()

    assert [told["resumed_at"] for told in after] == [5]
    assert after[0]["num_updates"] == NUM_STEPS
    assert after[0]["losses"] == pytest.approx(unbroken[0]["losses"], abs=1e-5)


@pytest.mark.parametrize("engine", ["zero1", "zero3"])
def test_weights_in_bfloat16_follow_their_float32_masters(tmp_path: Path, engine: str) -> None:
    section = {"keep_every_steps": 8, "precision": "bfloat16"}
    unbroken = Run(tmp_path, engine, 2, precision="bfloat16", section=section).go()
    assert unbroken[0]["exit_code"] == 0, unbroken[0].get("traceback")

    resumed = Run(tmp_path, engine, 2, precision="bfloat16", section=section).go()

    assert [told["resumed_at"] for told in resumed] == [8, 8]
    assert resumed[0]["weights"] == unbroken[0]["weights"]
    assert whole_state(resumed, "state_at_end") == whole_state(unbroken, "state_at_end")
