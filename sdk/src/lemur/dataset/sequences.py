"""The sequences of a source, stored as pieces of documents."""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lemur.dataset.layout import FIRST, PIECE, firsts_name, pieces_name
from lemur.dataset.maps import map_file, max_maps

_FIRST_AND_NEXT = struct.Struct("<QQ")
_PIECE = struct.Struct("<QII")


Piece = tuple[int, int, int]
"""A part of a sequence: its first token in the partition's `tokens.bin`, its length, and the row of its document."""


class PackedPartition(Protocol):
    """Sequences that one partition's documents were packed into."""

    @property
    def pieces(self) -> npt.NDArray[np.void]:
        """Records of dtype `PIECE`, [num_pieces], in order of the sequences."""

    @property
    def firsts(self) -> npt.NDArray[np.uint64]:
        """Index of each sequence's first piece, and the number of pieces last, [num_sequences + 1]."""


def write_sequences(folder: Path, source: str, partitions: Iterable[PackedPartition]) -> list[int]:
    """Writes the sequences of a source into the folder of a tokens result, holding one partition at a time.

    Args:
        folder: The folder.
        source: Name of the source.
        partitions: What each of its partitions was packed into, in order.

    Returns:
        Number of sequences of each partition.
    """
    pieces_path, firsts_path = folder / pieces_name(source), folder / firsts_name(source)
    pieces_path.parent.mkdir(parents=True)
    num_pieces, num_sequences = 0, []
    with pieces_path.open("wb") as pieces_file, firsts_path.open("wb") as firsts_file:
        for packed in partitions:
            pieces_file.write(np.ascontiguousarray(packed.pieces, PIECE).data)
            firsts_file.write((packed.firsts[:-1].astype(FIRST) + num_pieces).astype(FIRST).data)
            num_pieces += len(packed.pieces)
            num_sequences.append(len(packed.firsts) - 1)
        firsts_file.write(num_pieces.to_bytes(FIRST.itemsize, "little"))
    return num_sequences


class StoredSequences:
    """The sequences of all sources of a tokens result, mapped rather than read.

    Args:
        folder: Folder of the result.
        num_sequences: How many sequences each source has, by its name.
    """

    def __init__(self, folder: Path, num_sequences: dict[str, int]) -> None:
        self._folder, self._num_sequences = folder, num_sequences
        self._maps = functools.lru_cache(max_maps() // 2)(self._map)

    def pieces(self, source: str, sequence: int) -> list[Piece]:
        """Returns the pieces of a sequence, in order.

        Raises:
            IntegrityError: A file is missing or of another size, named by its path.
        """
        firsts, pieces = self._maps(source)
        first, following = _FIRST_AND_NEXT.unpack_from(firsts, sequence * FIRST.itemsize)
        records = pieces[first * PIECE.itemsize : following * PIECE.itemsize]
        return list(_PIECE.iter_unpack(records))

    def _map(self, source: str) -> tuple[mmap.mmap, mmap.mmap]:
        num_sequences = self._num_sequences[source]
        firsts = map_file(self._folder / firsts_name(source), (num_sequences + 1) * FIRST.itemsize)
        num_pieces = int.from_bytes(firsts[num_sequences * FIRST.itemsize :], "little")
        return firsts, map_file(self._folder / pieces_name(source), num_pieces * PIECE.itemsize)
