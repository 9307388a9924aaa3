"""Storage in a folder: `file://`."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from lemur.errors import StorageError
from lemur.receipt import StoredObject
from lemur.storage.base import (
    CHUNK_BYTES,
    PARTIAL_PREFIX,
    ObjectInfo,
    Storage,
    byte_counter,
    checked_name,
    checked_prefix,
    is_manifest,
)
from lemur.storage.file_copy import copy_file
from lemur.storage.integrity import HashingReader, check_content, cut_short, describe, missing, wrong_size

_FULL = (errno.ENOSPC, errno.EDQUOT)


class FileStorage(Storage):
    """Objects as files below a folder, which is made when the first one is written.

    Args:
        folder: Absolute path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = folder.as_uri()

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file."""
        with self._opened(name) as file:
            return file.read()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Returns a part of a file."""
        with self._opened(name) as file:
            data = os.pread(file.fileno(), length, start)
        if len(data) != length:
            raise cut_short(self.uri_of(name), start, length, len(data))
        return data

    def write(self, name: str, data: bytes) -> StoredObject:
        """Writes a file."""
        with new_file(self._path(name), len(data)) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        return describe(name, data)

    def upload(
        self, name: str, path: Path, *, on_bytes: Callable[[int], None] | None = None, move: bool = False
    ) -> StoredObject:
        """Copies a file into the folder, or moves it there where it is on the same file system."""
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            with byte_counter(f"store {name}", size_bytes, on_bytes) as count_bytes:
                if move and self._same_file_system(path):
                    return self._take_over(name, path, file, count_bytes)
                with new_file(self._path(name), size_bytes) as target:
                    return copy_file(file, target, name, size_bytes, count_bytes, durable=True)

    def download(
        self,
        name: str,
        path: Path,
        expected: StoredObject | None = None,
        *,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Copies a file out of the folder."""
        with self._opened(name) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if expected and size_bytes != expected.size_bytes:
                raise wrong_size(self.uri_of(name), size_bytes, expected.size_bytes)
            counter = byte_counter(f"copy {name}", size_bytes, on_bytes)
            with counter as count_bytes, new_file(path, size_bytes, durable=False) as target:
                found = copy_file(file, target, name, size_bytes, count_bytes, durable=False)
                if expected:
                    check_content(self.uri_of(name), found, expected)

    def exists(self, name: str) -> bool:
        """Tells whether the file exists."""
        path = self._path(name)
        with _explained(self.uri_of(name), 0, self.folder):
            return path.is_file()

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Walks the folder; files that are being written are left out."""
        start = self._folder(prefix)
        with _explained(self.uri_of(prefix), 0, self.folder):
            paths = [start] if start.is_file() else _files_below(start)
            # A file that is deleted while the folder is walked is no longer one of its objects.
            sizes = {path: status.st_size for path in paths if (status := _status(path))}
        found = [ObjectInfo(path.relative_to(self.folder).as_posix(), size) for path, size in sizes.items()]
        return sorted(found, key=lambda stored: stored.name)

    def delete(self, prefix: str = "") -> None:
        """Deletes files, then the folders that held them."""
        with _explained(self.uri_of(prefix), 0, self.folder):
            for stored in self.list(prefix):
                if is_manifest(stored.name):
                    self._path(stored.name).unlink(missing_ok=True)
            start = self._folder(prefix)
            if start.is_dir():
                shutil.rmtree(start)
            else:
                start.unlink(missing_ok=True)

    def keep_only(self, names: AbstractSet[str]) -> None:
        """Deletes other files, and unfinished ones that no living process is writing."""
        super().keep_only(names)
        for partial in self.folder.rglob(f"{PARTIAL_PREFIX}*"):
            try:
                file = partial.open("rb")
            except FileNotFoundError:
                continue  # Finished or given up meanwhile.
            with file:
                if _locked(file):
                    partial.unlink(missing_ok=True)

    def at(self, prefix: str) -> FileStorage:
        """Returns the storage in a folder below."""
        return FileStorage(self._folder(prefix))

    def uri_of(self, name: str) -> str:
        """Returns the `file://` URI of a file."""
        return self._folder(name).as_uri()

    def local_path(self, name: str = "") -> Path:
        """Returns the path of the file."""
        return self._folder(name)

    def _path(self, name: str) -> Path:
        return self.folder / checked_name(name)

    def _folder(self, prefix: str) -> Path:
        return self.folder / checked_prefix(prefix)

    @contextmanager
    def _opened(self, name: str) -> Iterator[BinaryIO]:
        try:
            file = self._path(name).open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise missing(self.uri_of(name)) from error
        except OSError as error:
            raise StorageError(f"{self.uri_of(name)} cannot be read: {error.strerror}") from error
        with file:
            yield file

    def _same_file_system(self, path: Path) -> bool:
        existing = next(parent for parent in (self.folder, *self.folder.parents) if parent.exists())
        return existing.stat().st_dev == path.stat().st_dev

    def _take_over(self, name: str, path: Path, file: BinaryIO, on_bytes: Callable[[int], None]) -> StoredObject:
        target = self._path(name)
        with _explained(self.uri_of(name), 0, self.folder):
            reader = HashingReader(file, on_bytes)
            with ThreadPoolExecutor(1) as pool:
                synced = pool.submit(os.fsync, file.fileno())
                while reader.read(CHUNK_BYTES):
                    pass
                synced.result()
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            _sync_folder(target.parent)
        return reader.stored_object(name)


@contextmanager
def new_file(path: Path, size_bytes: int, *, durable: bool = True) -> Iterator[io.FileIO]:
    """Opens a file for writing that takes its name only when all of it is there.

    Args:
        path: The name in the end; its folders are made.
        size_bytes: How large it will be; refused at once where the disk has less room.
        durable: Whether it must outlast a power failure; a copy that is verified when it is used need not.

    Raises:
        StorageError: The disk is full or refuses; what was written is removed.
    """
    uri = path.absolute().as_uri()
    with _explained(uri, size_bytes, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
        try:
            with partial.open("x+b", buffering=0) as file:
                # The lock ends with the process, however it ends: so is an abandoned file known from a growing one.
                _locked(file)
                yield file
                if durable:
                    os.fsync(file.fileno())
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(path.parent)


def _locked(file: IO[bytes]) -> bool:
    """Tells whether this process has the lock of a file now; on a file system without locks none ever has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _files_below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    walked = os.walk(folder, onerror=refuse)
    return [Path(parent, file) for parent, _, files in walked for file in files if not file.startswith(PARTIAL_PREFIX)]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(uri: str, size_bytes: int, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
            free_bytes = shutil.disk_usage(existing).free
            raise StorageError(
                f"{uri} does not fit: it needs {size_bytes:,} bytes and {folder} has {free_bytes:,} free; "
                "make room or name another storage, then run again"
            ) from error
        raise StorageError(
            f"{uri} cannot be used: {error.strerror} ({error.filename or folder}); "
            "check the folder's permissions or name another storage, then run again"
        ) from error
