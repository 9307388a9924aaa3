"""Rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from lemur.data.local_files import FoundFile, LocalSource, record_of
from lemur.data.source import DIALOGUE_FIELDS, Record, Unreadable
from lemur.errors import RecipeError

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

_BATCH_ROWS = 1024


class ParquetSource(LocalSource):
    """Documents, or dialogues with `messages` or with `prompt` and `completion`, as rows; streamed, never whole."""

    kind: Literal["parquet"]
    patterns: tuple[str, ...] = ("**/*.parquet",)
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    text_field: str = "text"
    """Column of a document's text."""

    def records(self) -> Iterator[Record | Unreadable]:
        """Yields each row; a file that breaks off gives one unreadable record.

        Raises:
            RecipeError: A file is not Parquet, or has no column of text or dialogues.
        """
        for file in self.files():
            yield from self._records(file)

    def estimated_bytes(self) -> int:
        """Returns the uncompressed size of the columns that are read, from the files' own metadata."""
        return sum(self._text_bytes(file) for file in self.files())

    def _records(self, file: FoundFile) -> Iterator[Record | Unreadable]:
        row = 0
        try:
            opened = _open(file)
            for batch in opened.iter_batches(batch_size=_BATCH_ROWS, columns=self._columns(file, opened)):
                for values in _rows(batch):
                    origin = f"{file.name}#{row}"
                    row += 1
                    if isinstance(values, UnicodeDecodeError):
                        yield Unreadable(origin, f"not UTF-8 at byte {values.start:,}")
                    else:
                        yield record_of(values, self.text_field, origin)
        except OSError as error:
            yield Unreadable(f"{file.name}#{row}", f"Parquet is damaged or breaks off: {error}")

    def _columns(self, file: FoundFile, opened: ParquetFile) -> list[str]:
        present: list[str] = opened.schema_arrow.names
        columns = [name for name in present if name in (self.text_field, *DIALOGUE_FIELDS)]
        if not columns:
            raise RecipeError(
                f"source {self.name!r}: {file.name} has no column {self.text_field!r}, and none of "
                f"{', '.join(DIALOGUE_FIELDS)}; it has {', '.join(present)}; set text_field"
            )
        return columns

    def _text_bytes(self, file: FoundFile) -> int:
        try:
            opened = _open(file)
        except OSError:
            return 0
        columns = self._columns(file, opened)
        groups = [opened.metadata.row_group(index) for index in range(opened.metadata.num_row_groups)]
        parts = [group.column(index) for group in groups for index in range(group.num_columns)]
        return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)


def _open(file: FoundFile) -> ParquetFile:
    """Opens a file.

    Raises:
        RecipeError: It does not begin as Parquet does.
        OSError: It is Parquet, but damaged or cut off.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    with file.path.open("rb") as opened:
        if opened.read(4) != b"PAR1":
            raise RecipeError(f"{file.path} is no Parquet file; rename it, or leave it out with `exclude`")
    try:
        return ParquetFile(file.path)
    except ArrowInvalid as error:
        raise OSError(str(error)) from error


def _rows(batch: RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Yields each row, or why it is no text; row by row only where the batch has one of those."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield from batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield error
