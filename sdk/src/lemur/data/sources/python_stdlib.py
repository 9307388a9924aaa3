"""The standard library of the Python that runs: code that every machine has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lemur.data.local_files import FoundFile, files_digest, find_files, text_files
from lemur.data.source import Record, Source, Unreadable


class PythonStdlibSource(Source):
    """Modules of the standard library, about 10 MB in Python 3.11; its documentation is `python_docs`."""

    kind: Literal["python_stdlib"]
    exclude: tuple[str, ...] = (
        "**/test/**",
        "**/tests/**",
        "**/idle_test/**",
        "encodings/**",
        "pydoc_data/**",
        "site-packages/**",
        "dist-packages/**",
        "**/_sysconfigdata*",
    )
    """Modules that are left out, as globs: tests, tables of characters and addresses, text in Python's clothes (which
    `python_docs` reads), and what was installed later."""

    def files(self) -> list[FoundFile]:
        """Returns the modules, sorted by name."""
        return find_files(Path(sysconfig.get_path("stdlib")), ["**/*.py"], self.exclude)

    def records(self) -> Iterator[Record | Unreadable]:
        """Yields each module."""
        return text_files(self.files())

    def fingerprint(self) -> str:
        """Returns a digest of the modules' content."""
        return files_digest(self.files())

    def estimated_bytes(self) -> int:
        """Returns the size of the modules."""
        return sum(file.path.stat().st_size for file in self.files())
