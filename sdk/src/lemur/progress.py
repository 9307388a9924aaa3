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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lemur import units

EVENTS_VARIABLE = "LEMUR_PROGRESS"
_EVENT_INTERVAL_SECONDS = 0.2
_LINE_INTERVAL_SECONDS = 10.0
_SPEED_SECONDS = 60.0
_FEWEST_UPDATES = 5
_told_of_movement: list[Callable[[], None]] = []


def tell(listener: Callable[[], None]) -> None:
    """Has something called whenever a task of this process moves, shown or not; in whichever thread does the work."""
    _told_of_movement.append(listener)


def moved() -> None:
    """Tells the listeners of movement in work that shows no task of its own."""
    for listener in _told_of_movement:
        listener()


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
        # The first update may tell what an earlier attempt has done, so speed counts from there.
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at the speed of the last minute, or of the last few updates if they took longer.

        `None` where the total or the speed is not known.
        """
        if self.total is None or len(self._recent) < 2:
            return None
        (first_time, first), (last_time, last) = self._recent[0], self._recent[-1]
        if last <= first:
            return None
        return round((self.total - self.completed) * (last_time - first_time) / (last - first), 1)

    def advance(self, amount: int = 1, **details: Any) -> None:
        """Counts finished units; `details` (loss, tokens per second) are shown beside the bar."""
        self.update(self.completed + amount, **details)

    def update(self, completed: int, **details: Any) -> None:
        """Sets how many units are finished, for work that counts for itself."""
        self.completed = completed
        moved()
        self._details.update(details)
        interval = _EVENT_INTERVAL_SECONDS if os.environ.get(EVENTS_VARIABLE) else _LINE_INTERVAL_SECONDS
        now = time.monotonic()
        if not self._recent or now - self._recent[-1][0] >= _EVENT_INTERVAL_SECONDS:
            self._recent.append((now, completed))
            while len(self._recent) > _FEWEST_UPDATES and now - self._recent[0][0] > _SPEED_SECONDS:
                self._recent.popleft()
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
            seconds_left=self.seconds_left,
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
    left = f", {time_left(fields['seconds_left'])}" if event == "progress" and fields["seconds_left"] else ""
    return f"{fields['task']}:{state} {done} in {fields['seconds']:.1f} s{left}{details}"


def time_left(seconds: float) -> str:
    """Returns how long the rest takes, as it stands beside a bar: `about 3 min 20 s left`."""
    return f"about {units.duration(max(1, round(seconds)))} left".replace(units.NARROW, " ")
