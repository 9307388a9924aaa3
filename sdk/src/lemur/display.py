"""What a person sees while a run goes on: a bar for each long step, a line for each stage."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from lemur.progress import time_left

_LINE_INTERVAL_SECONDS = 30.0
"""Seconds of a task between two lines about it, where there is no bar."""


class RunDisplay:
    """Draws progress events on a terminal; elsewhere it prints when things end, and a line now and then meanwhile.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("  {task.description}", style="cyan"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[details]}", style="dim"),
            console=console,
            disable=not self._live,
        )

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Shows one event."""
        kind = event["event"]
        if kind == "stage" and event["state"] == "started":
            self._console.print(Text(event["name"], style="bold"))
        elif kind == "note":
            self._console.print(Text(f"  {event['text']}", style="dim"), soft_wrap=True)
        elif "task" in event and kind in {"start", "progress", "done", "failed"}:
            self._bar(kind, event)

    def _bar(self, kind: str, event: dict[str, Any]) -> None:
        name = event["task"]
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(
                escape(name), total=event["total"], unit=event["unit"], left="", details=""
            )
            self._told[name] = 0.0
        details = "  ".join(f"{key} {_short(value)}" for key, value in event["details"].items())
        seconds_left = event.get("seconds_left")
        left = time_left(seconds_left) if seconds_left and kind == "progress" else ""
        self._progress.update(
            self._tasks[name], completed=event["completed"], total=event["total"], left=left, details=escape(details)
        )
        if kind == "progress" and not self._live and event["seconds"] - self._told[name] >= _LINE_INTERVAL_SECONDS:
            self._told[name] = event["seconds"]
            total = f"/{event['total']:,}" if event["total"] else ""
            parts = [f"{event['completed']:,}{total} {event['unit']}", left, details]
            self._console.print(Text(f"  {name}: {', '.join(filter(None, parts))}", style="dim"), soft_wrap=True)
        if kind in {"done", "failed"}:
            self._progress.remove_task(self._tasks.pop(name))
            mark = Text("  ✓", style="green") if kind == "done" else Text("  ✗", style="red")
            counted = f"{event['completed']:,} {event['unit']}, " if event["completed"] else ""
            self._console.print(mark + Text(f" {name}: {counted}{event['seconds']:.1f} s"))


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
