"""The token dataset: what mixing writes and training reads.

A folder (or a storage prefix) holds, for each source, shards `shards/<source>/00000.bin`: token ids, little-endian,
two bytes each where the vocabulary allows and four otherwise, nothing else. Every document ends with the
tokenizer's end-of-text token. Sequences are cut one after another, never across two shards, so that sequence s of a
source is a slice whose place follows from s alone. `dataset.json` says the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from lemur.errors import IntegrityError
from lemur.mixture import Mixture

INDEX_NAME = "dataset.json"
"""Name of the index below the dataset's prefix."""
_MAX_OPEN_SHARDS = 4096
"""Shards mapped at a time; the operating system allows some 65,000 maps to a process."""


class SourceIndex(BaseModel):
    """What the dataset holds of one source."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the source, and of the folder of its shards."""
    group: str | None
    """Its group, where the recipe has groups."""
    weight: float
    """Its share of the stream, 0 to 1."""
    max_epochs: float | None
    """How often its tokens may be read at most; `None` sets no limit."""
    num_sequences: int
    """Complete sequences."""


class DatasetIndex(BaseModel):
    """Contents of `dataset.json`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    format: Literal["lemur/tokens/v1"] = "lemur/tokens/v1"
    """Version of this layout."""
    dtype: Literal["<u2", "<u4"]
    """NumPy's name of the stored integers."""
    sequence_length: int
    """Tokens in a sequence."""
    shard_sequences: int
    """Sequences in every shard of a source but its last, which holds the rest."""
    vocab_size: int
    """Entries of the tokenizer; every id is below."""
    end_of_text_id: int
    """Token that ends a document."""
    seed: int
    """Seed of the order in each epoch."""
    sources: list[SourceIndex]
    """The sources, in the order of the recipe."""

    def mixture(self) -> Mixture:
        """Returns the interleave of the sources."""
        return Mixture([(source.name, source.weight, source.num_sequences) for source in self.sources], self.seed)


def shard_name(source: str, number: int) -> str:
    """Returns where a shard stands below the dataset's prefix."""
    return f"shards/{source}/{number:05d}.bin"


def token_dtype(vocab_size: int) -> Literal["<u2", "<u4"]:
    """Returns the smallest stored integer that holds every token id."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


class TokenDataset:
    """Training sequences by their place in the stream.

    `sample(i)` is a function of the dataset and i alone, for any i: the stream goes on epoch after epoch. The length
    and indexing serve loaders that want an end. Copies of the dataset in other processes map the same pages.

    Args:
        folder: Folder with `dataset.json` and the shards.
        num_sequences: Where the stream ends for this run; without it, after one pass over all that is stored.

    Raises:
        IntegrityError: There is no index in the folder.
        PlanError: The run would read a source more often than its `max_epochs` allows.
    """

    def __init__(self, folder: str | Path, num_sequences: int | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / INDEX_NAME
        if not path.is_file():
            raise IntegrityError(f"{path} is missing: the folder is no token dataset; name the one that mix made")
        self.index = DatasetIndex.model_validate_json(path.read_bytes())
        self.sequence_length = self.index.sequence_length
        self.mixture = self.index.mixture()
        self._num_sequences = num_sequences
        self._sources = {source.name: source for source in self.index.sources}
        self._shards: dict[tuple[str, int], npt.NDArray[np.unsignedinteger]] = {}
        if num_sequences is not None:
            self.check(num_sequences)

    def __len__(self) -> int:
        if self._num_sequences is not None:
            return self._num_sequences
        return sum(source.num_sequences for source in self.index.sources)

    def __getitem__(self, place: int) -> npt.NDArray[np.int64]:
        if not 0 <= place < len(self):
            raise IndexError(f"place {place} is outside the {len(self)} sequences of this run")
        return self.sample(place)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return (self.sample(place) for place in range(len(self)))

    def __reduce__(self) -> tuple[type[TokenDataset], tuple[Path, int | None]]:
        # A worker process opens the shards itself; pickled maps would be copied whole.
        return type(self), (self.folder, self._num_sequences)

    def sample(self, place: int) -> npt.NDArray[np.int64]:
        """Returns the tokens at a place of the stream, counted from 0.

        Returns:
            Token ids, [sequence_length].

        Raises:
            IntegrityError: The shard is missing or of another size, named by its path.
        """
        location = self.mixture.locate(place)
        shard, row = divmod(location.sequence, self.index.shard_sequences)
        tokens: npt.NDArray[np.int64] = self._shard(location.source, shard)[row].astype(np.int64)
        return tokens

    def check(self, num_sequences: int) -> None:
        """Raises `PlanError` where a run of that many sequences would read a source more often than it may."""
        limits = {source.name: source.max_epochs for source in self.index.sources}
        self.mixture.check(num_sequences, limits, sequence_length=self.sequence_length)

    def _shard(self, source: str, number: int) -> npt.NDArray[np.unsignedinteger]:
        """Returns the sequences of a shard, [sequences, sequence_length], mapped rather than read."""
        known = self._shards.get((source, number))
        if known is not None:
            return known
        path = self.folder / shard_name(source, number)
        size = self.index.shard_sequences
        shape = (min(size, self._sources[source].num_sequences - number * size), self.sequence_length)
        expected_bytes = shape[0] * shape[1] * np.dtype(self.index.dtype).itemsize
        size_bytes = path.stat().st_size if path.is_file() else None
        if size_bytes != expected_bytes:
            found = "is missing" if size_bytes is None else f"has {size_bytes:,} bytes instead of {expected_bytes:,}"
            raise IntegrityError(f"shard {path} {found}; delete the dataset and run again to make it anew")
        if len(self._shards) >= _MAX_OPEN_SHARDS:
            self._shards.clear()
        mapped = np.memmap(path, dtype=self.index.dtype, mode="r", shape=shape)
        # Slicing a plain array is several times faster than slicing a memmap, and it keeps the map alive.
        self._shards[source, number] = np.asarray(mapped)
        return self._shards[source, number]
