"""Packs: whole dialogues in sequences of one length, arranged by chance and with next to nothing wasted.

Best-fit decreasing fills sequences well, and puts dialogues of like length, so often of one kind, beside each other:
the same ones in every pass over the data. Here a sequence takes dialogues as a shuffled stream brings them, until
about a quarter of it is free, and is closed by two that fill it to the last token where there are such two among the
next ones and all that wait. What the stream has at its end goes by best-fit decreasing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np

from lemur.packing import Integers, best_fit_decreasing

_CLOSING_SHARE = 4
"""A sequence is closed once less than a fourth of it would stay free."""
_NUM_CANDIDATES = 16
"""Dialogues of the stream that are tried for one half of the pair that closes a sequence."""
_SHARES_LEFT = (0.01, 0.1, 0.4)
"""Parts of the stream left to best-fit decreasing that are tried. How many packs each needs depends on the lengths."""
_TOLERANCE = 2000
"""One sequence in so many more than by best-fit decreasing alone is no waste."""


class Packs(NamedTuple):
    """Dialogues in packs."""

    dialogues: Integers
    """Numbers of the dialogues, pack after pack, [dialogues]."""
    firsts: Integers
    """Where each pack begins in `dialogues`, and their number at the end, [packs + 1]."""


def pack_dialogues(lengths: Integers, capacity: int, generator: np.random.Generator) -> Packs:
    """Puts every dialogue into one pack; equal arguments give equal packs on every machine.

    Args:
        lengths: Tokens of each dialogue, from 1 to `capacity`, [dialogues].
        capacity: Tokens that a pack holds.
        generator: Decides which dialogues stand together, and the order of the packs.
    """
    order = generator.permutation(len(lengths))
    shuffled = lengths[order]
    fallback = _decreasing(shuffled, capacity)
    mixed = [_Stream(shuffled, capacity).fill(int(len(order) * share)) for share in _SHARES_LEFT]
    packs = min(mixed, key=lambda found: int(found.max()))
    if int(packs.max()) > int(fallback.max()) * (1 + 1 / _TOLERANCE):
        packs = fallback
    # The packs in an order of chance, and in each the dialogues as the stream brought them.
    places = generator.permutation(int(packs.max()) + 1)[packs]
    by_pack = np.argsort(places, kind="stable")
    counts = np.bincount(places)
    return Packs(order[by_pack], np.concatenate([[0], np.cumsum(counts)]))


def _decreasing(lengths: Integers, capacity: int) -> Integers:
    """Returns the pack of each dialogue by best-fit decreasing, [dialogues]."""
    order, packs = best_fit_decreasing(lengths, capacity)
    result = np.empty_like(packs)
    result[order] = packs
    return result


class _Stream:
    """A shuffled stream of dialogues, taken from its beginning and, to close packs, by length from anywhere."""

    def __init__(self, lengths: Integers, capacity: int) -> None:
        self._array, self._capacity = lengths, capacity
        self._lengths: list[int] = lengths.tolist()
        self._waiting = bytearray(b"\1" * len(lengths))
        self._num_waiting = len(lengths)
        self._packs = np.full(len(lengths), -1, np.int64)
        self._next = 0
        histogram = np.bincount(lengths, minlength=capacity + 1)
        self._counts: list[int] = histogram.tolist()
        self._present: list[int] = np.flatnonzero(histogram).tolist()
        self._of_length: dict[int, list[int]] = {length: [] for length in self._present}
        for place in range(len(lengths) - 1, -1, -1):
            self._of_length[self._lengths[place]].append(place)

    def fill(self, num_left: int) -> Integers:
        """Returns the pack of each dialogue, [dialogues].

        Args:
            num_left: Dialogues at the end that go by best-fit decreasing.
        """
        num_packs = 0
        while self._num_waiting > num_left:
            self._close(self._begin(num_packs), num_packs)
            num_packs += 1
        rest = np.flatnonzero(self._packs < 0)
        if len(rest):
            self._packs[rest] = num_packs + _decreasing(self._array[rest], self._capacity)
        return self._packs

    def _begin(self, pack: int) -> int:
        """Takes dialogues from the beginning of the stream; returns the room that is left in the pack."""
        room, closing = self._capacity, self._capacity // _CLOSING_SHARE
        while (place := self._head()) is not None:
            left = room - self._lengths[place]
            if room < self._capacity and (left < closing or not room):
                break
            self._take(place, pack)
            room = left
        return room

    def _close(self, room: int, pack: int) -> None:
        """Fills the room exactly where it can, and as well as single dialogues can otherwise."""
        pair = self._pair(room)
        for place in pair:
            self._take(place, pack)
        while not pair and room and (index := bisect_right(self._present, room)):
            length = self._present[index - 1]
            self._take(self._any(length), pack)
            room -= length

    def _pair(self, room: int) -> list[int]:
        """Returns one or two dialogues that fill the room exactly, the first of them near the head of the stream."""
        place, tried = self._next, 0
        while tried < _NUM_CANDIDATES and place < len(self._lengths):
            if self._waiting[place]:
                tried += 1
                length = self._lengths[place]
                rest = room - length
                if not rest:
                    return [place]
                if rest > 0 and self._counts[rest] > (rest == length):
                    return [place, self._any(rest, other_than=place)]
            place += 1
        return []

    def _head(self) -> int | None:
        """Returns the first dialogue that waits."""
        while self._next < len(self._waiting) and not self._waiting[self._next]:
            self._next += 1
        return self._next if self._next < len(self._waiting) else None

    def _any(self, length: int, *, other_than: int | None = None) -> int:
        """Returns the first dialogue of that length that waits."""
        places = self._of_length[length]
        while not self._waiting[places[-1]]:
            places.pop()
        if places[-1] != other_than:
            return places[-1]
        return next(place for place in reversed(places[:-1]) if self._waiting[place])

    def _take(self, place: int, pack: int) -> None:
        length = self._lengths[place]
        self._packs[place] = pack
        self._waiting[place] = 0
        self._num_waiting -= 1
        self._counts[length] -= 1
        if not self._counts[length]:
            del self._present[bisect_left(self._present, length)]
