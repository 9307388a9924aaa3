"""Text files, each a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveInt

from lemur.data.reading.file_based import RootedSource, text_file
from lemur.data.source import Record, SourceFile, Unreadable


class FilesSource(RootedSource):
    """Files in UTF-8 below a folder: code, Markdown, plain text."""

    kind: Literal["files"]
    patterns: tuple[str, ...] = ("**/*.py", "**/*.md", "**/*.rst", "**/*.txt")
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    max_bytes: PositiveInt | None = None
    """Takes files, in the order of their names, up to so many bytes together; `None` takes all."""

    def files(self) -> list[SourceFile]:
        """Returns the files, sorted by name, up to `max_bytes` together."""
        files = super().files()
        if self.max_bytes is None:
            return files
        total, taken = 0, []
        for file in files:
            total += file.size_bytes
            if total > self.max_bytes:
                break
            taken.append(file)
        return taken

    def read(self, file: SourceFile) -> Iterator[Record | Unreadable]:
        """Yields the file."""
        yield text_file(file)
