"""Writing a source's tokens as shards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lemur.dataset import shard_name


class ShardWriter:
    """Appends tokens to a source's shards, each a whole number of sequences.

    Args:
        folder: Folder of the dataset.
        source: Name of the source.
        dtype: NumPy's name of the stored integers.
        sequence_length: Tokens in a sequence.
        shard_sequences: Sequences in a shard.
    """

    def __init__(self, folder: Path, source: str, *, dtype: str, sequence_length: int, shard_sequences: int) -> None:
        self._folder, self._source, self._dtype = folder, source, np.dtype(dtype)
        self._sequence_length, self._shard_tokens = sequence_length, shard_sequences * sequence_length
        self._num_tokens = 0
        self._path(0).parent.mkdir(parents=True)

    def append(self, tokens: npt.NDArray[np.int64]) -> None:
        """Appends tokens, [n], going on in the next shard where one is full."""
        stored = tokens.astype(self._dtype)
        while stored.size:
            shard, filled = divmod(self._num_tokens, self._shard_tokens)
            part, stored = np.split(stored, [self._shard_tokens - filled])
            with self._path(shard).open("ab") as file:
                file.write(part.data)
            self._num_tokens += part.size

    def finish(self) -> tuple[int, int]:
        """Drops the tail that fills no sequence.

        Returns:
            Complete sequences, and tokens dropped (fewer than one sequence).
        """
        num_sequences, dropped_tokens = divmod(self._num_tokens, self._sequence_length)
        if dropped_tokens:
            path = self._path((self._num_tokens - 1) // self._shard_tokens)
            os.truncate(path, path.stat().st_size - dropped_tokens * self._dtype.itemsize)
            if not path.stat().st_size:
                path.unlink()
        return num_sequences, dropped_tokens

    def _path(self, number: int) -> Path:
        return self._folder / shard_name(self._source, number)
