"""What every source of documents or dialogues has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints

from lemur.plugins import OneOf, Plugin

if TYPE_CHECKING:
    from lemur.data.filter import Filter
else:
    Filter = Annotated[Any, OneOf("lemur.data.filters")]

SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][-A-Za-z0-9._+]{0,99}$")]
"""Letters, digits, dots, dashes, underscores and plus signs, since it names a folder."""

DIALOGUE_FIELDS = ("messages", "prompt", "completion", "tools")
"""Fields that a dialogue can have; each but the last makes a record one."""


class Record(NamedTuple):
    """One record as it stands in a source."""

    fields: dict[str, Any]
    """The record's values: `text` for a document; `messages`, or `prompt` and `completion`, for a dialogue."""
    origin: str
    """Where it stands, for messages and provenance: `path`, `path:line` or `dataset#row`."""


class Unreadable(NamedTuple):
    """A record that cannot be read; it is counted, and too many of them stop the run."""

    origin: str
    """Where it stands, as for a record."""
    reason: str
    """What is wrong with it."""


class SourceFile(NamedTuple):
    """One file of a source."""

    name: str
    """Path below the source's root, with forward slashes: the same on every machine. Origins begin with it."""
    location: str
    """Where it is: an absolute path, or the URI of an object (`s3://…`)."""
    size_bytes: int
    """Its size as stored."""
    version: str = ""
    """What is another when the content is: the time of the last change (nanoseconds), or an object's ETag."""


class Partition(NamedTuple):
    """A part of a source that is read and tokenized by itself."""

    files: tuple[SourceFile, ...]
    """The files it is made of; none where the source is not made of files, and this is all of it."""
    fingerprint: str
    """Digest that changes when its records do."""
    estimated_bytes: int | None
    """About how many bytes of text it holds; `None` where that is not known."""


class Source(Plugin, abstract=True):
    """A named collection of records, and its share in a mixture."""

    name: SourceName
    """Name in plans, receipts and reports, and of its folder in storage."""
    group: str | None = None
    """Group whose weight this source shares in; `None` where the recipe has no groups."""
    weight: PositiveFloat = 1.0
    """Share within the group, relative to the other sources in it; need not sum to one."""
    max_epochs: PositiveFloat | None = None
    """How often its tokens may be read at most; a run that needs more is refused. `None` sets no limit."""
    available_tokens: PositiveInt | None = None
    """How many tokens the source holds, as far as the author of the recipe knows, so that a plan can be made
    where the data is not at hand; `None` lets the plan estimate it from the bytes it finds."""
    available_records: PositiveInt | None = None
    """How many records the source holds, as far as the author of the recipe knows; for dialogues a plan takes the
    number of steps from it. `None` lets the plan count them where they are at hand."""
    filters: list[Filter] = Field(default_factory=list)
    """Conditions that a document must meet, asked in this order; the first that is not met counts it."""

    @abstractmethod
    def records(self) -> Iterator[Record | Unreadable]:
        """Yields every record, in an order that is the same each time, and what stands where none can be read.

        Raises:
            RecipeError: Nothing matches, or a file is not of the source's format; names the source and file.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Returns a digest that changes when the records do: part of the key of what is made from them."""

    @abstractmethod
    def estimated_bytes(self) -> int | None:
        """Returns about how many bytes of text the source holds, cheaply; `None` where that is not known."""

    def partitions(self, partition_bytes: int) -> list[Partition]:
        """Returns the parts that are tokenized each by itself; read one after another they are the source.

        Args:
            partition_bytes: Text in one partition, as nearly as whole files allow.
        """
        return [Partition((), self.fingerprint(), self.estimated_bytes())]

    def partition_records(self, partition: Partition) -> Iterator[Record | Unreadable]:
        """Yields the records of one partition; as `records` does for all of them."""
        return self.records()
