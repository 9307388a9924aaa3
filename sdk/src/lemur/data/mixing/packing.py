"""Which pieces of which documents make up each training sequence: pure functions on arrays.

`concatenate` lays the documents one after another and cuts wherever a sequence ends. `best_fit` is Best-fit Packing
(Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830): only documents longer than a
sequence are cut, into chunks of a sequence and a rest, and all chunks are placed by best-fit decreasing.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.dataset.layout import FIRST, PIECE

Integers = npt.NDArray[np.int64]


class Packed(NamedTuple):
    """Documents laid into sequences."""

    pieces: npt.NDArray[np.void]
    """`PIECE` records [num_pieces], in order of the sequences and, in each, in the order they are read."""
    firsts: npt.NDArray[np.uint64]
    """Index of each sequence's first piece, and the number of pieces at the end: [num_sequences + 1]."""
    num_padding_tokens: int
    """Places that stay free, each at the end of a sequence."""
    num_cut_documents: int
    """Documents that stand in more than one piece."""
    num_tokens: int
    """Tokens of all pieces: those of the documents, each once."""


class _Chunks(NamedTuple):
    """Parts of documents that go whole into one sequence, in order of the documents."""

    counts: Integers
    """Into how many each document is cut, [num_documents]."""
    offsets: Integers
    """Where each begins in its document, [num_chunks]."""
    lengths: Integers
    """Tokens in each, [num_chunks]."""


def pack(
    starts: npt.NDArray[np.uint64],
    lengths: npt.NDArray[np.integer[Any]],
    rows: npt.NDArray[np.uint32],
    *,
    sequence_length: int,
    packing: Literal["best_fit", "concatenate"],
) -> Packed:
    """Lays documents into sequences; every token is in exactly one piece.

    Equal input gives equal output on every machine. With `concatenate`, sequences stand in the order of the documents
    and only the last is padded. With `best_fit`, they stand in the order in which best-fit decreasing opens them:
    first those that one chunk fills, in the order of the documents, then by falling length of the first piece. Of
    equally long chunks the one of the earlier document is placed first, and of sequences with equally much room the
    earlier one takes it. In a sequence, pieces stand by falling length. Chunks of one document may stand far apart.

    Args:
        starts: Where each document begins in the partition's tokens, [num_documents].
        lengths: Tokens of each, its end-of-text token included, at least 1, [num_documents].
        rows: Row of each in the partition, [num_documents].
        sequence_length: Tokens in a sequence.
        packing: How documents fill sequences.

    Returns:
        The pieces of each sequence, and what it cost.
    """
    sizes = lengths.astype(np.int64)
    if packing == "concatenate":
        chunks, sequences = _cut_where_sequences_end(sizes, sequence_length)
        order: Integers | slice = slice(None)
    else:
        chunks = _cut_long(sizes, sequence_length)
        order, sequences = _best_fit(chunks.lengths, sequence_length)
    pieces = np.empty(len(sequences), dtype=PIECE)
    pieces["start"] = chunks.offsets[order]
    pieces["start"] += np.repeat(starts, chunks.counts)[order]
    pieces["length"] = chunks.lengths[order]
    pieces["document"] = np.repeat(rows, chunks.counts)[order]
    num_pieces = np.bincount(sequences)
    firsts = np.zeros(len(num_pieces) + 1, dtype=FIRST)
    np.cumsum(num_pieces, out=firsts[1:], dtype=FIRST)
    num_tokens = int(sizes.sum())
    return Packed(
        pieces=pieces,
        firsts=firsts,
        num_padding_tokens=len(num_pieces) * sequence_length - num_tokens,
        num_cut_documents=int(np.count_nonzero(chunks.counts > 1)),
        num_tokens=num_tokens,
    )


def _cut_where_sequences_end(lengths: Integers, sequence_length: int) -> tuple[_Chunks, Integers]:
    """Returns the chunks of documents that stand one after another, and the sequence of each."""
    ends = np.cumsum(lengths)
    begins = ends - lengths
    first_sequences = begins // sequence_length
    counts = (ends - 1) // sequence_length - first_sequences + 1
    sequences = np.repeat(first_sequences, counts) + _numbers(counts)
    begins_of_sequences = sequences * sequence_length
    begins_of_sequences -= np.repeat(begins, counts)
    offsets = np.maximum(begins_of_sequences, 0)
    stops = np.minimum(begins_of_sequences + sequence_length, np.repeat(lengths, counts))
    return _Chunks(counts, offsets, stops - offsets), sequences


def _cut_long(lengths: Integers, sequence_length: int) -> _Chunks:
    """Returns chunks of a sequence from the beginning of each document, and what is left of it."""
    counts = -(-lengths // sequence_length)
    offsets = _numbers(counts) * sequence_length
    return _Chunks(counts, offsets, np.minimum(np.repeat(lengths, counts) - offsets, sequence_length))


def _numbers(counts: Integers) -> Integers:
    """Returns the numbers from 0 to each count, one run after another, [sum of counts]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _best_fit(lengths: Integers, sequence_length: int) -> tuple[Integers, Integers]:
    """Returns the chunks in order of their sequences and, within each, of placement; and the sequence of each."""
    by_length = np.argsort(-lengths, kind="stable")
    sequences = _placed(np.bincount(lengths), sequence_length)
    by_sequence = np.argsort(sequences, kind="stable")
    return by_length[by_sequence], sequences[by_sequence]


def _placed(histogram: Integers, sequence_length: int) -> Integers:
    """Places chunks by best-fit decreasing, many equal ones in equal sequences at a time.

    Best-fit gives a chunk to the sequence with the least room that holds it. The next chunk of the same length goes
    to the same sequence while it fits there, since that one has even less room now. So equal chunks fill the
    sequences of equal room one after another, and it is enough to count: the work grows with the number of different
    lengths, not of chunks.

    Args:
        histogram: How many chunks there are of each length, [longest length + 1].
        sequence_length: Tokens in a sequence.

    Returns:
        The sequence of each chunk, the chunks in order of falling length, [num_chunks].
    """
    room, moves = _Room(sequence_length), list[tuple[int, int, int]]()
    for length in np.flatnonzero(histogram)[::-1].tolist():
        waiting = int(histogram[length])
        while waiting:
            moves.append(room.take(length, waiting))
            waiting -= moves[-1][1]
    first, counts, each = np.array(moves, dtype=np.int64).reshape(-1, 3).T
    sequences: Integers = np.repeat(first, counts) + _numbers(counts) // np.repeat(each, counts)
    return sequences


class _Room:
    """The sequences begun so far by the room in them, as ranges of neighbours that are filled alike."""

    def __init__(self, sequence_length: int) -> None:
        self._sequence_length = sequence_length
        self._num_sequences = 0
        self._amounts: list[int] = []
        self._ranges: dict[int, list[tuple[int, int]]] = {}

    def take(self, length: int, waiting: int) -> tuple[int, int, int]:
        """Places chunks of one length into one range of sequences that have equal room.

        Args:
            length: Tokens in each chunk.
            waiting: How many there are to place.

        Returns:
            The first sequence, how many chunks were placed from it on, and how many go into each (the last may get
            fewer).
        """
        first, stop, amount = self._least(length, waiting)
        each = amount // length
        num_full = min(stop - first, waiting // each)
        placed = num_full * each
        self._give(amount - each * length, first, first + num_full)
        if first + num_full < stop and placed < waiting:
            self._give(amount - (waiting - placed) * length, first + num_full, first + num_full + 1)
            self._give(amount, first + num_full + 1, stop)
            placed = waiting
        else:
            self._give(amount, first + num_full, stop)
        return first, placed, each

    def _least(self, length: int, waiting: int) -> tuple[int, int, int]:
        """Takes out the first range of those with the least room for a chunk, or begins one for all that wait.

        Returns:
            The first sequence of the range, the one after its last, and the room in each.
        """
        index = bisect_left(self._amounts, length)
        if index == len(self._amounts):
            first = self._num_sequences
            self._num_sequences += -(-waiting // (self._sequence_length // length))
            return first, self._num_sequences, self._sequence_length
        amount = self._amounts[index]
        ranges = self._ranges[amount]
        first, stop = heapq.heappop(ranges)
        if not ranges:
            del self._ranges[amount], self._amounts[index]
        return first, stop, amount

    def _give(self, amount: int, first: int, stop: int) -> None:
        """Puts a range back with the room that each sequence of it has now."""
        if first == stop or not amount:
            return
        if amount not in self._ranges:
            self._ranges[amount] = []
            insort(self._amounts, amount)
        heapq.heappush(self._ranges[amount], (first, stop))
