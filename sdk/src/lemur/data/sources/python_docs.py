"""The documentation that comes with Python and with the packages installed beside this one."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from importlib.metadata import distributions
from typing import Literal

from lemur.data.source import Record, Source
from lemur.receipt import digest_of


class PythonDocsSource(Source):
    """Prose that every machine has, about 2 MB: no part of it is also in `python_stdlib`.

    Two things: the chapters of the language reference that `help()` shows (`pydoc_data.topics`), and the long
    description of each installed package, which most take from their README. Equal Pythons with packages from one
    lock file give equal text.
    """

    kind: Literal["python_docs"]

    def records(self) -> Iterator[Record]:
        """Yields the topics of the reference by name, then the descriptions by name of the package."""
        from pydoc_data.topics import topics

        for name, text in sorted(topics.items()):
            yield Record({"text": text}, origin=f"pydoc_data.topics#{name}")
        for name, text in sorted(_descriptions().items()):
            yield Record({"text": text}, origin=f"METADATA#{name}")

    def fingerprint(self) -> str:
        """Returns a digest of all texts."""
        return digest_of([hashlib.sha256(record.fields["text"].encode()).hexdigest() for record in self.records()])

    def estimated_bytes(self) -> int:
        """Returns the size of all texts."""
        return sum(len(record.fields["text"].encode()) for record in self.records())


@functools.cache
def _descriptions() -> dict[str, str]:
    """Returns the long description of each installed package that has one, the project's own left out."""
    found: dict[str, str] = {}
    for distribution in distributions():
        metadata = distribution.metadata
        text = metadata["Description"].strip() if "Description" in metadata else ""
        if text and text != "UNKNOWN" and metadata["Name"] != "lemur":
            found.setdefault(metadata["Name"].lower(), text + "\n")
    return found
