"""The partitions behind a token mixture: which documents results it is cut from, and what each holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lemur.dataset.layout import PARTITIONS_NAME
from lemur.errors import IntegrityError

_SCHEMA = pa.schema(
    {
        "source": pa.dictionary(pa.int32(), pa.string()),
        "documents": pa.string(),
        "digest": pa.string(),
        "num_sequences": pa.int64(),
        "num_tokens": pa.int64(),
        "num_documents": pa.int64(),
    }
)


class PartitionRow(NamedTuple):
    """One partition of a source, as the mixture uses it."""

    source: str
    """Name of the source."""
    documents: str
    """Prefix of its documents result below the storage root: `documents/<16 hex digits>`."""
    digest: str
    """Content digest of that result."""
    num_sequences: int
    """Sequences that are cut from it."""
    num_tokens: int
    """Tokens in its `tokens.bin`."""
    num_documents: int
    """Documents in it."""


def write_partitions(folder: Path, rows: Iterable[PartitionRow]) -> None:
    """Writes `partitions.parquet` into the folder of a tokens result.

    Args:
        folder: The folder.
        rows: Partitions in order; those of a source one after another as its sequences are numbered.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    pq.write_table(pa.table(arrays, schema=_SCHEMA), folder / PARTITIONS_NAME, compression="zstd")


class PartitionTable:
    """The rows of `partitions.parquet`, by number.

    A million of them take some 120 MB and load in a fraction of a second. A copy in another process reads the file.

    Args:
        folder: Folder of the tokens result.

    Raises:
        IntegrityError: The file is missing or is no such table.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / PARTITIONS_NAME
        try:
            # One thread: several are no faster here, and leave three times the memory behind.
            table = pq.ParquetFile(path).read(use_threads=False).cast(_SCHEMA)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise IntegrityError(
                f"{path} is not a table of partitions ({error}); delete the dataset and run again to make it anew"
            ) from error
        self._documents, self._digests = (_column(table, name) for name in ("documents", "digest"))
        self.num_sequences: npt.NDArray[np.int64] = _column(table, "num_sequences").to_numpy()
        """Sequences of each partition."""
        self.num_tokens: npt.NDArray[np.int64] = _column(table, "num_tokens").to_numpy()
        """Tokens in each partition's `tokens.bin`."""
        self.num_documents: npt.NDArray[np.int64] = _column(table, "num_documents").to_numpy()
        """Documents in each partition."""
        self._sources = _column(table, "source")
        self._by_source = self._group(self._sources)

    def __len__(self) -> int:
        return len(self.num_sequences)

    def __reduce__(self) -> tuple[type[PartitionTable], tuple[Path]]:
        return type(self), (self._folder,)

    def row(self, number: int) -> PartitionRow:
        """Returns a partition."""
        return PartitionRow(
            self.source(number),
            self.documents(number),
            self.digest(number),
            int(self.num_sequences[number]),
            int(self.num_tokens[number]),
            int(self.num_documents[number]),
        )

    def source(self, number: int) -> str:
        """Returns the name of a partition's source."""
        return str(self._sources[number].as_py())

    def documents(self, number: int) -> str:
        """Returns the prefix of a partition's documents result below the storage root."""
        return str(self._documents[number].as_py())

    def digest(self, number: int) -> str:
        """Returns the content digest of a partition's documents result."""
        return str(self._digests[number].as_py())

    def locate(self, source: str, sequence: int) -> int:
        """Returns the number of the partition that a sequence of a source is cut from."""
        rows, ends = self._by_source[source]
        return int(rows[ends.searchsorted(sequence, side="right")])

    def _group(self, sources: pa.DictionaryArray) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Returns each source's rows, and how many of its sequences there are up to and with each of them."""
        codes = sources.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(sources.dictionary) + 1))
        grouped = {}
        for code, name in enumerate(sources.dictionary.to_pylist()):
            rows = order[starts[code] : starts[code + 1]]
            grouped[name] = (rows, np.cumsum(self.num_sequences[rows]))
        return grouped


def _column(table: pa.Table, name: str) -> pa.Array:
    """Returns a column as one array, which reads a value several times faster than a chunked one."""
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
