"""Jobs of a module that a test writes, and the processes they run in."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from lemur.training.backend import Job
from lemur.training.backends.local import LocalBackend

_LAUNCH = (
    "import sys; from lemur.training.backend import Job; from lemur.training.backends.local import LocalBackend;"
    "LocalBackend.model_validate_json(sys.argv[1]).run(Job.model_validate_json(sys.argv[2]))"
)


def write_job(folder: Path, source: str, **settings: object) -> Job:
    """Makes a job of a module with the given source."""
    (folder / "written_module.py").write_text(textwrap.dedent(source), encoding="utf-8")
    environment = {"PYTHONPATH": str(folder), "FOLDER": str(folder)}
    return Job(name="written", module="written_module", environment=environment, **settings)


def launch(backend: LocalBackend, job: Job) -> subprocess.Popen[bytes]:
    """Starts a process that runs a job."""
    command = [sys.executable, "-c", _LAUNCH, backend.model_dump_json(), job.model_dump_json()]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def is_running(pid: int) -> bool:
    """Returns whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until something holds, and fails the test where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
