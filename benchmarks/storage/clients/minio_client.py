"""minio-py, as its documentation has it: `fput_object` and `fget_object`; with `digest`, SHA-256 beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from minio import Minio
from timing import ENDPOINT, KEY, MODE, REGION, SECRET, report

_CLIENT = Minio(ENDPOINT.removeprefix("http://"), KEY, SECRET, secure=False, region=REGION)


def _upload(bucket: str, name: str, path: str) -> None:
    if MODE == "digest":
        _digest(path)
    _CLIENT.fput_object(bucket, name, path)


def _download(bucket: str, name: str, path: str) -> None:
    _CLIENT.fget_object(bucket, name, path)
    if MODE == "digest":
        _digest(path)


def _digest(path: str) -> None:
    with Path(path).open("rb") as file:
        hashlib.file_digest(file, "sha256")


report(_upload, _download)
