"""What a person sees while a run goes on: a bar for each long step, a line for each stage."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunDisplay:
    """Draws progress events on a terminal; elsewhere it prints when things start and end.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("  {task.description}", style="cyan"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
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
            self._console.print(f"[bold]{event['name']}[/bold]")
        elif kind == "note":
            self._console.print(f"  [dim]{event['text']}[/dim]", highlight=False)
        elif "task" in event and kind in {"start", "progress", "done", "failed"}:
            self._bar(kind, event)

    def _bar(self, kind: str, event: dict[str, Any]) -> None:
        name = event["task"]
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=event["total"], unit=event["unit"], details="")
        self._progress.update(
            self._tasks[name],
            completed=event["completed"],
            total=event["total"],
            details="  ".join(f"{key} {_short(value)}" for key, value in event["details"].items()),
        )
        if kind in {"done", "failed"}:
            self._progress.remove_task(self._tasks.pop(name))
            mark = "[green]✓[/green]" if kind == "done" else "[red]✗[/red]"
            counted = f"{event['completed']:,} {event['unit']}, " if event["completed"] else ""
            self._console.print(f"  {mark} {name}: {counted}{event['seconds']:.1f} s", highlight=False)


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
