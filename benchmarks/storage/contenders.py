"""The clients that are measured: which are here, and what moving files takes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.processes import measure

_PROBE = """
import importlib.metadata, sys
print(importlib.metadata.version(sys.argv[1]))
"""
_TIMEOUT_SECONDS = 170
_SCRIPTS = Path(__file__).parent / "clients"


class Contender(NamedTuple):
    """One way of using one client."""

    name: str
    """As the tables have it."""
    package: str
    """Distribution that it needs."""
    mode: str = "default"
    """What its script is told."""

    @property
    def script(self) -> Path:
        """Its script."""
        return _SCRIPTS / f"{self.package}_client.py"


CONTENDERS = (
    Contender("lemur, with SHA-256", "lemur"),
    Contender("lemur, digest apart", "lemur", "bare"),
    Contender("minio-py", "minio"),
    Contender("minio-py and SHA-256", "minio", "digest"),
    Contender("boto3", "boto3"),
    Contender("boto3, tuned", "boto3", "tuned"),
    Contender("obstore", "obstore"),
    Contender("obstore, ranges", "obstore", "ranges"),
    Contender("s5cmd", "s5cmd"),
)
"""All of them, each beside its own variants."""


class Found(NamedTuple):
    """A client that is installed."""

    python: str
    """Interpreter that has it."""
    version: str
    """Its version."""


class Move(NamedTuple):
    """What moving files one way took."""

    seconds: float
    """From the first transfer's beginning to the last one's end."""
    num_bytes: int
    """Bytes that were moved."""
    cpu_seconds: float
    """Processor time of the clients while they moved them."""
    peak_bytes: int
    """Largest memory of all client processes together; some 10 MB of it is the process that starts them."""

    @property
    def megabytes_per_second(self) -> float:
        """Speed."""
        return self.num_bytes / self.seconds / 1e6

    @property
    def cpu_seconds_per_gigabyte(self) -> float:
        """Cost."""
        return self.cpu_seconds / (self.num_bytes / 1e9)


class Payload(NamedTuple):
    """A file that is moved, once or under several names."""

    path: Path
    """The file."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Its digest."""


class Share(NamedTuple):
    """What one of several processes moves."""

    environment: Mapping[str, str]
    """Says which server."""
    bucket: str
    """Name of the bucket."""
    objects: Sequence[tuple[str, Path]]
    """Name and path of each."""


def find_contenders(peers_python: Sequence[str]) -> tuple[dict[Contender, Found], dict[Contender, str]]:
    """Returns the clients that are installed, and why others are not measured."""
    found: dict[Contender, Found] = {}
    for contender in CONTENDERS:
        for python in (sys.executable,) if contender.package == "lemur" else peers_python:
            probe = subprocess.run(
                [python, "-c", _PROBE, contender.package], capture_output=True, text=True, check=False
            )
            if probe.returncode == 0:
                found.setdefault(contender, Found(python, probe.stdout.strip()))
    missing = [contender for contender in CONTENDERS if contender not in found]
    return found, dict.fromkeys(missing, "not installed; see --peers-python")


def move(
    contender: Contender, found: Found, direction: str, shares: Sequence[Share], payload: Payload, work: Path
) -> Move:
    """Has a client move files, each share in a process of its own.

    Args:
        contender: The client.
        found: Where it is.
        direction: `up` or `down`.
        shares: What is moved.
        payload: What every object is.
        work: Folder for logs.

    Raises:
        CommandError: It fails or takes too long.
    """
    commands = [
        {
            "command": [
                found.python,
                str(contender.script),
                contender.mode,
                json.dumps(_task(direction, share, payload)),
            ],
            "environment": dict(share.environment),
        }
        for share in shares
    ]
    together = [sys.executable, "-m", "benchmarks.storage.together", json.dumps(commands)]
    usage = measure(together, work=work, timeout_seconds=_TIMEOUT_SECONDS)
    outputs = usage.output["outputs"]
    return Move(
        seconds=max(output["ended"] for output in outputs) - min(output["began"] for output in outputs),
        num_bytes=sum(payload.size_bytes * len(share.objects) for share in shares),
        cpu_seconds=sum(output["cpu_seconds"] for output in outputs),
        peak_bytes=usage.peak_bytes,
    )


def _task(direction: str, share: Share, payload: Payload) -> dict[str, object]:
    return {
        "direction": direction,
        "bucket": share.bucket,
        "objects": [(name, str(path)) for name, path in share.objects],
        "sha256": payload.sha256,
        "size_bytes": payload.size_bytes,
    }
