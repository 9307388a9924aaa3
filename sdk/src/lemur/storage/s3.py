"""Storage in an S3 bucket: `s3://`, through the `minio` client and its connections.

Objects go out in parallel parts and come in parallel ranges, in requests of this package's own: they read the file
once, hash each byte once and need little memory. `docs/performance.md` has what that brings.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error

from lemur.errors import IntegrityError, StorageError
from lemur.receipt import StoredObject
from lemur.storage.base import (
    ObjectInfo,
    Storage,
    byte_counter,
    checked_name,
    checked_prefix,
    is_manifest,
)
from lemur.storage.file import new_file
from lemur.storage.integrity import check_content, cut_short, missing, wrong_size
from lemur.storage.s3_client import S3Settings, s3_client, s3_connections
from lemur.storage.s3_download import download, until_whole
from lemur.storage.s3_object import S3Object
from lemur.storage.s3_upload import Source, upload

_REFUSALS = {
    "AccessDenied": "this access key is not known there, or may not do this",
    "InvalidAccessKeyId": "this access key is not known there",
    "SignatureDoesNotMatch": "the secret key does not belong to this access key",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "InvalidTokenId": "the session token is not valid",
}
_ABSENT = ("NoSuchKey", "NoSuchObject")


def open_s3(bucket: str, prefix: str) -> S3Storage:
    """Opens a prefix of a bucket with the credentials of the environment; nothing is contacted yet."""
    settings = S3Settings.find()
    return S3Storage(settings, bucket, prefix)


class S3Storage(Storage):
    """Objects below a prefix of a bucket.

    Args:
        settings: Server and credentials.
        bucket: Name of the bucket, which must exist.
        prefix: Path in the bucket without slashes at its ends; empty for the whole bucket.
    """

    def __init__(self, settings: S3Settings, bucket: str, prefix: str) -> None:
        self.uri = f"s3://{bucket}/{checked_name(prefix)}" if prefix else f"s3://{bucket}"
        self._settings, self._bucket = settings, bucket
        self._root = f"{prefix}/" if prefix else ""

    @property
    def _minio(self) -> Minio:
        return s3_client(self._settings, os.getpid())

    def read(self, name: str) -> bytes:
        """Gets an object in one request."""
        with self._explained(name), self._minio.get_object(self._bucket, self._key(name)) as response:
            return bytes(response.read())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Gets a range in one request."""
        with self._explained(name):
            try:
                data = until_whole(lambda: self._get_bytes(name, start, length))
            except S3Error as error:
                if error.code != "InvalidRange":
                    raise
                data = b""  # The object ends before the range begins.
        if len(data) != length:
            raise cut_short(self.uri_of(name), start, length, len(data))
        return data

    def write(self, name: str, data: bytes) -> StoredObject:
        """Puts bytes in one request, or in parts where they are many."""
        return self._put(name, io.BytesIO(data), len(data), lambda count: None)

    def upload(
        self, name: str, path: Path, *, on_bytes: Callable[[int], None] | None = None, move: bool = False
    ) -> StoredObject:
        """Puts a file, in parallel parts where it is large."""
        with path.open("rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            with byte_counter(f"upload {name}", size_bytes, on_bytes) as count_bytes:
                return self._put(name, file, size_bytes, count_bytes)

    def download(
        self,
        name: str,
        path: Path,
        expected: StoredObject | None = None,
        *,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Gets an object in parallel ranges, each written to its place in the file."""
        with self._explained(name):
            found = self._stat(name)
            size_bytes = int(found.size)
            if expected and size_bytes != expected.size_bytes:
                raise wrong_size(self.uri_of(name), size_bytes, expected.size_bytes)
            counter = byte_counter(f"download {name}", size_bytes, on_bytes)
            with counter as count_bytes, new_file(path, size_bytes, durable=False) as file:
                # If-Match: an object that is replaced meanwhile is refused, never mixed with its successor.
                unchanged = {"If-Match": f'"{found.etag}"'}
                digest = download(
                    lambda start, length: self._minio.get_object(
                        self._bucket, self._key(name), start, length, request_headers=dict(unchanged)
                    ),
                    file.fileno(),
                    size_bytes,
                    count_bytes,
                    digest=expected is not None,
                )
                if expected:
                    content = StoredObject(name=name, size_bytes=size_bytes, sha256=digest)
                    check_content(self.uri_of(name), content, expected)

    def exists(self, name: str) -> bool:
        """Asks for the object's head."""
        try:
            with self._explained(name):
                self._stat(name)
        except IntegrityError:
            return False
        return True

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Lists the bucket below the prefix."""
        prefix = checked_prefix(prefix)
        with self._explained(prefix):
            found = [
                ObjectInfo(stored.object_name.removeprefix(self._root), int(stored.size), stored.etag or "")
                for stored in self._minio.list_objects(self._bucket, self._root + prefix, recursive=True)
                if not stored.is_dir
            ]
        below = [stored for stored in found if not prefix or f"{stored.name}/".startswith(f"{prefix}/")]
        return sorted(below, key=lambda stored: stored.name)

    def delete(self, prefix: str = "") -> None:
        """Deletes manifests one by one, then the rest in a request for each thousand."""
        names = [stored.name for stored in self.list(prefix)]
        manifests = [name for name in names if is_manifest(name)]
        others = [DeleteObject(self._root + name) for name in names if not is_manifest(name)]
        with self._explained(prefix):
            for name in manifests:
                self._minio.remove_object(self._bucket, self._root + name)
            for failure in self._minio.remove_objects(self._bucket, others):
                raise StorageError(
                    f"s3://{self._bucket}/{failure.name} cannot be deleted at {self._settings.endpoint}: "
                    f"{failure.message} ({failure.code})"
                )

    def at(self, prefix: str) -> S3Storage:
        """Returns the storage of a longer prefix in the same bucket."""
        return S3Storage(self._settings, self._bucket, (self._root + checked_prefix(prefix)).rstrip("/"))

    def uri_of(self, name: str) -> str:
        """Returns the `s3://` URI of an object."""
        return f"{self.uri}/{name}" if name else self.uri

    def _key(self, name: str) -> str:
        return self._root + checked_name(name)

    def _put(self, name: str, source: Source, size_bytes: int, on_bytes: Callable[[int], None]) -> StoredObject:
        with self._explained(name):
            connections = s3_connections(os.getpid())
            target = S3Object(self._settings, self._minio, connections, self._bucket, self._key(name))
            digest = upload(target, source, size_bytes, on_bytes)
        return StoredObject(name=name, size_bytes=size_bytes, sha256=digest)

    def _stat(self, name: str) -> Any:
        try:
            return self._minio.stat_object(self._bucket, self._key(name))
        except S3Error as error:
            # The answer to a HEAD has no body, so that a missing bucket looks like a missing object.
            if error.code in _ABSENT and not self._minio.bucket_exists(self._bucket):
                raise self._no_bucket() from error
            raise

    def _get_bytes(self, name: str, start: int, length: int) -> bytes:
        with self._minio.get_object(self._bucket, self._key(name), start, length) as response:
            return bytes(response.read())

    def _no_bucket(self) -> StorageError:
        return StorageError(
            f"there is no bucket {self._bucket!r} at {self._settings.endpoint}; "
            "make it, or name another one as storage, then run again"
        )

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        uri, endpoint = self.uri_of(name), self._settings.endpoint
        try:
            yield
        except urllib3.exceptions.HTTPError as error:
            raise StorageError(
                f"cannot reach the S3 server {endpoint} for {uri}: {_cause(error)}; check that it runs and that "
                "AWS_ENDPOINT_URL (or S3_ENDPOINT) names it, then run again"
            ) from error
        except S3Error as error:
            if error.code in _ABSENT:
                raise missing(uri) from error
            if error.code == "NoSuchBucket":
                raise self._no_bucket() from error
            if error.code in _REFUSALS:
                raise StorageError(
                    f"{endpoint} refused {uri} (bucket {self._bucket!r}) to access key {self._settings.access_key!r} "
                    f"from {self._settings.source}: {_REFUSALS[error.code]} ({error.code})"
                ) from error
            raise StorageError(f"{endpoint} failed on {uri}: {error.message} ({error.code})") from error
        except MinioException as error:
            raise StorageError(f"{endpoint} did not answer as an S3 server does for {uri}: {error}") from error


def _cause(error: BaseException) -> str:
    """Returns the innermost reason, without the objects that urllib3 prints before it."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _cause(reason)
    texts = [argument for argument in error.args if isinstance(argument, str)]
    return (texts[0] if texts else str(error)).rpartition("): ")[2]
