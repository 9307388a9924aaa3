"""One way to show that long work moves: a bar for people, events for programs, lines for logs.

Work is nested in processes (command line, pipeline step, torchrun, rank 0), and only the outermost one
owns the terminal. So a `Task` writes JSON events to the file that `LEMUR_PROGRESS` names, and the command
line, which set it, draws the bars. Without that variable a line goes to stderr every few seconds, which is
what a pod's log wants.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVENTS_VARIABLE = "LEMUR_PROGRESS"
_EVENT_INTERVAL_SECONDS = 0.2
_LINE_INTERVAL_SECONDS = 10.0


class Task:
    """Progress of one piece of work.

    Args:
        name: What is being done, as the user reads it: `pretrain`, `upload base checkpoint`.
        total: How many units the work has; `None` when that is not known.
        unit: What is counted: `steps`, `tokens`, `bytes`, `samples`.
    """

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.completed = 0
        self._details: dict[str, Any] = {}
        self._started = time.monotonic()
        self._last_report = -1e9

    def advance(self, amount: int = 1, **details: Any) -> None:
        """Counts finished units; `details` (loss, tokens per second) are shown beside the bar."""
        self.update(self.completed + amount, **details)

    def update(self, completed: int, **details: Any) -> None:
        """Sets how many units are finished, for work that counts for itself."""
        self.completed = completed
        self._details.update(details)
        interval = _EVENT_INTERVAL_SECONDS if os.environ.get(EVENTS_VARIABLE) else _LINE_INTERVAL_SECONDS
        now = time.monotonic()
        if now - self._last_report >= interval or completed == self.total:
            self._last_report = now
            self._report("progress")

    def _report(self, event: str) -> None:
        emit(
            event,
            task=self.name,
            completed=self.completed,
            total=self.total,
            unit=self.unit,
            seconds=round(time.monotonic() - self._started, 3),
            details=self._details,
        )


@contextmanager
def task(name: str, total: int | None = None, unit: str = "steps") -> Iterator[Task]:
    """Shows a piece of work from its start to its end, however it ends."""
    current = Task(name, total, unit)
    current._report("start")
    try:
        yield current
    except BaseException:
        current._report("failed")
        raise
    current._report("done")


def emit(event: str, **fields: Any) -> None:
    """Writes one event where it will be seen.

    Args:
        event: `start`, `progress`, `done`, `failed`, `stage`, `receipt`, `note` or `error`.
        **fields: JSON values. A line is written in one call, so that processes can share the file.
    """
    path = os.environ.get(EVENTS_VARIABLE)
    if path:
        line = json.dumps({"event": event, "time": time.time(), **fields}, default=str) + "\n"
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line)
    elif event != "receipt":
        print(_as_line(event, fields), file=sys.stderr, flush=True)


def _as_line(event: str, fields: dict[str, Any]) -> str:
    if "task" not in fields:
        return f"{event}: " + " ".join(str(value) for value in fields.values())
    total = f"/{fields['total']:,}" if fields["total"] else ""
    details = "".join(f" {key}={value}" for key, value in fields["details"].items())
    state = "" if event == "progress" else f" {event}"
    done = f"{fields['completed']:,}{total} {fields['unit']}"
    return f"{fields['task']}:{state} {done} in {fields['seconds']:.1f} s{details}"
