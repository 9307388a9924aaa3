"""What a training run tells of itself: its curve, events for TensorBoard, waiting for data, and memory."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ForkedBackend
from small_training import folder_of, hardware_section, losses_of, pretrain_section, weights_of
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from transformers import TrainingArguments

from lemur.errors import TrainingError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.results import read_manifest
from lemur.training import run
from lemur.training.loop.curve import LossCurve
from lemur.training.loop.events import EventFile
from lemur.training.loop.waiting import WaitingTrainer

COMPUTING_SECONDS = 0.05
SCALARS = {"loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "data_wait_share"}


def read_events(folder: Path) -> list[Event]:
    """Reads the one event file of a folder as TensorBoard does, checksums included."""
    (path,) = folder.iterdir()
    assert "tfevents" in path.name
    data, events = path.read_bytes(), []

    def masked(part: bytes) -> int:
        checksum = crc32c(part)
        return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF

    while data:
        (length,), (of_length,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        record, (of_record,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (masked(data[:8]), masked(record)) == (of_length, of_record)
        events.append(Event.FromString(record))
        data = data[16 + length :]
    return events


def scalars_of(event: Event) -> dict[str, float]:
    return {value.tag: value.simple_value for value in event.summary.value}


def points_of(receipt: Receipt) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder_of(receipt) / "metrics.jsonl").read_text().splitlines()]


def test_events_hold_the_curve_and_name_no_machine(pretrained: run.Pretrained) -> None:
    folder = folder_of(pretrained.base) / "events"

    version, *events = read_events(folder)

    assert version.file_version == "brain.Event:2"
    points = points_of(pretrained.base)
    assert [event.step for event in events] == [3, 6, 9, 12]
    for event, point in zip(events, points, strict=True):
        scalars = scalars_of(event)
        assert set(scalars) == SCALARS
        assert scalars == pytest.approx({tag: point[tag] for tag in SCALARS}, rel=1e-6)
        assert event.wall_time == point["time"]
    (path,) = folder.iterdir()
    assert socket.gethostname() not in path.name
    assert socket.gethostname().encode() not in path.read_bytes()


def test_the_receipt_says_how_long_it_waited_and_what_memory_it_took(pretrained: run.Pretrained) -> None:
    metrics = pretrained.base.metrics
    points = points_of(pretrained.base)

    assert 0 < metrics["data_wait_share"] < 0.5
    assert metrics["data_wait_share"] == pytest.approx(
        sum(point["data_wait_share"] for point in points) / len(points), abs=0.2
    )
    # PyTorch alone takes more than 100 MB, and the model is small.
    assert 1e8 < metrics["peak_memory_bytes"] < 4e9
    assert metrics["mfu"] > 0


@pytest.fixture
def pretrain(storage: str, tokens: Receipt, model: ModelSection) -> Callable[..., run.Pretrained]:
    def start(backend: ForkedBackend | None = None) -> run.Pretrained:
        return run.pretrain(
            model=model,
            pretrain=pretrain_section(),
            hardware=hardware_section(backend),
            tokens=tokens,
            storage=storage,
            run="tiny",
        )

    return start


def test_events_of_a_resumed_run_go_on_from_its_checkpoint_and_can_be_watched_meanwhile(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained, tmp_path: Path, notes: Callable[[], str]
) -> None:
    with pytest.raises(TrainingError):
        pretrain(ForkedBackend(kill_after_step=7))
    (meanwhile,) = (tmp_path / "work").glob("*/events")
    assert f"tensorboard --logdir {meanwhile}" in notes()
    assert read_events(meanwhile)[0].file_version

    resumed = pretrain().base

    assert resumed.metadata["resumed_at_steps"] == [4]
    _, *events = read_events(folder_of(resumed) / "events")
    assert [event.step for event in events] == [3, 6, 9, 12]
    assert [scalars_of(event)["loss"] for event in events] == pytest.approx(losses_of(pretrained.base), rel=1e-6)
    assert all(one.wall_time <= other.wall_time for one, other in pairwise(events))
    (path,) = (folder_of(resumed) / "events").iterdir()
    assert path.name.endswith("00000004")
    # The bar, and with it speed, begins at the checkpoint.
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    bar = [event for event in told if event.get("task") == "pretrain"]
    last_start = max(number for number, event in enumerate(bar) if event["event"] == "start")
    assert bar[last_start + 1]["completed"] == 4


def test_equal_training_has_equal_weights_though_its_times_differ(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained
) -> None:
    again = pretrain().base

    ours, theirs = read_manifest(again.uri), read_manifest(pretrained.base.uri)
    assert weights_of(again) == weights_of(pretrained.base)
    assert ours.weights_digest == theirs.weights_digest != ours.digest
    assert ours.digest != theirs.digest


class Slow(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Takes its time for every item."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        time.sleep(self._seconds)
        return {"x": torch.tensor([float(index)]), "labels": torch.tensor([1.0])}


class Line(torch.nn.Module):
    """The smallest model the Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        time.sleep(COMPUTING_SECONDS)
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def test_waiting_is_the_time_of_reading_and_not_that_of_computing(tmp_path: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=10,
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = WaitingTrainer(model=Line(), args=arguments, train_dataset=Slow(0.005))
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started

    # Ten batches of four items were read, and ten times the model computed.
    assert 10 * 4 * 0.005 <= trainer.data_wait_seconds <= seconds - 10 * COMPUTING_SECONDS


def make_curve(**changes: Any) -> LossCurve:
    return LossCurve(**{"steps_per_point": 2, "num_steps": 8, "flops_per_token": 10.0, "peak_flops": 1e6, **changes})


def add(curve: LossCurve, step: int, loss: float, wait_seconds: float = 0.0) -> None:
    curve.add(step, 100 * step, loss=loss, learning_rate=0.1, grad_norm=loss, wait_seconds=wait_seconds)


def test_a_skipped_step_is_counted_and_leaves_the_loss_alone(tmp_path: Path) -> None:
    curve = make_curve()
    curve.start(0)
    add(curve, 1, 2.0)
    curve.skip(2)
    add(curve, 2, math.nan)
    for step in (3, 4):
        curve.skip(step)
        add(curve, step, 1e9)

    assert [point["loss"] for point in curve.points] == [2.0, None]
    assert curve.final_loss == 2.0
    curve.save(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert "NaN" not in "".join(lines)
    resumed = make_curve()
    resumed.restore(tmp_path, 4)
    assert resumed.skipped_steps == [2, 3, 4]
    assert (resumed.points, resumed.resumed_at_steps) == (curve.points, [4])
    events = EventFile(tmp_path, resumed.points, step=4)
    events.close()
    assert [scalars_of(event).get("loss") for event in read_events(tmp_path / "events")[1:]] == [2.0, None]


def test_waiting_is_a_share_of_each_point_and_of_the_whole_run_through_interruptions(tmp_path: Path) -> None:
    curve = make_curve()
    curve.start(0)
    time.sleep(0.2)
    add(curve, 1, 1.0, 0.05)
    add(curve, 2, 1.0, 0.1)
    curve.save(tmp_path)
    assert curve.points[0]["data_wait_share"] == pytest.approx(0.5, abs=0.1)
    assert curve.points[0]["mfu"] == pytest.approx(10.0 * 200 / 0.2 / 1e6, rel=0.2)

    resumed = make_curve()
    resumed.restore(tmp_path, 2)
    resumed.start(200)
    time.sleep(0.2)
    add(resumed, 3, 1.0, 0.0)
    add(resumed, 4, 1.0, 0.02)

    assert resumed.points[1]["data_wait_share"] == pytest.approx(0.1, abs=0.05)
    assert resumed.points[1]["tokens_per_second"] == pytest.approx(200 / 0.2, rel=0.3)
    assert resumed.data_wait_share == pytest.approx(0.3, abs=0.07)
