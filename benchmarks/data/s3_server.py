"""An S3 server on this machine's loopback address, for as long as it is measured."""

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
from pathlib import Path

from benchmarks.data.processes import CommandError, running

_SERVICES = ("s3", "master", "volume", "filer", "admin")
_KEY, _SECRET = "benchmark", "benchmark-secret"
_START_SECONDS = 60


def find_server() -> str | None:
    """Returns the path of SeaweedFS's program, which the `dev` extra brings, or `None`."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def s3_server(program: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Lends the URI of an empty bucket, and the variables with which Lemur finds its server.

    Args:
        program: From `find_server`.

    Raises:
        CommandError: The server does not start.
    """
    # A short path: the server's sockets lie in it, and their names may not be long.
    folder = Path(tempfile.mkdtemp(prefix="lemur-s3-"))
    ports = _free_ports(2 * len(_SERVICES))
    identity = {
        "name": "benchmark",
        "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_REGION": "us-east-1",
    }
    try:
        with running([program, *_arguments(folder, ports)], work=folder) as process:
            deadline = time.monotonic() + _START_SECONDS
            while (bucket := _new_bucket(ports[0])) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (folder / "log").read_text(errors="replace")
                    raise CommandError(f"the S3 server did not start: {log[-1000:]}")
                time.sleep(0.2)
            yield f"s3://{bucket}", environment
    finally:
        shutil.rmtree(folder)
        for name, port in zip(_SERVICES, ports[len(_SERVICES) :], strict=True):
            Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)


def _new_bucket(port: int) -> str | None:
    """Makes a bucket, if the server is up."""
    from minio import Minio
    from minio.error import MinioException

    bucket = f"benchmark-{uuid.uuid4().hex[:8]}"
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        Minio(f"127.0.0.1:{port}", _KEY, _SECRET, secure=False, region="us-east-1").make_bucket(bucket)
    except (OSError, MinioException):
        return None
    return bucket


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


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
