"""JSON objects, one a line: plain, gzip or Zstandard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lemur.data.reading.compressed import LONGEST_LINE_BYTES, lines
from lemur.data.reading.file_based import RootedSource, record_of
from lemur.data.source import Record, SourceFile, Unreadable


class JsonlSource(RootedSource):
    """Documents, or dialogues with `messages` or with `prompt` and `completion`, as lines of JSON."""

    kind: Literal["jsonl"]
    patterns: tuple[str, ...] = ("**/*.jsonl", "**/*.jsonl.gz", "**/*.jsonl.zst")
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    text_field: str = "text"
    """Key of a document's text."""

    def read(self, file: SourceFile) -> Iterator[Record | Unreadable]:
        """Yields each line that is not blank; a file that breaks off ends with one unreadable record."""
        from orjson import JSONDecodeError, loads

        number = 0
        try:
            for number, line in enumerate(lines(Path(file.location), file.name), start=1):
                if not line or line.isspace():
                    continue
                origin = f"{file.name}:{number}"
                try:
                    values = loads(line)
                except JSONDecodeError:
                    values = _parsed(line, origin)
                yield values if isinstance(values, Unreadable) else record_of(values, self.text_field, origin)
        except EOFError as error:
            yield Unreadable(f"{file.name}:{number + 1}", str(error))


def _parsed(line: bytes, origin: str) -> Any:
    """Parses what orjson refuses: Python's own parser takes NaN, and says more of what is wrong."""
    if len(line) == LONGEST_LINE_BYTES:
        return Unreadable(origin, f"longer than {LONGEST_LINE_BYTES:,} bytes")
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Unreadable(origin, f"not UTF-8 at byte {error.start:,} of the line")
    except (ValueError, RecursionError) as error:
        return Unreadable(origin, f"not JSON: {error}")
