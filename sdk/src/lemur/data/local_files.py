"""Sources that are files on this machine: which files, how large, and whether they have changed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lemur.data.source import Record, Source, Unreadable
from lemur.errors import RecipeError
from lemur.receipt import digest_of

DIGESTED_BYTES = 2**30
"""Files up to this size together are known by their content, larger collections by names, sizes and times."""
COMPRESSION_RATIO = 4
"""About how many bytes of text a byte of gzip or Zstandard holds."""


class FoundFile(NamedTuple):
    """One file of a source."""

    name: str
    """Path below the source's root, with forward slashes: the same on every machine."""
    path: Path
    """Where it is."""


class LocalSource(Source, abstract=True):
    """A source that is made of files."""

    root: str | list[str]
    """Folder that is searched, or one file, or a list of either; relative to where the command runs."""
    patterns: tuple[str, ...]
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    exclude: tuple[str, ...] = ()
    """Files that are left out, as globs of the same kind; `folder/**` leaves out all below that folder."""

    def files(self) -> list[FoundFile]:
        """Returns the files, sorted by name.

        Raises:
            RecipeError: A root is missing, or nothing below it matches.
        """
        roots = [self.root] if isinstance(self.root, str) else self.root
        found: list[FoundFile] = []
        for root in roots:
            below = find_files(Path(root).expanduser(), self.patterns, self.exclude)
            prefix = f"{root.rstrip('/')}/" if len(roots) > 1 else ""
            found.extend(FoundFile(prefix + file.name, file.path) for file in below)
        if not found:
            missing = [root for root in roots if not Path(root).expanduser().exists()]
            why = f"{missing[0]} does not exist" if missing else f"no file below it matches {', '.join(self.patterns)}"
            raise RecipeError(f"source {self.name!r} has no files: root {', '.join(roots)}, but {why}")
        return found

    def fingerprint(self) -> str:
        """Returns a digest of the files: of their content, or where that is over 1 GiB of sizes and times."""
        return files_digest(self.files())

    def estimated_bytes(self) -> int | None:
        """Returns the size of the files; for compressed ones about the size of what is in them."""
        return sum(
            file.path.stat().st_size * (COMPRESSION_RATIO if file.path.suffix in (".gz", ".zst") else 1)
            for file in self.files()
        )


def find_files(root: Path, patterns: Sequence[str], exclude: Sequence[str]) -> list[FoundFile]:
    """Returns the files below a folder that match a pattern and no exclusion, sorted by name.

    Hidden folders and links to folders are not entered. A root that is a file is returned as it is.
    """
    if root.is_file():
        return [FoundFile(root.name, root)]
    wanted, unwanted = _matcher(patterns), _matcher(exclude)
    closed = _matcher([pattern.removesuffix("/**") for pattern in exclude if pattern.endswith("/**")])
    found = []
    for folder, folders, names in os.walk(root):
        below = "" if Path(folder) == root else f"{Path(folder).relative_to(root).as_posix()}/"
        folders[:] = [name for name in folders if not (name.startswith(".") or closed.fullmatch(below + name))]
        for name in names:
            relative = below + name
            if wanted.fullmatch(relative) and not unwanted.fullmatch(relative):
                found.append(FoundFile(relative, Path(folder, name)))
    return sorted(found)


def files_digest(files: Iterable[FoundFile]) -> str:
    """Returns the SHA-256 over names and contents, or names, sizes and times where there are over 1 GiB."""
    sizes = {file: file.path.stat() for file in files}
    by_content = sum(status.st_size for status in sizes.values()) <= DIGESTED_BYTES
    entries: list[list[str | int]] = []
    for file, status in sizes.items():
        if by_content:
            with file.path.open("rb") as opened:
                entries.append([file.name, hashlib.file_digest(opened, "sha256").hexdigest()])
        else:
            entries.append([file.name, status.st_size, status.st_mtime_ns])
    return digest_of(entries)


def text_files(files: Iterable[FoundFile]) -> Iterator[Record | Unreadable]:
    """Yields each file as one document."""
    for file in files:
        try:
            yield Record({"text": file.path.read_bytes().decode()}, origin=file.name)
        except UnicodeDecodeError as error:
            yield Unreadable(file.name, f"not UTF-8 at byte {error.start:,}")
        except OSError as error:
            yield Unreadable(file.name, error.strerror or str(error))


def record_of(values: Any, text_field: str, origin: str) -> Record | Unreadable:
    """Returns a row as a record, its text under the name `text`."""
    if not isinstance(values, dict):
        return Unreadable(origin, f"{type(values).__name__} where an object belongs")
    fields = {name: value for name, value in values.items() if name != "text"}
    return Record({**fields, "text": values[text_field]} if text_field in values else fields, origin)


def _matcher(patterns: Sequence[str]) -> re.Pattern[str]:
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]

    return re.compile("|".join(glob_translate(pattern) for pattern in patterns) or r"(?!)")
