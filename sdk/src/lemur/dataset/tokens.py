"""Where the tokens of documents results are read from."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.dataset.layout import TOKENS_NAME, Dtype
from lemur.dataset.maps import map_file, max_maps
from lemur.dataset.partitions import PartitionTable

Tokens = npt.NDArray[np.unsignedinteger[Any]]
"""Token ids as stored."""


class Span(NamedTuple):
    """Consecutive tokens of a partition."""

    partition: int
    """Number of the partition."""
    start: int
    """First token, in the partition's `tokens.bin`."""
    length: int
    """How many tokens, at least 1."""


class TokenFiles(ABC):
    """The tokens of every partition behind a mixture."""

    partitions: PartitionTable
    """The partitions, by number."""

    @abstractmethod
    def read(self, partition: int, start: int, length: int) -> Tokens:
        """Returns tokens of a partition; as for the fields of `Span`.

        Raises:
            IntegrityError: They are missing or altered, named by where they stand.
        """

    def read_many(self, spans: Sequence[Span]) -> list[Tokens]:
        """Returns the tokens of several spans, in their order."""
        return [self.read(*span) for span in spans]

    def prefetch(self, spans: Iterable[Span]) -> None:
        """Begins to fetch what will be read soon, and does not wait; where nothing is fetched, nothing happens."""
        return


class MappedTokens(TokenFiles):
    """Tokens in local files, mapped into memory. Copies in other processes map the same pages.

    Args:
        root: Folder with `documents/<key>/tokens.bin` of each partition: the storage root, or what was downloaded.
        partitions: The partitions.
        dtype: NumPy's name of the stored integers.
    """

    def __init__(self, root: Path, partitions: PartitionTable, dtype: Dtype) -> None:
        self.partitions = partitions
        self._root, self._dtype = root, dtype
        self._item_bytes = np.dtype(dtype).itemsize
        self._maps = functools.lru_cache(max_maps())(self._map)

    def __reduce__(self) -> tuple[type[MappedTokens], tuple[Path, PartitionTable, Dtype]]:
        # A worker process opens the files itself; pickled maps would be copied whole.
        return type(self), (self._root, self.partitions, self._dtype)

    def read(self, partition: int, start: int, length: int) -> Tokens:
        """Returns a view of the mapped file.

        Raises:
            IntegrityError: The file is missing or of another size, named by its path.
        """
        return self._maps(partition)[start : start + length]

    def _map(self, partition: int) -> Tokens:
        path = f"{self._root}/{self.partitions.documents(partition)}/{TOKENS_NAME}"
        size_bytes = int(self.partitions.num_tokens[partition]) * self._item_bytes
        return np.frombuffer(map_file(path, size_bytes), self._dtype)
