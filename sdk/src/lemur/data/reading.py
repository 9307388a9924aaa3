"""Records of a source as documents, and what could not be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from lemur.data.source import Record, Source, Unreadable
from lemur.errors import RecipeError

MAX_UNREADABLE_SHARE = 0.001
"""Unreadable records of a source, as a share of all, beyond which a run stops."""
ALWAYS_ALLOWED_UNREADABLE = 10
"""So many may be unreadable in any source, however small."""
_SURELY_TOO_MANY = 1000
"""Where so many of the records so far were unreadable at more than the allowed share, the rest is not waited for."""
_NUM_NAMED = 10


class Document(NamedTuple):
    """One text that the model may read."""

    text: str
    """The text, never empty."""
    origin: str
    """Where it stands in its source."""
    num_bytes: int
    """Its length in UTF-8."""
    digest: bytes
    """SHA-256 of its UTF-8 bytes; equal texts are one document, wherever they stand."""


class Tally:
    """Counts a source's records and what was wrong with some of them.

    Args:
        source: Name of the source, for errors.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.num_records = 0
        self.num_empty = 0
        self.num_unreadable = 0
        self.first_unreadable: list[Unreadable] = []

    def read(self, source: Source) -> Iterator[Record]:
        """Yields the records that can be read, and counts all.

        Raises:
            RecipeError: Too many cannot.
        """
        for record in source.records():
            self.num_records += 1
            if isinstance(record, Unreadable):
                self.refuse(record.origin, record.reason)
            else:
                yield record
        if self.num_unreadable > max(ALWAYS_ALLOWED_UNREADABLE, self._allowed()):
            raise self._too_many()

    def refuse(self, origin: str, reason: str) -> None:
        """Counts a record that is of no use.

        Raises:
            RecipeError: They are so many already that reading on is pointless.
        """
        self.num_unreadable += 1
        if len(self.first_unreadable) < _NUM_NAMED:
            self.first_unreadable.append(Unreadable(origin, reason))
        if self.num_unreadable >= _SURELY_TOO_MANY and self.num_unreadable > self._allowed():
            raise self._too_many()

    def metadata(self) -> dict[str, Any]:
        """Returns the part of a receipt about what could not be read."""
        first = [f"{origin}: {reason}" for origin, reason in self.first_unreadable]
        return {"unreadable": self.num_unreadable, **({"unreadable_first": first} if first else {})}

    def _allowed(self) -> float:
        return self.num_records * MAX_UNREADABLE_SHARE

    def _too_many(self) -> RecipeError:
        named = "; ".join(f"{origin} ({reason})" for origin, reason in self.first_unreadable)
        return RecipeError(
            f"source {self.source!r}: {self.num_unreadable:,} of {self.num_records:,} records cannot be read, more "
            f"than the {MAX_UNREADABLE_SHARE:.1%} that is let pass; the first: {named}; mend or leave out those files"
        )


def read_documents(source: Source, tally: Tally) -> Iterator[Document]:
    """Yields the documents of a source; empty ones are counted and left out.

    Raises:
        RecipeError: Too many records are unreadable or hold no text.
    """
    for record in tally.read(source):
        text = record.fields.get("text")
        if not isinstance(text, str):
            tally.refuse(record.origin, f"no text among the fields {', '.join(record.fields) or '-'}; see text_field")
            continue
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            tally.refuse(record.origin, f"half of a surrogate pair at character {error.start:,}")
            continue
        if encoded:
            yield Document(text, record.origin, len(encoded), hashlib.sha256(encoded).digest())
        else:
            tally.num_empty += 1
