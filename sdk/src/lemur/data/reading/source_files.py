"""Which files a source is made of: below folders and in object storage, how large, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from lemur.data.source import SourceFile
from lemur.errors import RecipeError
from lemur.storage import ObjectInfo, Storage, open_storage
from lemur.storage.base import in_parallel

DIGESTED_BYTES = 2**30
"""Files up to this size together are known by their content, larger collections by names, sizes and times."""


def find_files(root: str, patterns: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
    """Returns the files below a root that match a pattern and no exclusion, sorted by name.

    Hidden folders and links to folders are not entered. A root that is a file, or an object, is returned as it is.

    Args:
        root: A path, or the URI of a prefix in object storage.
        patterns: Globs of the names that are taken: `*` within a name, `**/` for any folders.
        exclude: Globs of the names that are left out.

    Raises:
        StorageError: Object storage cannot be reached or refuses.
        RecipeError: A file's name is not UTF-8.
    """
    if "://" in root:
        storage = open_storage(root)
        folder = storage.local_path()
        if folder is None:
            return _find_objects(storage, patterns, exclude)
    else:
        folder = Path(root).expanduser().absolute()
    if folder.is_file():
        return _source_file(folder.name, str(folder))
    return _find_below(folder, patterns, exclude)


def is_object(file: SourceFile) -> bool:
    """Tells whether a file lies in object storage."""
    return "://" in file.location


def cannot_be_read(name: str, error: OSError) -> RecipeError:
    """Returns the error for a file of many records that cannot be opened."""
    return RecipeError(f"{name} cannot be read: {error.strerror}; mend it, or leave it out with `exclude`")


def identities(files: Sequence[SourceFile]) -> list[list[str | int]]:
    """Returns what tells each file from one that has changed, as JSON.

    Files on this machine that are together no larger than `DIGESTED_BYTES` are known by their content, so that a copy
    of them counts as the same; larger ones, and objects, by size and version, since reading them all would take long.
    """
    by_content = sum(file.size_bytes for file in files) <= DIGESTED_BYTES

    def identity(file: SourceFile) -> list[str | int]:
        if by_content and not is_object(file):
            return [file.name, _content_digest(file)]
        return [file.name, file.size_bytes, file.version]

    # Threads pay where there is something to read: digests are taken without Python's lock.
    return in_parallel(identity, files) if by_content else [identity(file) for file in files]


def _find_below(root: Path, patterns: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
    wanted, unwanted = _matcher(patterns), _matcher(exclude)
    closed = _matcher([pattern.removesuffix("/**") for pattern in exclude if pattern.endswith("/**")])
    found = []
    for folder, folders, names in os.walk(root):
        below = "" if Path(folder) == root else f"{Path(folder).relative_to(root).as_posix()}/"
        folders[:] = [name for name in folders if not (name.startswith(".") or closed.fullmatch(below + name))]
        for name in names:
            relative = below + name
            if wanted.fullmatch(relative) and not unwanted.fullmatch(relative):
                found.extend(_source_file(relative, os.path.join(folder, name)))
    return sorted(found)


def _find_objects(storage: Storage, patterns: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
    wanted, unwanted = _matcher(patterns), _matcher(exclude)
    found = [
        _source_object(storage, stored)
        for stored in storage.list()
        if wanted.fullmatch(stored.name)
        and not unwanted.fullmatch(stored.name)
        and not any(folder.startswith(".") for folder in stored.name.split("/")[:-1])
    ]
    bucket, _, prefix = storage.uri.removeprefix("s3://").partition("/")
    if found or not prefix:
        return found
    folder, _, name = f"{bucket}/{prefix}".rpartition("/")
    above = open_storage(f"s3://{folder}")
    return [_source_object(above, stored) for stored in above.list(name) if stored.name == name]


def _source_file(name: str, path: str) -> list[SourceFile]:
    """Returns a file as the source knows it; nothing for a pipe or a socket, which to read would wait for ever."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"the file name {path!r} is not UTF-8; rename the file, or `exclude` it") from error
    try:
        status = os.stat(path)
    except OSError:
        return [SourceFile(name, path, 0)]  # A link to nowhere, say; whoever reads it says so.
    return [SourceFile(name, path, status.st_size, str(status.st_mtime_ns))] if stat.S_ISREG(status.st_mode) else []


def _source_object(storage: Storage, stored: ObjectInfo) -> SourceFile:
    return SourceFile(stored.name, storage.uri_of(stored.name), stored.size_bytes, stored.etag)


def _content_digest(file: SourceFile) -> str:
    try:
        with open(file.location, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _matcher(patterns: Sequence[str]) -> re.Pattern[str]:
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]

    return re.compile("|".join(glob_translate(pattern) for pattern in patterns) or r"(?!)")
