"""The standard library of the Python that runs: code that every machine has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from typing import Literal

from lemur.data.reading.file_based import FileBasedSource, text_file
from lemur.data.reading.source_files import find_files
from lemur.data.source import Record, SourceFile, Unreadable


class PythonStdlibSource(FileBasedSource):
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

    def files(self) -> list[SourceFile]:
        """Returns the modules, sorted by name."""
        return find_files(sysconfig.get_path("stdlib"), ["**/*.py"], self.exclude)

    def read(self, file: SourceFile) -> Iterator[Record | Unreadable]:
        """Yields the module."""
        yield text_file(file)
