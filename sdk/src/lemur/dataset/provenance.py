"""From a place in the training stream back to the files that its documents came from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lemur.dataset.layout import ENDS_NAME, ORIGINS_NAME
from lemur.dataset.token_dataset import StoredPiece, TokenDataset
from lemur.results import fetch, manifest_of

_MAX_PARTITIONS = 16


class PieceOrigin(NamedTuple):
    """What a piece of a sequence is a part of."""

    piece: StoredPiece
    """The piece."""
    origin: str
    """Where its document stands in the source: `path`, `path:line` or `dataset#row`."""
    offset_tokens: int
    """Where the piece begins in its document."""
    document_tokens: int
    """Length of the document, its end-of-text token included."""


class Provenance:
    """Looks up where the documents of sequences came from.

    Args:
        dataset: The mixture.
        root: Root URI of the storage that holds its documents results.
        work: Local folder for what is downloaded.
    """

    def __init__(self, dataset: TokenDataset, root: str, work: Path) -> None:
        self._dataset, self._root, self._work = dataset, root, work
        self._documents = functools.lru_cache(_MAX_PARTITIONS)(self._read)

    def of(self, place: int) -> list[PieceOrigin]:
        """Returns the origins of the pieces at a place of the stream, in order.

        Raises:
            IntegrityError: An object is missing or altered, named by its URI.
        """
        return [self._of_piece(piece) for piece in self._dataset.pieces_of(place)]

    def _of_piece(self, piece: StoredPiece) -> PieceOrigin:
        ends, origins = self._documents(piece.partition)
        begin = int(ends[piece.document - 1]) if piece.document else 0
        length = int(ends[piece.document]) - begin
        return PieceOrigin(piece, origins[piece.document].as_py(), piece.start - begin, length)

    def _read(self, partition: int) -> tuple[npt.NDArray[np.uint64], pa.ChunkedArray]:
        """Returns where the documents of a partition end, and their origins."""
        documents = self._dataset.partitions.documents(partition)
        uri = f"{self._root}/{documents}"
        receipt = manifest_of(uri, self._dataset.partitions.digest(partition)).receipt(uri)
        folder = fetch(receipt, self._work / documents, [ENDS_NAME, ORIGINS_NAME])
        origins = pq.read_table(folder / ORIGINS_NAME, columns=["origin"])["origin"]
        return np.load(folder / ENDS_NAME), origins
