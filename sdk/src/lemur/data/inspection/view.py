"""A token mixture on the terminal: tables of its sources, sequences as trees of pieces, documents and their fate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lemur.data.inspection.figures import ALL_SOURCES
from lemur.units import count, digits, percent, size, whole

if TYPE_CHECKING:
    from lemur.data.inspection.figures import SourceFigures
    from lemur.data.inspection.inspecting import Inspection
    from lemur.data.inspection.samples import PieceText, SampleText
    from lemur.data.inspection.search import DocumentFate

_NARROWEST_NAME = 10
"""Eighty columns hold the tables with names of this width; longer ones are folded there."""
_NONE = "\u2013"
_MOST_PIECES = 8
_MOST_STANDINGS = 10
_MOST_UNREADABLE = 3
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_STATES = {
    "kept": ("kept", "green"),
    "heldout": ("held out", "yellow"),
    "duplicate": ("left out: a duplicate", "yellow"),
    "heldout_copy": ("left out: a copy of a held-out document", "yellow"),
    "near_duplicate": ("left out: a near-duplicate", "yellow"),
    "contaminated": ("left out: contaminated", "yellow"),
    "unreadable": ("left out: unreadable", "red"),
}


def render_inspection(inspection: Inspection, console: Console) -> None:
    """Prints an inspection: the mixture, unless documents were asked for; then samples and documents.

    Args:
        inspection: The inspection.
        console: Where to print.
    """
    console.print(_heading(inspection), soft_wrap=True)
    if not inspection.documents:
        together = [inspection.total] if len(inspection.sources) > 1 else []
        rows = [*inspection.sources, *together]
        _title("What it holds", console)
        console.print(_held(rows))
        _note(_meaning(inspection), console)
        _print_left_out(rows, console)
        for source in inspection.sources:
            for line in _details(source):
                _note(line, console)
    for sample in inspection.samples:
        console.print()
        console.print(_sample(sample, inspection))
    for document in inspection.documents:
        console.print()
        console.print(_document(document))


def visible(text: str) -> str:
    """Returns text on one line, its line ends, tabs and control characters as signs that a terminal only shows."""
    return "".join(
        _SIGNS.get(sign, sign if sign.isprintable() else sign.encode("unicode_escape").decode()) for sign in text
    )


def _heading(inspection: Inspection) -> Text:
    text = Text("token mixture ", style="bold")
    text.append(inspection.uri, style="not bold")
    text.append(
        f"\nsequences of {whole(inspection.sequence_length)} tokens, packing {inspection.packing}; vocabulary of "
        f"{whole(inspection.vocab_size)}, documents end with {inspection.end_of_text}; seed {inspection.seed}",
        style="not bold dim",
    )
    return text


def _table(*columns: str) -> Table:
    # The style of the plan's tables.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("source", header_style="dim", overflow="fold", min_width=_NARROWEST_NAME)
    for column in columns:
        table.add_column(column, justify="right", header_style="dim", no_wrap=True)
    return table


def _title(text: str, console: Console) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _note(text: str, console: Console) -> None:
    console.print(Text(f"· {text}", style="dim"))


def _held(rows: list[SourceFigures]) -> Table:
    columns = ("asked", "realised", "epochs", "docu-\nments", "tokens", "sequen-\nces", "padding", "cut")
    table = _table(*columns)
    for row in rows:
        cells = [
            percent(row.requested),
            percent(row.realised),
            digits(row.epochs),
            count(row.documents),
            count(row.tokens),
            count(row.sequences),
            percent(row.padding_share),
            _or_none(row.cut_documents),
        ]
        _add(table, row, cells)
    return table


def _meaning(inspection: Inspection) -> str:
    return (
        f"asked: share of the stream that the recipe wants; realised and epochs: counted over "
        f"{inspection.counted_over}, {count(inspection.counted_sequences, 'sequences')}; cut: documents parted over "
        "sequences"
    )


class _Reason(NamedTuple):
    name: str
    header: str
    """The same in two lines where it is long, so that eight of them fit beside each other."""
    numbers: list[int]
    """Documents, by row."""


def _print_left_out(rows: list[SourceFigures], console: Console) -> None:
    left = [row.left_out for row in rows]
    reasons = [
        _Reason("duplicates", "dupli-\ncates", [one.duplicates for one in left]),
        _Reason("near-duplicates", "near-du-\nplicates", [one.near_duplicates for one in left]),
        _Reason("contaminated", "contam-\ninated", [one.contaminated for one in left]),
        _Reason("filtered", "filtered", [one.filtered for one in left]),
        _Reason("unreadable", "unread-\nable", [one.unreadable for one in left]),
        _Reason("empty", "empty", [one.empty for one in left]),
        _Reason("held out", "held\nout", [one.heldout_documents for one in left]),
        _Reason("copies of held-out ones", "copies\nof such", [one.heldout_copies for one in left]),
    ]
    found = [reason for reason in reasons if any(reason.numbers)]
    if found:
        table = _table(*(reason.header for reason in found))
        for index, row in enumerate(rows):
            _add(table, row, [_or_none(reason.numbers[index]) for reason in found])
        _title("What was left out, in documents", console)
        console.print(table)
    absent = [reason.name for reason in reasons if reason not in found]
    if absent:
        _note(f"none left out: {', '.join(absent)}", console)


def _add(table: Table, row: SourceFigures, cells: list[str]) -> None:
    table.add_row(_name(row), *cells, style="bold" if row.name == ALL_SOURCES else "")


def _name(row: SourceFigures) -> Text:
    # As text, because brackets in a name are no markup.
    name = Text("total" if row.name == ALL_SOURCES else row.name)
    return name.append(f"\n  {row.group}", style="dim") if row.group else name


def _tokens(number: int) -> str:
    return f"{whole(number)} token{'' if number == 1 else 's'}"


def _or_none(number: int) -> str:
    return count(number) if number else _NONE


def _details(source: SourceFigures) -> list[str]:
    left = source.left_out
    lines = [
        f"{source.name}: filter {kind} left out {count(filtered.documents, 'documents')}, {size(filtered.bytes)}"
        for kind, filtered in left.filters.items()
    ]
    if left.heldout_documents:
        lines.append(f"{source.name}: {size(left.heldout_bytes)} of text is held out")
    shown = left.unreadable_first[:_MOST_UNREADABLE]
    lines += [f"{source.name}: unreadable: {visible(first)}" for first in shown]
    if shown and left.unreadable > len(shown):
        lines.append(f"{source.name}: and {whole(left.unreadable - len(shown))} more that are unreadable")
    return lines


def _sample(sample: SampleText, inspection: Inspection) -> Tree:
    label = Text(f"place {whole(sample.place)}", style="bold")
    label.append(f"  {sample.source}, epoch {sample.epoch}, sequence {whole(sample.sequence)}", style="not bold")
    label.append(f"  {sample.pieces[0].documents}", style="not bold dim")
    tree = Tree(label, guide_style="dim")
    for piece in sample.pieces[:_MOST_PIECES]:
        tree.add(_piece(piece, inspection.end_of_text))
    more = sample.pieces[_MOST_PIECES:]
    if more:
        tokens = sum(piece.end_token - piece.first_token for piece in more)
        tree.add(Text(f"{count(len(more), 'more pieces')}, {_tokens(tokens)} (--json names all)", style="dim"))
    if sample.padding_tokens:
        tree.add(Text(f"padding, {_tokens(sample.padding_tokens)}", style="magenta"))
    return tree


def _piece(piece: PieceText, end_of_text: str) -> Text:
    text = Text(piece.origin, style="cyan")
    if piece.is_whole:
        extent = f"whole, {_tokens(piece.document_tokens)}"
    else:
        extent = f"tokens {whole(piece.first_token)} to {whole(piece.end_token)} of {whole(piece.document_tokens)}"
    text.append(f"  row {whole(piece.row)}, {extent}\n", style="dim")
    shown = Text(_dotted(piece.text), style="default")
    if piece.ending:
        shown.append(" … ", style="bold yellow").append(_dotted(piece.ending))
    shown.highlight_regex(rf"[{''.join(_SIGNS.values())}]|·{{2,}}", "dim")
    shown.highlight_regex(re.escape(end_of_text), "magenta")
    return text.append_text(shown)


def _dotted(text: str) -> str:
    """Returns text on one line with indentation as dots, which lines of a terminal cannot hide."""
    return re.sub(" {2,}", lambda spaces: "·" * len(spaces[0]), visible(text))


def _document(document: DocumentFate) -> Text:
    state, style = _STATES[document.state]
    text = Text(document.origin, style="bold cyan")
    text.append(f"  {document.source}\n", style="not bold default")
    text.append(state, style=f"not bold {style}")
    text.append(f": {visible(document.reason)}", style="not bold default")
    if document.documents is not None:
        place = f"\n{document.documents}, row {document.row:,}, {_tokens(document.tokens or 0)}"
        text.append(place, style="not bold dim")
    for standing in document.standings[:_MOST_STANDINGS]:
        text.append(
            f"\n  tokens {whole(standing.first_token)} to {whole(standing.end_token)} in sequence "
            f"{whole(standing.sequence)}, first read at --place {standing.place}",
            style="not bold default",
        )
    more = len(document.standings) - _MOST_STANDINGS
    if more > 0:
        text.append(f"\n  and in {count(more, 'more sequences')} (--json names all)", style="not bold dim")
    return text
