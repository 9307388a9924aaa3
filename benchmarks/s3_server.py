"""An S3 server (SeaweedFS) on this machine's loopback address, for as long as it is measured or tested against."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.processes import CommandError, running

_SERVICES = ("s3", "master", "volume", "filer", "admin")
_START_SECONDS = 60


@dataclass(frozen=True)
class S3Server:
    """A running server."""

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

    def new_bucket(self) -> str:
        """Makes an empty bucket and returns its URI."""
        from minio import Minio

        bucket = f"test-{uuid.uuid4().hex[:12]}"
        address = self.endpoint.removeprefix("http://")
        Minio(address, self.access_key, self.secret_key, secure=False, region="us-east-1").make_bucket(bucket)
        return f"s3://{bucket}"


def find_server() -> str | None:
    """Returns the path of SeaweedFS's program, which the `dev` extra brings, or `None`."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def s3_server(program: str, *, parent: Path | None = None) -> Iterator[S3Server]:
    """Lends a server that has no buckets yet.

    Args:
        program: From `find_server`.
        parent: Folder to make the server's own in; without it the one for temporary files.

    Raises:
        CommandError: The server does not start.
    """
    # A short path: the server's sockets lie in it, and their names may not be long.
    folder = Path(tempfile.mkdtemp(prefix="lemur-s3-", dir=parent))
    ports = free_ports(2 * len(_SERVICES))
    server = S3Server(f"http://127.0.0.1:{ports[0]}")
    (folder / "s3.json").write_text(json.dumps(_identities(server)), encoding="utf-8")
    try:
        # Killed in the end, because a polite stop waits for idle connections, and nothing in it is worth keeping.
        with running([program, *_arguments(folder, ports)], work=folder) as process:
            deadline = time.monotonic() + _START_SECONDS
            while not _is_up(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (folder / "log").read_text(errors="replace")
                    raise CommandError(f"the S3 server did not start; its log ends: {log[-2000:]}")
                time.sleep(0.1)
            yield server
    finally:
        shutil.rmtree(folder)
        for name, port in zip(_SERVICES, ports[len(_SERVICES) :], strict=True):
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Returns ports that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _is_up(server: S3Server) -> bool:
    from minio.error import MinioException

    try:
        socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2])), timeout=1).close()
        server.new_bucket()
    except (OSError, MinioException):
        return False
    return True


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
    half = len(_SERVICES)
    listen = [f"-{name}.port={port}" for name, port in zip(_SERVICES, ports[:half], strict=True)]
    listen += [f"-{name}.port.grpc={port}" for name, port in zip(_SERVICES, ports[half:], strict=True)]
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
