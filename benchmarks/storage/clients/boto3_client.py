"""boto3: `upload_file` and `download_file`, as they are, or with larger parts and without its own checksums."""

from __future__ import annotations

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from timing import ENDPOINT, KEY, MODE, REGION, SECRET, report

_MEBIBYTE = 1024 * 1024
_TUNED = MODE == "tuned"
_TRANSFER = (
    TransferConfig(
        multipart_threshold=16 * _MEBIBYTE,
        multipart_chunksize=16 * _MEBIBYTE,
        max_concurrency=8,
        io_chunksize=_MEBIBYTE,
    )
    if _TUNED
    else TransferConfig()
)
_CHECKSUMS = "when_required" if _TUNED else "when_supported"
_CLIENT = boto3.client(
    "s3",
    endpoint_url=ENDPOINT,
    aws_access_key_id=KEY,
    aws_secret_access_key=SECRET,
    region_name=REGION,
    config=Config(
        request_checksum_calculation=_CHECKSUMS,
        response_checksum_validation=_CHECKSUMS,
        max_pool_connections=32 if _TUNED else 10,
    ),
)


def _upload(bucket: str, name: str, path: str) -> None:
    _CLIENT.upload_file(path, bucket, name, Config=_TRANSFER)


def _download(bucket: str, name: str, path: str) -> None:
    _CLIENT.download_file(bucket, name, path, Config=_TRANSFER)


report(_upload, _download)
