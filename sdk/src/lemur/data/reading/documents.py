"""Records of a source as documents, and a tally of what could not be read or was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lemur.data.source import Partition, Record, Source, Unreadable
from lemur.errors import RecipeError
from lemur.recipe.data import CleaningSection

USUAL_MAX_SHARE = CleaningSection().max_unreadable
"""Unreadable records as a share of all that are let pass where the recipe does not say."""
ALWAYS_ALLOWED_UNREADABLE = 10
"""So many may be unreadable in any source, however small."""
_SURELY_TOO_MANY = 1000
"""Where so many of the records so far were unreadable at more than the allowed share, the rest is not waited for."""
_NUM_NAMED = 10
_LONGEST_REASON = 300


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


@dataclass
class Dropped:
    """What one kind of filter left out."""

    num_documents: int = 0
    """Documents."""
    num_bytes: int = 0
    """Their text in UTF-8."""


@dataclass
class Tally:
    """Counts the records of a source, or of one partition of it, and what became of those that are no documents."""

    num_records: int = 0
    """All records."""
    num_empty: int = 0
    """Those whose text is empty."""
    num_unreadable: int = 0
    """Those that cannot be read, or hold nothing of use."""
    first_unreadable: list[Unreadable] = field(default_factory=list)
    """The first ten of them."""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """Documents that did not meet one of the source's filters, by the filter's kind."""

    def read(
        self, source: Source, partition: Partition | None = None, *, max_share: float = USUAL_MAX_SHARE
    ) -> Iterator[Record]:
        """Yields the records that can be read, and counts all.

        Args:
            source: What to read.
            partition: Which part of it; `None` for all.
            max_share: Unreadable records as a share of all that are let pass, in the source as a whole. A partition is
                given up only where it alone is surely too many; `check` judges the tally of all of them.

        Raises:
            RecipeError: Too many are unreadable.
        """
        for record in source.records() if partition is None else source.partition_records(partition):
            self.num_records += 1
            if isinstance(record, Unreadable):
                self.refuse(*record)
            else:
                yield record
            if self.num_unreadable >= _SURELY_TOO_MANY and self.num_unreadable > max_share * self.num_records:
                raise self._too_many(source.name, max_share)
        if partition is None:
            self.check(source.name, max_share)

    def refuse(self, origin: str, reason: str) -> None:
        """Counts a record that is of no use."""
        self.num_unreadable += 1
        if len(self.first_unreadable) < _NUM_NAMED:
            # A reason may quote the record, which can be long and no text at all.
            printable = reason[:_LONGEST_REASON].encode(errors="replace").decode()
            self.first_unreadable.append(Unreadable(origin, printable))

    def drop(self, kind: str, num_bytes: int) -> None:
        """Counts a document that a filter left out."""
        dropped = self.dropped.setdefault(kind, Dropped())
        dropped.num_documents += 1
        dropped.num_bytes += num_bytes

    def merge(self, later: Tally) -> None:
        """Adds the counts of the partition, or partitions, that come after the ones counted here."""
        self.num_records += later.num_records
        self.num_empty += later.num_empty
        self.num_unreadable += later.num_unreadable
        self.first_unreadable = [*self.first_unreadable, *later.first_unreadable][:_NUM_NAMED]
        for kind, more in later.dropped.items():
            dropped = self.dropped.setdefault(kind, Dropped())
            dropped.num_documents += more.num_documents
            dropped.num_bytes += more.num_bytes

    def check(self, source_name: str, max_share: float = USUAL_MAX_SHARE) -> None:
        """Judges a whole source.

        Args:
            source_name: Name of the source.
            max_share: Unreadable records as a share of all that are let pass; ten always are.

        Raises:
            RecipeError: More cannot be read; names the first.
        """
        if self.num_unreadable > max(ALWAYS_ALLOWED_UNREADABLE, max_share * self.num_records):
            raise self._too_many(source_name, max_share)

    def metadata(self) -> dict[str, Any]:
        """Returns the part of a receipt about what is missing from the source."""
        first = [f"{origin}: {reason}" for origin, reason in self.first_unreadable]
        return {
            "unreadable": self.num_unreadable,
            **({"unreadable_first": first} if first else {}),
            **({"dropped": self.to_json()["dropped"]} if self.dropped else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns the tally as a JSON value, for `from_json`."""
        return {
            "records": self.num_records,
            "empty": self.num_empty,
            "unreadable": self.num_unreadable,
            "unreadable_first": [list(unreadable) for unreadable in self.first_unreadable],
            "dropped": {
                kind: {"documents": dropped.num_documents, "bytes": dropped.num_bytes}
                for kind, dropped in self.dropped.items()
            },
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Tally:
        """Returns the tally that `to_json` gave."""
        return cls(
            num_records=value["records"],
            num_empty=value["empty"],
            num_unreadable=value["unreadable"],
            first_unreadable=[Unreadable(*entry) for entry in value["unreadable_first"]],
            dropped={kind: Dropped(entry["documents"], entry["bytes"]) for kind, entry in value["dropped"].items()},
        )

    def _too_many(self, source_name: str, max_share: float) -> RecipeError:
        named = "; ".join(f"{origin} ({reason})" for origin, reason in self.first_unreadable)
        return RecipeError(
            f"source {source_name!r}: {self.num_unreadable:,} of {self.num_records:,} records cannot be read, more "
            f"than the {max_share:.2%} that data.cleaning.max_unreadable lets pass; the first: {named}; mend or leave "
            "out those files"
        )


def read_documents(
    source: Source, tally: Tally, partition: Partition | None = None, *, max_share: float = USUAL_MAX_SHARE
) -> Iterator[Document]:
    """Yields the documents of a source, or of one of its partitions, that meet its filters.

    Args:
        source: What to read.
        tally: Counts every record; for partitions, `check` of their merged tally says whether too many were unreadable.
        partition: Which part of the source; `None` for all.
        max_share: As for `Tally.read`.

    Raises:
        RecipeError: Too many records are unreadable or hold no text.
    """
    filters = source.filters
    for fields, origin in tally.read(source, partition, max_share=max_share):
        text = fields.get("text")
        if not isinstance(text, str):
            tally.refuse(origin, f"no text among the fields {', '.join(fields) or '-'}; see text_field")
            continue
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            tally.refuse(origin, f"half of a surrogate pair at character {error.start:,}")
            continue
        if not encoded:
            tally.num_empty += 1
            continue
        unmet = next((asked.kind for asked in filters if not asked.keeps(text, fields)), None) if filters else None
        if unmet is None:
            yield Document(text, origin, len(encoded), hashlib.sha256(encoded).digest())
        else:
            tally.drop(unmet, len(encoded))
