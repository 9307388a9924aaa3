"""Lemur: `Storage.upload` and `Storage.download`, as results use them, with the digest both ways.

With `bare`, the same transfers without the digest.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from timing import MODE, report

from lemur.receipt import StoredObject
from lemur.storage import open_storage
from lemur.storage.s3_client import S3Settings, s3_client, s3_connections
from lemur.storage.s3_object import S3Object
from lemur.storage.s3_upload import upload

_TASK = json.loads(sys.argv[2])


class _NoDigest:
    """Takes nothing, so that the transfer alone is measured."""

    def update(self, data: memoryview) -> None:
        """Takes nothing."""

    def hexdigest(self) -> str:
        """Returns what would be the digest."""
        return str(_TASK["sha256"])


def _count(count: int) -> None:
    """Shows no progress."""


def _upload(bucket: str, name: str, path: str) -> None:
    if MODE == "bare":
        settings, process = S3Settings.find(), os.getpid()
        target = S3Object(settings, s3_client(settings, process), s3_connections(process), bucket, name)
        with Path(path).open("rb", buffering=0) as file:
            upload(target, file, Path(path).stat().st_size, _count, _NoDigest())
    else:
        stored = open_storage(f"s3://{bucket}").upload(name, Path(path), on_bytes=_count)
        assert stored.sha256 == _TASK["sha256"]


def _download(bucket: str, name: str, path: str) -> None:
    storage = open_storage(f"s3://{bucket}")
    expected = None
    if MODE != "bare":
        expected = StoredObject(name=name, size_bytes=_TASK["size_bytes"], sha256=_TASK["sha256"])
    storage.download(name, Path(path), expected, on_bytes=_count)


report(_upload, _download)
