"""The figures of a token mixture by source, from its receipt alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from lemur.mixture import Mixture

ALL_SOURCES = "all sources"
"""Name of the sum, which no source can have."""


class Figures(BaseModel):
    """Base of what an inspection returns."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Filtered(Figures):
    """What one kind of filter left out."""

    documents: int
    """Documents."""
    bytes: int
    """Their text in UTF-8."""


class LeftOut(Figures):
    """Documents of a source that are not trained on, and records that are no documents."""

    duplicates: int
    """Their text stands earlier."""
    near_duplicates: int
    """Something almost the same stands earlier, or is held out."""
    contaminated: int
    """They hold parts of benchmarks."""
    filters: dict[str, Filtered]
    """What did not meet the source's filters, by the filter's kind."""
    unreadable: int
    """Records that cannot be read."""
    unreadable_first: list[str]
    """Where the first of them stand, and why."""
    empty: int
    """Records whose text is empty."""
    heldout_documents: int
    """Kept for measuring."""
    heldout_bytes: int
    """Their text in UTF-8."""
    heldout_copies: int
    """Their text is held out elsewhere."""

    @property
    def filtered(self) -> int:
        """Documents that any filter left out."""
        return sum(filtered.documents for filtered in self.filters.values())


class SourceFigures(Figures):
    """One source of a mixture, or all of them together."""

    name: str
    """Name of the source."""
    group: str | None
    """Its group, where the recipe has groups."""
    requested: float
    """Share of the training stream that the recipe asks for, 0 to 1."""
    realised: float
    """Share of the tokens that a run reads, padding not counted, 0 to 1."""
    read_sequences: int
    """Sequences that the run reads."""
    read_tokens: int
    """Tokens in them, padding not counted; for a pass that is not complete, at the source's mean."""
    epochs: float
    """How often the run goes through the source."""
    partitions: int
    """Partitions it was tokenized in."""
    documents: int
    """Documents in its sequences."""
    tokens: int
    """Tokens in its sequences, padding not counted."""
    bytes: int
    """Text of its documents in UTF-8."""
    sequences: int
    """Sequences."""
    padding_tokens: int
    """Padding in them."""
    cut_documents: int
    """Documents that are parted over sequences."""
    token_lengths: list[int]
    """Entry k: documents of 2**k up to 2**(k + 1) tokens."""
    left_out: LeftOut
    """What is not in it."""

    @property
    def padding_share(self) -> float:
        """Padding as a share of the sequences, 0 to 1."""
        return self.padding_tokens / max(1, self.tokens + self.padding_tokens)


def source_figures(metadata: Mapping[str, Any], num_sequences: int | None = None) -> list[SourceFigures]:
    """Returns the sources of a mixture in the recipe's order.

    Args:
        metadata: Of the mixture's receipt.
        num_sequences: Sequences that a run reads; without it, as many as are stored.
    """
    sources: Mapping[str, Any] = metadata["sources"]
    mixture = Mixture(
        [(name, source["weight"], source["sequences"]) for name, source in sources.items()], metadata["seed"]
    )
    counts = mixture.counts(stored_sequences(metadata) if num_sequences is None else num_sequences)
    read = {name: counts[name] * source["tokens"] / source["sequences"] for name, source in sources.items()}
    all_read = math.fsum(read.values()) or 1.0
    return [
        SourceFigures(
            name=name,
            requested=source["weight"],
            realised=read[name] / all_read,
            read_sequences=counts[name],
            read_tokens=round(read[name]),
            epochs=counts[name] / source["sequences"],
            left_out=_left_out(source),
            **{field: source[field] for field in ("group", "token_lengths", *_COUNTS)},
        )
        for name, source in sources.items()
    ]


def stored_sequences(metadata: Mapping[str, Any]) -> int:
    """Returns how many sequences a mixture holds, from its receipt's metadata."""
    return sum(source["sequences"] for source in metadata["sources"].values())


def total_figures(sources: Sequence[SourceFigures]) -> SourceFigures:
    """Returns all sources together, under the name `ALL_SOURCES`."""
    counts = {field: sum(getattr(source, field) for source in sources) for field in _COUNTS}
    return SourceFigures(
        name=ALL_SOURCES,
        group=None,
        requested=1.0,
        realised=1.0,
        read_sequences=sum(source.read_sequences for source in sources),
        read_tokens=sum(source.read_tokens for source in sources),
        epochs=sum(source.read_sequences for source in sources) / counts["sequences"],
        token_lengths=_summed([source.token_lengths for source in sources]),
        left_out=_all_left_out([source.left_out for source in sources]),
        **counts,
    )


_COUNTS = ("partitions", "documents", "tokens", "bytes", "sequences", "padding_tokens", "cut_documents")
_LEFT_OUT = (
    "duplicates",
    "near_duplicates",
    "contaminated",
    "unreadable",
    "heldout_documents",
    "heldout_bytes",
    "heldout_copies",
)


def _left_out(source: Mapping[str, Any]) -> LeftOut:
    return LeftOut(
        filters=source.get("dropped", {}),
        unreadable_first=source.get("unreadable_first", []),
        empty=source["empty_documents"],
        **{field: source[field] for field in _LEFT_OUT},
    )


def _all_left_out(parts: Sequence[LeftOut]) -> LeftOut:
    filters: dict[str, Filtered] = {}
    for part in parts:
        for kind, more in part.filters.items():
            known = filters.get(kind, Filtered(documents=0, bytes=0))
            filters[kind] = Filtered(documents=known.documents + more.documents, bytes=known.bytes + more.bytes)
    return LeftOut(
        filters=filters,
        unreadable_first=[first for part in parts for first in part.unreadable_first],
        **{field: sum(getattr(part, field) for part in parts) for field in ("empty", *_LEFT_OUT)},
    )


def _summed(histograms: Sequence[Sequence[int]]) -> list[int]:
    longest = max(map(len, histograms), default=0)
    return [sum(one[index] for one in histograms if index < len(one)) for index in range(longest)]
