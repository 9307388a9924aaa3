"""Training sequences by their place in the stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.dataset.layout import INDEX_NAME, DatasetIndex
from lemur.dataset.sequences import Piece, StoredSequences
from lemur.dataset.tokens import Span, TokenFiles, Tokens
from lemur.errors import IntegrityError


class Sample(NamedTuple):
    """A training sequence: pieces of documents one after another, and padding where they do not fill it."""

    input_ids: npt.NDArray[np.int64]
    """Token ids, [sequence_length]; padding is the end-of-text id."""
    position_ids: npt.NDArray[np.int64]
    """Places of the tokens in their piece, [sequence_length]: 0 where a piece, or the padding, begins. A piece that
    goes on with a document that was cut begins at 0 too, for what came before cannot be seen from it."""
    lengths: npt.NDArray[np.int32]
    """Tokens in each piece, [num_pieces]; one more at the end for the padding where there is any."""
    num_padding: int
    """Tokens of padding at the end."""


class StoredPiece(NamedTuple):
    """Where a piece of a sequence stands."""

    source: str
    """Name of the source."""
    partition: int
    """Number of the partition in the table of partitions."""
    documents: str
    """Prefix of the partition's documents result below the storage root."""
    document: int
    """Row of the document there."""
    start: int
    """First token, in the partition's `tokens.bin`."""
    length: int
    """How many tokens."""


class TokenDataset:
    """Training sequences by their place in the stream.

    `sample(i)` is a function of the dataset and i alone, for any i: the stream goes on epoch after epoch. The length
    and indexing serve loaders that want an end. A copy in another process opens the files itself.

    Args:
        folder: Folder with the index objects of a tokens result.
        tokens: Reads the tokens of its partitions.
        num_sequences: Where the stream ends for this run; without it, after one pass over all that is stored.

    Raises:
        IntegrityError: There is no index in the folder.
        PlanError: The run would read a source more often than its `max_epochs` allows.
    """

    def __init__(self, folder: str | Path, tokens: TokenFiles, num_sequences: int | None = None) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        self.partitions = tokens.partitions
        self.sequence_length = self.index.sequence_length
        self.mixture = self.index.mixture()
        self._tokens, self._num_sequences = tokens, num_sequences
        self._sequences = StoredSequences(
            self.folder, {source.name: source.num_sequences for source in self.index.sources}
        )
        self._padding = np.full(self.sequence_length, self.index.end_of_text_id, dtype=self.index.dtype)
        self._positions = np.arange(self.sequence_length)
        if num_sequences is not None:
            self.check(num_sequences)

    def __len__(self) -> int:
        if self._num_sequences is not None:
            return self._num_sequences
        return sum(source.num_sequences for source in self.index.sources)

    def __getitem__(self, place: int) -> Sample:
        self._refuse_outside(place)
        return self.sample(place)

    def __getitems__(self, places: Sequence[int]) -> list[Sample]:
        for place in places:
            self._refuse_outside(place)
        return self.samples(places)

    def __iter__(self) -> Iterator[Sample]:
        return (self.sample(place) for place in range(len(self)))

    def __reduce__(self) -> tuple[type[TokenDataset], tuple[Path, TokenFiles, int | None]]:
        return type(self), (self.folder, self._tokens, self._num_sequences)

    def sample(self, place: int) -> Sample:
        """Returns the sequence at a place of the stream, counted from 0.

        Raises:
            IntegrityError: Its tokens are missing or altered, named by where they stand.
            StorageError: The storage cannot be reached or refuses.
        """
        partition, pieces = self._locate(place)
        read = self._tokens.read
        return self._build([read(partition, start, length) for start, length, _ in pieces])

    def samples(self, places: Sequence[int]) -> list[Sample]:
        """Returns the sequences at several places; from object storage they are fetched side by side."""
        spans = [self._spans(place) for place in places]
        tokens = iter(self._tokens.read_many([span for sequence in spans for span in sequence]))
        return [self._build(list(islice(tokens, len(sequence)))) for sequence in spans]

    def prefetch(self, places: Sequence[int]) -> None:
        """Begins to fetch the sequences at places that will be asked for soon, and does not wait."""
        self._tokens.prefetch(span for place in places for span in self._spans(place))

    def tokens(self, place: int) -> npt.NDArray[np.int64]:
        """Returns the token ids at a place, [sequence_length]; as `sample` does."""
        return self.sample(place).input_ids

    def pieces_of(self, place: int) -> list[StoredPiece]:
        """Returns where the pieces of the sequence at a place stand, in order."""
        location = self.mixture.locate(place)
        partition = self.partitions.locate(location.source, location.sequence)
        documents = self.partitions.documents(partition)
        return [
            StoredPiece(location.source, partition, documents, document, start, length)
            for start, length, document in self._sequences.pieces(location.source, location.sequence)
        ]

    def check(self, num_sequences: int) -> None:
        """Raises `PlanError` where a run of that many sequences would read a source more often than it may."""
        limits = {source.name: source.max_epochs for source in self.index.sources}
        self.mixture.check(num_sequences, limits, sequence_length=self.sequence_length)

    def _locate(self, place: int) -> tuple[int, list[Piece]]:
        """Returns the partition that the sequence at a place is cut from, and its pieces."""
        source, _, sequence = self.mixture.locate(place)
        return self.partitions.locate(source, sequence), self._sequences.pieces(source, sequence)

    def _spans(self, place: int) -> list[Span]:
        partition, pieces = self._locate(place)
        return [Span(partition, start, length) for start, length, _ in pieces]

    def _build(self, pieces: list[Tokens]) -> Sample:
        """Puts the pieces of a sequence together."""
        lengths = [len(piece) for piece in pieces]
        num_padding = self.sequence_length - sum(lengths)
        if num_padding:
            pieces.append(self._padding[:num_padding])
            lengths.append(num_padding)
        if len(pieces) == 1:
            return Sample(pieces[0].astype(np.int64), self._positions.copy(), np.array(lengths, np.int32), 0)
        return Sample(
            np.concatenate(pieces, dtype=np.int64),
            np.concatenate([self._positions[:length] for length in lengths]),
            np.array(lengths, np.int32),
            num_padding,
        )

    def _refuse_outside(self, place: int) -> None:
        if not 0 <= place < len(self):
            raise IndexError(f"place {place} is outside the {len(self)} sequences of this run")


def read_index(folder: Path) -> DatasetIndex:
    """Reads the index of a token dataset.

    Raises:
        IntegrityError: There is none in the folder.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise IntegrityError(f"{path} is missing: the folder is no token dataset; name the one that mix made")
    return DatasetIndex.model_validate_json(path.read_bytes())
