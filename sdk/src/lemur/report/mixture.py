"""How a report shows what a model read: the sources of its mixture, what was left out of them, and the dialogues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from lemur import units
from lemur.data.inspection.figures import SourceFigures, source_figures, total_figures
from lemur.report.charts import LengthChart
from lemur.report.contents import Contents

_CHART = (340, 190)
_FIRST_CHARTS = 6
"""Charts that are shown at once; those of further sources are folded away."""


class SourceRow(NamedTuple):
    """One source of the mixture."""

    name: str
    group: str
    asked: float
    """Share of the training stream that the recipe asks for, 0 to 1."""
    realised: float
    """Share of the tokens that are read, padding not counted, 0 to 1."""
    stored: float
    """Share of all stored tokens."""
    documents: str
    tokens: str
    size: str
    read: str
    """Tokens of it that are read, and how often it is gone through."""
    cut: str
    """Documents that are parted over sequences."""
    padding: str
    """Padding as a share of its sequences."""


class LeftOutRow(NamedTuple):
    """What was left out of one source."""

    name: str
    duplicates: str
    near_duplicates: str
    contaminated: str
    filtered: str
    filters: str
    """The same by filter, where there are any."""
    unreadable: str
    empty: str
    heldout: str
    heldout_size: str
    heldout_copies: str


class LengthCard(NamedTuple):
    """The lengths of a source's documents."""

    title: str
    note: str
    chart: Markup


class MixtureView(NamedTuple):
    """The pretraining mixture."""

    counted_over: str
    """Whose tokens the realised shares are of: goes on from `the tokens that`."""
    sources: list[SourceRow]
    left_out: list[LeftOutRow]
    lengths: list[LengthCard]
    more_lengths: list[LengthCard]
    sequence_length: str
    unreadable: list[str]
    """The first records that cannot be read, a line each."""


def mixture_view(contents: Contents, plan: Mapping[str, Any] | None) -> MixtureView | None:
    """Returns the mixture, sources with the largest share first; `None` where the run made none.

    Args:
        contents: The run's results.
        plan: The plan as JSON, which says what a run would have read that did not get that far.
    """
    tokens = contents.receipts.get("tokens")
    if tokens is None:
        return None
    length = tokens.metadata["sequence_length"]
    num_sequences, counted_over = _counted(contents, plan, length)
    figures = sorted(source_figures(tokens.metadata, num_sequences), key=lambda source: -source.requested)
    total = total_figures(figures)
    together = [total] if len(figures) > 1 else []
    cards = [_length_card(source, length) for source in [*together, *figures]]
    return MixtureView(
        counted_over,
        sources=[_source_row(source, total) for source in figures],
        left_out=[_left_out_row(source) for source in [*figures, *together]],
        lengths=cards[:_FIRST_CHARTS],
        more_lengths=cards[_FIRST_CHARTS:],
        sequence_length=units.whole(length),
        unreadable=[f"{source.name}: {first}" for source in figures for first in source.left_out.unreadable_first],
    )


def dialogue_rows(contents: Contents) -> list[tuple[str, str, str, str]]:
    """Returns name, dialogues, dialogues in an epoch and unreadable records of each source of dialogues."""
    receipt = contents.receipts.get("dialogues")
    sources: Mapping[str, Any] = receipt.metadata.get("sources", {}) if receipt else {}
    return [
        (
            name,
            units.whole(source["dialogues"]),
            units.whole(source["repeated"]),
            units.whole(source.get("unreadable", 0)),
        )
        for name, source in sources.items()
    ]


def _counted(contents: Contents, plan: Mapping[str, Any] | None, sequence_length: int) -> tuple[int | None, str]:
    """Returns the sequences that realised shares are counted over, and whose they are."""
    base = contents.receipts.get("base")
    if base and "tokens" in base.metadata:
        return round(base.metadata["tokens"] / sequence_length), "pretraining read"
    planned = plan.get("pretrain", {}).get("num_sequences") if plan else None
    if planned:
        return planned, "pretraining was to read"
    return None, "as many sequences as are stored hold"


def _source_row(source: SourceFigures, total: SourceFigures) -> SourceRow:
    return SourceRow(
        source.name,
        source.group or "",
        source.requested,
        source.realised,
        source.tokens / max(1, total.tokens),
        documents=units.whole(source.documents),
        tokens=units.whole(source.tokens),
        size=units.size(source.bytes),
        read=f"{units.count(source.read_tokens)} ({units.digits(source.epochs, 2)}\u00d7)",
        cut=units.whole(source.cut_documents),
        padding=units.percent(source.padding_share),
    )


def _left_out_row(source: SourceFigures) -> LeftOutRow:
    left = source.left_out
    return LeftOutRow(
        source.name,
        duplicates=units.whole(left.duplicates),
        near_duplicates=units.whole(left.near_duplicates),
        contaminated=units.whole(left.contaminated),
        filtered=units.whole(left.filtered),
        filters=", ".join(f"{kind} {units.whole(filtered.documents)}" for kind, filtered in left.filters.items()),
        unreadable=units.whole(left.unreadable),
        empty=units.whole(left.empty),
        heldout=units.whole(left.heldout_documents),
        heldout_size=units.size(left.heldout_bytes),
        heldout_copies=units.whole(left.heldout_copies),
    )


def _length_card(source: SourceFigures, sequence_length: int) -> LengthCard:
    chart = LengthChart(counts=source.token_lengths, sequence_length=sequence_length)
    mean = units.count(source.tokens / max(1, source.documents), "tokens")
    note = f"{units.count(source.documents, 'documents')}, {mean} in the mean"
    return LengthCard(source.name, note, chart.svg(*_CHART))
