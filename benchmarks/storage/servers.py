"""The servers that clients are measured against."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.data.processes import CommandError, running
from benchmarks.s3_server import S3Server, find_server, free_ports, s3_server

_START_SECONDS = 20
NULL_BUCKET = "s3://null"


@contextmanager
def null(source: Path, work: Path) -> Iterator[S3Server]:
    """Lends a server that keeps nothing, and whose objects have a file's bytes."""
    port = free_ports(1)[0]
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.storage.null_server", str(port), source]
    with running(command, work=work / "null") as process:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CommandError("the null server did not start") from error
                time.sleep(0.05)
        yield _Null(f"http://127.0.0.1:{port}")


class _Null(S3Server):
    """A server with any number of buckets that are all the same."""

    def new_bucket(self) -> str:
        """Returns the one bucket."""
        return NULL_BUCKET


@contextmanager
def seaweedfs(parent: Path, count: int = 1) -> Iterator[list[S3Server]]:
    """Lends servers that keep what they get below a folder."""
    program = find_server()
    if program is None:
        raise CommandError("SeaweedFS is missing, which the `dev` extra brings")
    with ExitStack() as stack:
        yield [stack.enter_context(s3_server(program, parent=parent)) for _ in range(count)]


def forget(server: S3Server, bucket_uri: str) -> None:
    """Deletes a bucket with all it has, so that its room is free again."""
    if bucket_uri == NULL_BUCKET:
        return
    from minio import Minio

    bucket = bucket_uri.removeprefix("s3://")
    address = server.endpoint.removeprefix("http://")
    client = Minio(address, server.access_key, server.secret_key, secure=False, region="us-east-1")
    for found in client.list_objects(bucket, recursive=True):
        client.remove_object(bucket, found.object_name)
    client.remove_bucket(bucket)
