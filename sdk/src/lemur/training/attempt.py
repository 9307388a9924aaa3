"""One attempt at a job on this machine: a process below this one, its output, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from lemur.progress import EVENTS_VARIABLE

_MOST_LINES = 2000
_OUTPUT_SECONDS = 5.0


class Attempt(NamedTuple):
    """How an attempt ended."""

    exit_code: int
    """Exit code of the process; below 0 the signal that ended it."""
    last_lines: list[str]
    """The end of its output."""
    log: Path
    """File with all of it."""


def run_attempt(command: Sequence[str], environment: Mapping[str, str], log: Path, *, grace_seconds: float) -> Attempt:
    """Runs a command in a group of its own, keeps its output, and returns how it ended.

    Where this is the main thread, SIGTERM ends the attempt as Ctrl-C does: the process is asked to end and has the
    grace period for it. A second signal ends it at once.

    Args:
        command: The command.
        environment: Its variables.
        log: File for its output.
        grace_seconds: Time between asking it to end and ending it.

    Raises:
        SystemExit: This process was asked to end by SIGTERM; the attempt has ended.
        KeyboardInterrupt: The same, by Ctrl-C.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    last_lines: deque[str] = deque(maxlen=_MOST_LINES)
    assert process.stdout is not None
    # In a thread, so that output is still taken while the process is being ended; a full pipe would stop it.
    reader = threading.Thread(target=_keep_output, args=(process.stdout, log, last_lines), daemon=True)
    reader.start()
    with _exit_on_sigterm():
        try:
            exit_code = process.wait()
            reader.join(_OUTPUT_SECONDS)
            return Attempt(exit_code, list(last_lines), log)
        finally:
            try:
                _end(process, grace_seconds)
            finally:
                _kill(process)


def _keep_output(output: IO[str], log: Path, last_lines: deque[str]) -> None:
    # With an events file, progress reaches the user through it; otherwise the processes' lines are all there is.
    shown = not os.environ.get(EVENTS_VARIABLE)
    with log.open("w", encoding="utf-8") as file:
        for line in output:
            file.write(line)
            file.flush()
            last_lines.append(line.rstrip("\n"))
            if shown:
                sys.stderr.write(line)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an orderly exit, where this is the thread that signals reach."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Asks a process to end, and waits for it; it passes the request on to those below it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends a process and its group where it runs still; processes further down are bound to their parents."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
