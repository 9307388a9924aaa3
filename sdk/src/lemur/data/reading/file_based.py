"""Sources that are made of files: on this machine or in object storage, in partitions of whole files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lemur.data.reading.copies import at_hand
from lemur.data.reading.source_files import find_files, identities
from lemur.data.source import Partition, Record, Source, SourceFile, Unreadable
from lemur.errors import RecipeError
from lemur.receipt import digest_of

COMPRESSION_RATIO = 4
"""About how many bytes of text a byte of gzip or Zstandard holds."""
LARGEST_DOCUMENT_BYTES = 64 * 2**20
"""What is larger is no document but a file of another format, and would not fit into a worker's memory."""


class FileBasedSource(Source, abstract=True):
    """A source that is made of files: a variant says which they are and what is in one of them."""

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """Returns the files, in an order that is the same each time.

        Raises:
            RecipeError: There are none.
        """

    @abstractmethod
    def read(self, file: SourceFile) -> Iterator[Record | Unreadable]:
        """Yields the records of one file, in order.

        Args:
            file: The file; its location is a path on this machine, where it may be a temporary copy. Messages and
                origins go by its name.
        """

    def text_bytes(self, files: Sequence[SourceFile]) -> list[int]:
        """Returns about how many bytes of text each file holds, without reading them all."""
        return [file.size_bytes * (COMPRESSION_RATIO if file.name.endswith((".gz", ".zst")) else 1) for file in files]

    def records(self) -> Iterator[Record | Unreadable]:
        """Yields the records of every file."""
        return self._read(self.files())

    def partition_records(self, partition: Partition) -> Iterator[Record | Unreadable]:
        """Yields the records of the partition's files."""
        return self._read(partition.files)

    def fingerprint(self) -> str:
        """Returns a digest of the files: of their content, or where that is over 1 GiB of sizes and times."""
        return digest_of(identities(self.files()))

    def estimated_bytes(self) -> int | None:
        """Returns the size of the files; for compressed ones about the size of what is in them."""
        return sum(self.text_bytes(self.files()))

    def partitions(self, partition_bytes: int) -> list[Partition]:
        """Returns the files in groups of about so much text, in order; a larger file is a group by itself."""
        files = self.files()
        known, sizes = identities(files), self.text_bytes(files)
        return [
            Partition(tuple(files[start:end]), digest_of(known[start:end]), sum(sizes[start:end]))
            for start, end in _groups(sizes, partition_bytes)
        ]

    def _read(self, files: Sequence[SourceFile]) -> Iterator[Record | Unreadable]:
        for file in at_hand(files):
            yield from self.read(file)


class RootedSource(FileBasedSource, abstract=True):
    """A source whose files are found below folders, or below prefixes of object storage."""

    root: str | list[str]
    """Folder that is searched, or one file, or a list of either; relative to where the command runs. `s3://…` names
    a prefix of object storage, or one object."""
    patterns: tuple[str, ...]
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    exclude: tuple[str, ...] = ()
    """Files that are left out, as globs of the same kind; `folder/**` leaves out all below that folder."""

    def files(self) -> list[SourceFile]:
        """Returns the files, sorted by name, one root after another.

        Raises:
            RecipeError: A root is missing, or nothing below it matches.
        """
        roots = [self.root] if isinstance(self.root, str) else self.root
        found: list[SourceFile] = []
        for root in roots:
            below = find_files(root, self.patterns, self.exclude)
            if not below:
                raise RecipeError(f"source {self.name!r} has no files: {self._why_empty(root)}")
            prefix = f"{root.rstrip('/')}/" if len(roots) > 1 else ""
            found.extend(file._replace(name=prefix + file.name) for file in below)
        return found

    def _why_empty(self, root: str) -> str:
        wanted = f"matches {', '.join(self.patterns)}{' and is not excluded' if self.exclude else ''}"
        if "://" in root:
            return f"there is no object {root}, and none below it {wanted}"
        if not Path(root).expanduser().exists():
            return f"root {root} does not exist"
        return f"root {root} exists, but no file below it {wanted}"


def record_of(values: Any, text_field: str, origin: str) -> Record | Unreadable:
    """Returns a row as a record, its text under the name `text`; the row itself is changed to be that."""
    if not isinstance(values, dict):
        return Unreadable(origin, f"{type(values).__name__} where an object belongs")
    if text_field != "text":
        values.pop("text", None)
        if text_field in values:
            values["text"] = values[text_field]
    return Record(values, origin)


def text_file(file: SourceFile) -> Record | Unreadable:
    """Returns a file as one document."""
    if file.size_bytes > LARGEST_DOCUMENT_BYTES:
        return Unreadable(file.name, f"{file.size_bytes:,} bytes, more than one document can have")
    try:
        with open(file.location, "rb") as opened:
            return Record({"text": opened.read().decode()}, file.name)
    except UnicodeDecodeError as error:
        return Unreadable(file.name, f"not UTF-8 at byte {error.start:,}")
    except OSError as error:
        return Unreadable(file.name, error.strerror or str(error))


def _groups(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yields start and end of runs that sum to no more than `most`, or are a single larger one."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield start, index
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)
