"""Objects of the partitions behind a mixture, read whole and verified."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lemur.dataset import PartitionTable
from lemur.dataset.layout import DIGESTS_NAME, ENDS_NAME, ORIGINS_NAME
from lemur.errors import IntegrityError
from lemur.results import manifest_of
from lemur.storage import open_storage
from lemur.storage.integrity import check_content, describe


class StoredPartitions:
    """The small objects of documents results.

    Args:
        root: Root URI of the storage.
        partitions: The partitions.
    """

    def __init__(self, root: str, partitions: PartitionTable) -> None:
        self.partitions = partitions
        self._storage = open_storage(root)

    def ends(self, number: int) -> npt.NDArray[np.uint64]:
        """Returns where the documents of a partition end in its tokens, [n].

        Raises:
            IntegrityError: The object is missing or altered, named by its URI; likewise below.
        """
        return self._array(number, ENDS_NAME)

    def digests(self, number: int) -> npt.NDArray[np.uint8]:
        """Returns the first half of the SHA-256 of each document's text, [n, 16]."""
        return self._array(number, DIGESTS_NAME)

    def origins(self, number: int) -> pa.ChunkedArray:
        """Returns where the documents of a partition stand in their source, [n]."""
        data = self._read(number, ORIGINS_NAME)
        return pq.read_table(io.BytesIO(data), columns=["origin"], use_threads=False)["origin"]

    def origins_of(self, number: int, rows: Sequence[int]) -> list[str]:
        """Returns where some documents of a partition stand in their source."""
        origins: list[str] = self.origins(number).take(pa.array(rows, pa.int64())).to_pylist()
        return origins

    def _array(self, number: int, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(io.BytesIO(self._read(number, name)))
        return array

    def _read(self, number: int, name: str) -> bytes:
        storage = self._storage.at(self.partitions.documents(number))
        manifest = manifest_of(storage.uri, self.partitions.digest(number))
        expected = next((stored for stored in manifest.objects if stored.name == name), None)
        if expected is None:
            raise IntegrityError(f"{storage.uri} has no object {name!r}; run again to make it anew")
        data = storage.read(name)
        check_content(storage.uri_of(name), describe(name, data), expected)
        return data
