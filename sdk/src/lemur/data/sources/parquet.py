"""Rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from lemur.data.reading.file_based import RootedSource, record_of
from lemur.data.reading.source_files import cannot_be_read, is_object
from lemur.data.source import DIALOGUE_FIELDS, Record, SourceFile, Unreadable
from lemur.errors import RecipeError

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import FileMetaData, ParquetFile

_BATCH_BYTES = 4 * 2**20
_MAX_BATCH_ROWS = 8192
_READ_AHEAD_BYTES = 2**20
_NUM_SAMPLED_FILES = 8
_USUAL_RATIO = 3
"""About how many bytes of text a byte of Parquet holds, where no file is at hand to say it."""


class ParquetSource(RootedSource):
    """Documents, or dialogues with `messages` or with `prompt` and `completion`, as rows; streamed, never whole."""

    kind: Literal["parquet"]
    patterns: tuple[str, ...] = ("**/*.parquet",)
    """Files below a folder that are taken, as globs: `*` within a name, `**/` for any folders."""
    text_field: str = "text"
    """Column of a document's text."""

    def read(self, file: SourceFile) -> Iterator[Record | Unreadable]:
        """Yields each row; a file that breaks off gives one unreadable record.

        Only columns that a document, a dialogue or one of the source's filters needs are read.

        Raises:
            RecipeError: The file is not Parquet, or has no column of text or dialogues.
        """
        from pyarrow import ArrowException

        row = 0
        try:
            with _opened(file) as opened:
                columns = self._columns(file, opened)
                batch_rows = _batch_rows(opened.metadata, columns)
                for batch in opened.iter_batches(batch_size=batch_rows, columns=columns):
                    for values in _rows(batch):
                        origin = f"{file.name}#{row}"
                        row += 1
                        if isinstance(values, UnicodeDecodeError):
                            yield Unreadable(origin, f"not UTF-8 at byte {values.start:,}")
                        else:
                            yield record_of(values, self.text_field, origin)
        except (OSError, ArrowException) as error:
            yield Unreadable(f"{file.name}#{row}", f"Parquet is damaged or breaks off: {error}")

    def text_bytes(self, files: Sequence[SourceFile]) -> list[int]:
        """Returns about how many bytes each file's columns of text have, by what the footers of a few of them say."""
        here = [file for file in files if not is_object(file)]
        sample = here[:: max(1, len(here) // _NUM_SAMPLED_FILES)]
        stored_bytes = sum(file.size_bytes for file in sample)
        ratio = sum(map(self._column_bytes, sample)) / stored_bytes if stored_bytes else _USUAL_RATIO
        return [round(file.size_bytes * ratio) for file in files]

    def _column_bytes(self, file: SourceFile) -> int:
        from pyarrow import ArrowException

        try:
            with _opened(file) as opened:
                return _uncompressed_bytes(opened.metadata, self._columns(file, opened))
        except (OSError, ArrowException):
            return 0  # Damaged: counted as unreadable when it is read.

    def _columns(self, file: SourceFile, opened: ParquetFile) -> list[str]:
        present: list[str] = opened.schema_arrow.names
        needed = (self.text_field, *DIALOGUE_FIELDS)
        if not set(present).intersection(needed[:-1]):
            raise RecipeError(
                f"source {self.name!r}: {file.name} has no column {self.text_field!r}, and none of "
                f"{', '.join(DIALOGUE_FIELDS[:-1])}; it has {', '.join(present)}; set text_field"
            )
        asked = {field for each in self.filters for field in each.fields()}
        return [name for name in present if name in needed or name in asked]


@contextmanager
def _opened(file: SourceFile) -> Iterator[ParquetFile]:
    """Opens a file.

    Raises:
        RecipeError: It cannot be opened, or does not begin as Parquet does.
        OSError: It is damaged or cut off.
    """
    from pyarrow.parquet import ParquetFile

    try:
        with open(file.location, "rb") as plain:
            start = plain.read(4)
    except OSError as error:
        raise cannot_be_read(file.name, error) from error
    if start != b"PAR1":
        raise RecipeError(f"{file.name} is no Parquet file; rename it, or leave it out with `exclude`")
    # Pages are to come one after another, since a row group can be larger than the memory.
    settings = {"buffer_size": _READ_AHEAD_BYTES, "pre_buffer": False, "page_checksum_verification": True}
    with ParquetFile(file.location, **settings) as opened:
        yield opened


def _uncompressed_bytes(metadata: FileMetaData, columns: Sequence[str]) -> int:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    parts = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)


def _batch_rows(metadata: FileMetaData, columns: Sequence[str]) -> int:
    row_bytes = _uncompressed_bytes(metadata, columns) / max(1, metadata.num_rows)
    return max(1, min(_MAX_BATCH_ROWS, int(_BATCH_BYTES / max(1, row_bytes))))


def _rows(batch: RecordBatch) -> Iterable[dict[str, Any] | UnicodeDecodeError]:
    """Returns each row, or why it is no text; row by row only where the batch has one of those."""
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [error]
        return chain.from_iterable(_rows(batch.slice(index, 1)) for index in range(batch.num_rows))
    if len(names) == 1:
        return [{names[0]: value} for value in columns[0]]  # The usual case, in half the time of the other.
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
