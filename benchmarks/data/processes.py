"""A command as a process group of its own: how long it takes, and how much memory all its processes use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

SAMPLE_SECONDS = 0.2
"""How often memory is looked at; a peak that is shorter is not seen."""
_LOG_CHARACTERS = 2000
_TICKS = os.sysconf("SC_CLK_TCK")


class CommandError(Exception):
    """A measured command failed or took too long."""


class Usage(NamedTuple):
    """What a command took."""

    seconds: float
    """Wall time from its start to the end of its first process."""
    peak_bytes: int
    """Largest sum of its processes' memory (PSS: pages that several share count once)."""
    cpu_seconds: float
    """Processor time of all its processes, but for what they used after they were last looked at."""
    output: dict[str, Any]
    """The JSON object on the last line that it printed."""


def measure(
    command: Sequence[str | Path],
    *,
    work: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    timeout_seconds: float = 600,
) -> Usage:
    """Runs a command to its end and returns what it took.

    Args:
        command: The program and its arguments; it prints a JSON object last.
        work: Folder for its log and its temporary files.
        environment: Variables for it, beside this process's own.
        timeout_seconds: How long it may take.

    Raises:
        CommandError: It failed or took too long; the message ends with its log's last lines.
    """
    started = time.perf_counter()
    peak_bytes, processor = 0, dict[int, float]()
    with running(command, work=work, environment=environment) as process:
        while process.poll() is None:
            if time.perf_counter() - started > timeout_seconds:
                raise CommandError(f"{_shown(command)} took more than {timeout_seconds:g} s")
            found = session_processes(process.pid)
            processor.update(found)
            peak_bytes = max(peak_bytes, sum(map(_memory_bytes, found)))
            try:
                process.wait(SAMPLE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - started
    log = (work / "log").read_text(errors="replace")
    if process.returncode:
        raise CommandError(f"{_shown(command)} ended with {process.returncode}: {log[-_LOG_CHARACTERS:]}")
    return Usage(seconds, peak_bytes, sum(processor.values()), json.loads((work / "out").read_text().splitlines()[-1]))


@contextmanager
def running(
    command: Sequence[str | Path], *, work: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command in a session of its own, all of whose processes are gone afterwards."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "tmp").mkdir(exist_ok=True)
    with (work / "out").open("wb") as out, (work / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=log,
            env={**_environment(work), **environment},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a command with all processes of its session, as a machine without power would, and waits for its end."""
    while pids := session_processes(process.pid):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.poll()
        time.sleep(0.01)
    process.wait()


def session_processes(session: int) -> dict[int, float]:
    """Returns the processes of a session that have not ended, whoever started them, and their processor seconds."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    text = file.read()
            except OSError:
                continue
            fields = text.rpartition(b")")[2].split()
            if int(fields[3]) == session and fields[0] != b"Z":
                found[int(name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def _memory_bytes(pid: int) -> int:
    """Returns the PSS of a process, or 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


def _environment(work: Path) -> Mapping[str, str]:
    """Returns the usual variables for measured commands: nothing is fetched from anywhere, and bytecode is kept."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "LEMUR_PROGRESS", "LEMUR_RUNNER_PID")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**inherited, "TMPDIR": str(work / "tmp"), "HF_HOME": str(work / "tmp" / "hub"), "HF_HUB_OFFLINE": "1"}


def _shown(command: Sequence[str | Path]) -> str:
    return " ".join(str(part) for part in command)[:300]
