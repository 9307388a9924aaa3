"""Filling sequences with chunks by best-fit decreasing, computed on counts of equal lengths."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def numbers(counts: Integers) -> Integers:
    """Returns the numbers from 0 to each count, one run after another, [sum of counts]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def best_fit_decreasing(lengths: Integers, sequence_length: int) -> tuple[Integers, Integers]:
    """Places chunks by best-fit decreasing.

    Args:
        lengths: Tokens in each chunk, from 1 to `sequence_length`, [num_chunks].
        sequence_length: Tokens in a sequence.

    Returns:
        The chunks in order of their sequences and, within each, of placement; and the sequence of each, both
        [num_chunks].
    """
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
    sequences: Integers = np.repeat(first, counts) + numbers(counts) // np.repeat(each, counts)
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
