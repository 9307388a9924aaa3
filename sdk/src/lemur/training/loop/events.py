"""The loss curve as TensorBoard reads it: an event file that grows while training goes on."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EVENTS_FOLDER = "events"
"""Folder of the event file, beside `metrics.jsonl`."""

_FLUSH_SECONDS = 5.0
"""Seconds between two times that new points become visible: a flush waits for the disk."""
_SCALARS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "data_wait_share")


class EventFile:
    """Writes points of the loss curve to an event file as they come.

    Each attempt has one file with the whole curve: a resumed one begins with the points of its checkpoint, so
    that steps which were lost are not in it. Neither the file's name nor its content says which machine wrote it.

    Args:
        folder: Local folder; its subfolder `events` is made anew.
        points: Points so far, as `LossCurve` keeps them.
        step: Step that this attempt begins with, which the file is named after; TensorBoard reads files by name.
    """

    def __init__(self, folder: Path, points: Sequence[Mapping[str, Any]], *, step: int) -> None:
        # Imported where needed: it takes a third of a second, and one process of a job writes events.
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        self.folder = folder / EVENTS_FOLDER
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._records = RecordWriter(str(self.folder / f"events.out.tfevents.{step:08d}"))
        began = points[0]["time"] if points else 0.0
        self._records.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
        self._flushed = time.monotonic()
        for point in points:
            self.add(point)
        self._flush()

    def add(self, point: Mapping[str, Any]) -> None:
        """Writes a point's figures, each a scalar at its step and time; what a point has no number for is left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=tag, simple_value=point[tag])
            for tag in _SCALARS
            if point.get(tag) is not None and math.isfinite(point[tag])
        ]
        event = Event(wall_time=point["time"], step=int(point["step"]), summary=Summary(value=values))
        self._records.write(event.SerializeToString())
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """Completes the file."""
        self._records.close()

    def _flush(self) -> None:
        self._records.flush()
        self._flushed = time.monotonic()
