"""s5cmd: its `cp`, a process for each object, whose start is in its time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from timing import ENDPOINT, report

_COMMAND = [Path(sys.executable).parent / "s5cmd", "--endpoint-url", ENDPOINT, "cp"]


def _upload(bucket: str, name: str, path: str) -> None:
    subprocess.run([*_COMMAND, path, f"s3://{bucket}/{name}"], check=True, stdout=subprocess.DEVNULL)


def _download(bucket: str, name: str, path: str) -> None:
    subprocess.run([*_COMMAND, f"s3://{bucket}/{name}", path], check=True, stdout=subprocess.DEVNULL)


report(_upload, _download)
