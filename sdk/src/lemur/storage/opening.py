"""From a URI to the storage behind it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from lemur.errors import StorageError
from lemur.storage.base import Storage
from lemur.storage.file import FileStorage


def open_storage(uri: str) -> Storage:
    """Opens the storage that a URI names; nothing is contacted yet.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder`, or a plain path, which is taken from the working folder.

    Raises:
        StorageError: A URI of another kind, or S3 without credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme == "s3":
        from lemur.storage.s3 import open_s3

        bucket, _, prefix = rest.partition("/")
        return open_s3(bucket, "/".join(part for part in prefix.split("/") if part))
    if not separator and uri:
        return FileStorage(Path(uri).expanduser().resolve())
    if scheme == "file" and rest.startswith("/"):
        return FileStorage(Path(unquote(rest)).resolve())
    raise StorageError(
        f"{uri!r} is not a storage: write s3://bucket/prefix, file:///absolute/folder (three slashes) or a plain path"
    )
