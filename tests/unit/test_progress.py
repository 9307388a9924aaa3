"""Progress is seen: as events by a program that asks, as lines otherwise, and to the end whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lemur import progress


def _events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(progress.EVENTS_VARIABLE, str(path))
    return path


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    monkeypatch.delenv(progress.EVENTS_VARIABLE, raising=False)
    return capsys


def test_a_task_tells_its_start_its_end_and_what_it_did(events: Path) -> None:
    with progress.task("pretrain", total=3, unit="steps") as bar:
        for _ in range(3):
            bar.advance(loss=1.5)
    told = _events(events)
    assert [event["event"] for event in told] == ["start", "progress", "progress", "done"]
    assert told[0]["completed"] == 0
    assert told[-1] | {"time": 0, "seconds": 0} == {
        "event": "done",
        "time": 0,
        "task": "pretrain",
        "completed": 3,
        "total": 3,
        "unit": "steps",
        "seconds": 0,
        "seconds_left": None,
        "details": {"loss": 1.5},
    }


def test_it_is_told_how_long_the_rest_takes_whatever_an_earlier_attempt_has_done(events: Path) -> None:
    with progress.task("pretrain", total=100) as bar:
        for step in (90, 91, 92, 93):
            bar.update(step)
            time.sleep(0.3)
    told = [event["seconds_left"] for event in _events(events) if event["event"] == "progress"]
    assert told[0] is None
    # Seven steps of 0.3 s; at the speed since the beginning it would be a tenth of that.
    assert told[-1] == pytest.approx(2.1, rel=0.3)


def test_fast_work_is_not_told_step_by_step_and_its_last_step_always_is(events: Path) -> None:
    with progress.task("tokenise", total=10_000, unit="documents") as bar:
        for _ in range(10_000):
            bar.advance()
    told = [event["completed"] for event in _events(events) if event["event"] == "progress"]
    assert len(told) < 100
    assert told[-1] == 10_000
    assert told == sorted(told)


def test_work_that_counts_for_itself_sets_the_count(events: Path) -> None:
    with progress.task("download", total=100, unit="bytes") as bar:
        bar.update(40)
        bar.update(100, tokens_per_second=7)
    assert _events(events)[-1]["completed"] == 100
    assert _events(events)[-1]["details"] == {"tokens_per_second": 7}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_work_that_fails_is_told_as_failed_and_the_error_goes_on(events: Path, error: BaseException) -> None:
    def fail() -> None:
        with progress.task("pretrain", total=3) as bar:
            bar.advance()
            raise error

    with pytest.raises(type(error)):
        fail()
    last = _events(events)[-1]
    assert (last["event"], last["completed"]) == ("failed", 1)


def test_an_event_carries_any_json_and_names_what_is_none(events: Path) -> None:
    progress.emit("note", text="é\nzwei", path=Path("a/b"))
    (event,) = _events(events)
    assert (event["event"], event["text"], event["path"]) == ("note", "é\nzwei", "a/b")


def test_processes_share_the_file_and_every_event_stays_whole(events: Path) -> None:
    program = (
        "from lemur import progress\nfor number in range(200): progress.emit('note', text='x' * 500, number=number)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    told = _events(events)
    assert len(told) == 600
    assert sorted(event["number"] for event in told) == sorted(list(range(200)) * 3)


def test_without_a_reader_lines_go_to_stderr(lines: pytest.CaptureFixture[str]) -> None:
    with progress.task("pretrain", total=2000, unit="steps") as bar:
        bar.update(1000, loss=2.5)
        bar.update(2000, loss=1.5)
    progress.emit("note", text="unchanged")
    progress.emit("receipt", receipt={"long": "and not for people"})
    out, err = lines.readouterr()
    assert out == ""
    told = [line.rpartition(" in ")[0] or line for line in err.splitlines()]
    assert told == [
        "pretrain: start 0/2,000 steps",
        "pretrain: 1,000/2,000 steps",
        "pretrain: 2,000/2,000 steps",
        "pretrain: done 2,000/2,000 steps",
        "note: unchanged",
    ]
    assert "loss=1.5" in err


def test_a_line_says_how_long_the_rest_takes(
    lines: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_SECONDS", 0.0)
    with progress.task("pretrain", total=2000) as bar:
        bar.update(2)
        time.sleep(0.3)
        bar.update(3, loss=2.5)
    assert ", about 10 min " in lines.readouterr().err.replace("about 9 min", "about 10 min")


def test_a_task_of_unknown_length_shows_what_is_done(lines: pytest.CaptureFixture[str]) -> None:
    with progress.task("read", unit="documents") as bar:
        bar.advance(5)
    assert "read: done 5 documents in 0.0 s" in lines.readouterr().err
