"""What is stored of a partition's documents beside their tokens, opened without being read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from lemur.data.reading.documents import Tally
from lemur.dataset.layout import (
    CANDIDATES_NAME,
    CONTAMINATED_NAME,
    DIGESTS_NAME,
    ENDS_NAME,
    MINHASH_NAME,
    ORIGINS_NAME,
    TOKENS_NAME,
)
from lemur.dataset.maps import max_maps
from lemur.receipt import Receipt
from lemur.results import fetch, read_manifest


class StoredDocuments:
    """A documents result. Its arrays are memory maps, made anew each time they are asked for.

    Args:
        receipt: The result.
        work: Folder for files that are not on this machine; the tokens are never among them.
    """

    def __init__(self, receipt: Receipt, work: Path) -> None:
        self.receipt = receipt
        names = [stored.name for stored in read_manifest(receipt.uri).objects if stored.name != TOKENS_NAME]
        self._folder = fetch(receipt, work, names)
        self.source = str(receipt.metadata["source"])
        """Name of the source."""
        self.tally = Tally.from_json(receipt.metadata["tally"])
        """What was read, and what became of what is no document."""
        self.num_contaminated = int(receipt.metadata["contaminated"])
        """Documents that were left out because they hold parts of benchmarks."""

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def ends(self) -> npt.NDArray[np.uint64]:
        """Where each document ends in the partition's tokens, [n]."""
        return self._array(ENDS_NAME)

    @property
    def digests(self) -> npt.NDArray[np.uint8]:
        """First half of the SHA-256 of each document's text, [n, 16]."""
        return self._array(DIGESTS_NAME)

    @property
    def signatures(self) -> npt.NDArray[np.uint32]:
        """MinHash signatures, [n, num_permutations]; there only where near-duplicates are looked for."""
        return self._array(MINHASH_NAME)

    @property
    def num_bytes(self) -> npt.NDArray[np.int64]:
        """Length of each document's text in UTF-8, [n]."""
        column = pq.read_table(self._folder / ORIGINS_NAME, columns=["num_bytes"], use_threads=False)["num_bytes"]
        sizes: npt.NDArray[np.int64] = column.to_numpy().astype(np.int64)
        return sizes

    def origins(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Returns where documents stand in their source."""
        column = pq.read_table(self._folder / ORIGINS_NAME, columns=["origin"], use_threads=False)["origin"]
        origins: list[str] = column.take(rows).to_pylist()
        return origins

    def candidate_texts(self) -> Iterator[tuple[int, str]]:
        """Yields row and text of each document that may be held out."""
        with (self._folder / CANDIDATES_NAME).open(encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                yield entry["row"], entry["text"]

    def contaminated(self) -> Iterator[dict[str, str]]:
        """Yields origin, benchmark and shared words of each document that was left out as contaminated."""
        with (self._folder / CONTAMINATED_NAME).open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def _array(self, name: str) -> npt.NDArray[Any]:
        path = self._folder / name
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
        except ValueError:  # An array without rows has no bytes to map.
            array = np.load(path)
        return array


class MappedColumns(Sequence[npt.NDArray[Any]]):
    """One array of each of many partitions, as many of them open at a time as a process may have files open.

    Args:
        columns: Each opens one array.
    """

    def __init__(self, columns: Sequence[Callable[[], npt.NDArray[Any]]]) -> None:
        self._num_columns = len(columns)
        self._opened = functools.lru_cache(max_maps())(lambda number: columns[number]())

    def __len__(self) -> int:
        return self._num_columns

    @overload
    def __getitem__(self, number: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, number: slice) -> list[npt.NDArray[Any]]: ...
    def __getitem__(self, number: int | slice) -> npt.NDArray[Any] | list[npt.NDArray[Any]]:
        chosen = range(self._num_columns)[number]
        return self._opened(chosen) if isinstance(chosen, int) else list(map(self._opened, chosen))
