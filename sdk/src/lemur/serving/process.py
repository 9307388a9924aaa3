"""Server processes: started in a group of their own, waited for, and ended with everything they started."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lemur import progress
from lemur.errors import ServingError

_POLL_SECONDS = 0.1
_STOP_SECONDS = 10.0
_NUM_LOG_LINES = 15


def free_port() -> int:
    """Returns a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server_process(
    command: Sequence[str],
    *,
    name: str,
    port: int,
    log: Path,
    ready_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server while the context lasts.

    The server ends with the context and, on Linux, with the thread that entered it, even if that is killed.

    Args:
        command: Command line that serves in the foreground; the first part is a path.
        name: The `model` that the server must list once it is ready.
        port: Loopback port that it answers on.
        log: File for its output; made anew.
        ready_seconds: How long it may take until it answers.
        environment: Variables set besides this process's own.

    Yields:
        The process, once it answers.

    Raises:
        ServingError: It ended or did not become ready; the message has the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lemur.serving.tether", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, name=name, port=port, log=log, ready_seconds=ready_seconds)
        yield process
    finally:
        _stop(process)


def log_end(log: Path) -> str:
    """Returns the last lines of a log, indented."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_NUM_LOG_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (empty)"


def _wait_until_ready(
    process: subprocess.Popen[bytes], *, name: str, port: int, log: Path, ready_seconds: float
) -> None:
    started = time.monotonic()
    with progress.task(f"start server {name}", unit="seconds") as bar:
        while not _answers(port):
            seconds = time.monotonic() - started
            if process.poll() is not None:
                raise ServingError(
                    f"the server of {name!r} ended with status {process.returncode} before it was ready; "
                    f"{log} ends with\n{log_end(log)}"
                )
            if seconds > ready_seconds:
                raise ServingError(
                    f"the server of {name!r} was not ready after {ready_seconds:.0f} s; {log} ends with\n{log_end(log)}"
                )
            bar.update(int(seconds))
            time.sleep(_POLL_SECONDS)
    # Another server may have taken the port first; asking the wrong model would go unnoticed.
    listed = [model["id"] for model in json.loads(_get(port, "/v1/models")[1])["data"]]
    if name not in listed:
        raise ServingError(f"port {port} is answered by a server of {', '.join(listed)}, not of {name!r}; try again")


def _answers(port: int) -> bool:
    try:
        return _get(port, "/health")[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def _get(port: int, path: str) -> tuple[int, bytes]:
    # Not urllib, which would ask a proxy for loopback addresses too.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group: asks first, then insists."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
