"""What a person sees of progress events."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from lemur.display import RunDisplay


def shown(*events: dict[str, Any], terminal: bool = False) -> str:
    """Shows events and returns all that was written."""
    file = io.StringIO()
    with RunDisplay(Console(file=file, force_terminal=terminal, width=120)) as display:
        for event in events:
            display(event)
    return file.getvalue()


def task_event(event: str, completed: int, **more: Any) -> dict[str, Any]:
    fields = {"task": "pretrain", "completed": completed, "total": 20, "unit": "steps", "seconds": 2.5, "details": {}}
    return {"event": event, **fields, **more}


def test_a_finished_task_is_one_line_with_its_count_and_time() -> None:
    output = shown(task_event("start", 0), task_event("progress", 7), task_event("done", 20))
    assert output.strip() == "✓ pretrain: 20 steps, 2.5 s"


def test_a_failed_task_is_marked() -> None:
    assert "✗ pretrain: 7 steps" in shown(task_event("start", 0), task_event("failed", 7))


def test_stages_and_notes_have_a_line_each() -> None:
    output = shown(
        {"event": "stage", "name": "mix", "state": "started"},
        {"event": "note", "text": "mix: unchanged, tokens at file:///a/[b]"},
        {"event": "stage", "name": "mix", "state": "finished"},
    )
    assert output.splitlines() == ["mix", "  mix: unchanged, tokens at file:///a/[b]"]


def test_a_terminal_gets_a_bar_with_details() -> None:
    output = shown(
        task_event("start", 0), task_event("progress", 7, details={"loss": 3.14159, "eta": "1 min"}), terminal=True
    )
    assert "7/20" in output
    assert "loss 3.142" in output


def test_a_log_gets_a_line_now_and_then() -> None:
    output = shown(
        task_event("start", 0, seconds=0.0),
        task_event("progress", 1, seconds=5.0),
        task_event("progress", 7, seconds=31.0, seconds_left=58.0, details={"loss": "3.142", "checkpoint": "step 5"}),
        task_event("progress", 8, seconds=40.0),
        task_event("progress", 15, seconds=70.0, seconds_left=20.0),
        task_event("done", 20, seconds=90.0),
    )
    assert output.splitlines() == [
        "  pretrain: 7/20 steps, about 58.0 s left, loss 3.142  checkpoint step 5",
        "  pretrain: 15/20 steps, about 20.0 s left",
        "  ✓ pretrain: 20 steps, 90.0 s",
    ]


def test_a_bar_says_how_long_the_rest_takes() -> None:
    output = shown(task_event("start", 0), task_event("progress", 7, seconds_left=200.0), terminal=True)
    assert "about 3 min 20 s left" in output
