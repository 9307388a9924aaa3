"""JSON objects, one a line: plain, gzip or Zstandard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

from lemur.data.compressed import lines
from lemur.data.local_files import FoundFile, LocalSource, record_of
from lemur.data.source import Record, Unreadable


class JsonlSource(LocalSource):
    """Documents, or dialogues with `messages` or with `prompt` and `completion`, as lines of JSON."""

    kind: Literal["jsonl"]
    patterns: tuple[str, ...] = ("**/*.jsonl", "**/*.jsonl.gz", "**/*.jsonl.zst")
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    text_field: str = "text"
    """Key of a document's text."""

    def records(self) -> Iterator[Record | Unreadable]:
        """Yields each line that is not blank; a compressed file that breaks off ends with one unreadable record."""
        for file in self.files():
            yield from self._records(file)

    def _records(self, file: FoundFile) -> Iterator[Record | Unreadable]:
        number = 0
        try:
            for number, line in enumerate(lines(file.path), start=1):
                if not line.isspace() and line:
                    yield self._record(line, f"{file.name}:{number}")
        except EOFError as error:
            yield Unreadable(f"{file.name}:{number + 1}", str(error))

    def _record(self, line: bytes, origin: str) -> Record | Unreadable:
        try:
            return record_of(json.loads(line.decode()), self.text_field, origin)
        except UnicodeDecodeError as error:
            return Unreadable(origin, f"not UTF-8 at byte {error.start:,} of the line")
        except (json.JSONDecodeError, RecursionError) as error:
            return Unreadable(origin, f"not JSON: {error}")
