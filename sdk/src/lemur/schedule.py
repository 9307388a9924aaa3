"""Which source each place of an endless stream belongs to, so that every prefix holds each within one of its share.

For shares p that add up to 1, occurrence j of a source (from 1) must stand at one of the places
floor((j - 1) / p) + 1 … ceil(j / p), counted from 1: then after any n places its count differs from n * p by less
than one. Such an assignment exists for any shares, and choosing at each place the open occurrence with the earliest
deadline finds it (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", Algorithmica 15, 1996).

Choosing so from the beginning would make place n cost n steps. Here the stream is cut into blocks, and what has been
taken at a block's edge is computed by itself: each source's count is floor(n * p) or one more, and which sources have
the one more is chosen such that both neighbouring blocks can be filled within the deadlines (`Schedule._taken`). So any
place is a pure function of the shares, found by filling one block, and nothing is rounded to a period.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

BLOCK_PLACES = 4096
"""Places of a block: a few milliseconds to fill, and few enough edges."""
_MAX_DENOMINATOR = 2**40
"""Shares become whole numbers of this part at most, so that the arithmetic inside a block fits 64 bits."""
_SIMPLE_DENOMINATOR = 2**20
_EXACT = 1e-15
"""Distance of a share from a fraction below which only floating point is to blame."""
_NUM_CACHED_BLOCKS = 1024


class Block(NamedTuple):
    """The places of one block."""

    sources: npt.NDArray[np.uint16]
    """Source of each place, [BLOCK_PLACES]."""
    taken: Integers
    """How many places before the block belong to each source, [sources]."""
    ranks: Integers
    """How many places of the whole stream before each place have its source, [BLOCK_PLACES]."""


class Schedule:
    """An endless assignment of places to sources; equal shares give an equal one.

    Args:
        shares: Share of each source, above 0; they add up to 1 but for rounding.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.parts, self.whole = whole_parts(shares)
        """Share of source s is parts[s] / whole, exactly."""
        self.block = functools.lru_cache(maxsize=_NUM_CACHED_BLOCKS)(self._fill)

    def counts(self, num_places: int) -> list[int]:
        """Returns how many of the first places belong to each source."""
        number, rest = divmod(num_places, BLOCK_PLACES)
        if not rest:
            return self._taken(num_places)
        block = self.block(number)
        inside = np.bincount(block.sources[:rest], minlength=len(self.parts))
        return [int(count) for count in block.taken + inside]

    def _fill(self, number: int) -> Block:
        start = number * BLOCK_PLACES
        taken, after = self._taken(start), self._taken(start + BLOCK_PLACES)
        openings, deadlines, owners = [], [], []
        for source, part in enumerate(self.parts):
            # Lag at the block's start in units of 1 / whole of a place: all below is relative to that start.
            lag = start * part - taken[source] * self.whole
            occurrence = np.arange(1, after[source] - taken[source] + 1, dtype=np.int64)
            openings.append(np.maximum(((occurrence - 1) * self.whole - lag) // part + 1, 1))
            deadlines.append(np.minimum(-((lag - occurrence * self.whole) // part), BLOCK_PLACES))
            owners.append(np.full(occurrence.size, source))
        sources = _earliest_deadline_first(*(np.concatenate(column) for column in (openings, deadlines, owners)))
        return Block(
            sources, np.array(taken, dtype=np.int64), np.array(taken, dtype=np.int64)[sources] + _ranks(sources)
        )

    def _taken(self, num_places: int) -> list[int]:
        """Returns each source's count at the edge of a block.

        An open occurrence (begun and not yet due) may count as taken or not. Looking ahead, too many taken of those
        with late deadlines would leave too few of the urgent ones; looking back, too many of the early ones not taken
        would mean that places before were idle. Both say: of the first so many, by deadline or by opening, at least
        so many are taken. Walking the openings in order and taking, whenever the bound asks for one more, the open
        occurrence with the earliest deadline keeps both; the rest is taken by deadline.
        """
        counts = [num_places * part // self.whole for part in self.parts]
        rests = [num_places * part % self.whole for part in self.parts]
        missing = num_places - sum(counts)
        occurrences = sorted(
            (-rest // part + 1, -((rest - self.whole) // part), source)
            for source, (rest, part) in enumerate(zip(rests, self.parts, strict=True))
            if rest
        )
        waiting: list[tuple[int, int]] = []
        bounds = self._idle_bounds([opening for opening, _, _ in occurrences], rests)
        for (_, deadline, source), idle in zip(occurrences, bounds, strict=True):
            heapq.heappush(waiting, (deadline, source))
            while len(waiting) > idle:
                counts[heapq.heappop(waiting)[1]] += 1
                missing -= 1
        for _ in range(missing):
            counts[heapq.heappop(waiting)[1]] += 1
        return counts

    def _idle_bounds(self, openings: list[int], rests: list[int]) -> list[int]:
        """Returns how many of the occurrences up to each one may be left untaken.

        Args:
            openings: Openings of the open occurrences, sorted, relative to the edge (0 is the last place before it).
            rests: Each source's lag at the edge, in units of 1 / whole.
        """
        if len(openings) < 2:
            return [len(openings)] * len(openings)
        # Of one open occurrence alone no bound is ever felt, so the look back ends at the second opening.
        places = np.arange(openings[1], 0, dtype=np.int64)
        idle = -places - sum(rests) // self.whole
        for rest, part in zip(rests, self.parts, strict=True):
            idle -= (-rest - places * part) // self.whole
        # Occurrences up to number i are all that is open from opening i to just before opening i + 1.
        bounds = [len(openings)] * len(openings)
        for index, (opening, following) in enumerate(zip(openings[1:], [*openings[2:], 0], strict=True), start=1):
            if opening < following:
                bounds[index] = int(idle[opening - openings[1] : following - openings[1]].min())
        return bounds


def whole_parts(shares: Sequence[float]) -> tuple[tuple[int, ...], int]:
    """Returns shares as whole numbers and their sum.

    Shares that are fractions with small denominators, as those of decimal weights are, become just these; others are
    rounded to multiples of 2**-40, which moves a source by a ten-thousandth of a sequence in 10**8.
    """
    total = math.fsum(shares)
    simple = [Fraction(share / total).limit_denominator(_SIMPLE_DENOMINATOR) for share in shares]
    whole = math.lcm(*(share.denominator for share in simple))
    near = all(abs(float(found) - share / total) <= _EXACT for found, share in zip(simple, shares, strict=True))
    if sum(simple) == 1 and whole <= _MAX_DENOMINATOR and near:
        return tuple(int(share * whole) for share in simple), whole
    exact = [Fraction(share) for share in shares]
    scaled = [share / sum(exact) * _MAX_DENOMINATOR for share in exact]
    parts = [max(1, math.floor(share)) for share in scaled]
    # What rounding down left over goes to the sources that lost most by it.
    most_lost = sorted(range(len(parts)), key=lambda index: (parts[index] - scaled[index], index))
    left_over = _MAX_DENOMINATOR - sum(parts)
    if left_over < 0:
        parts[parts.index(max(parts))] += left_over
    for index in most_lost[: max(0, left_over)]:
        parts[index] += 1
    return tuple(parts), _MAX_DENOMINATOR


def _earliest_deadline_first(openings: Integers, deadlines: Integers, owners: Integers) -> npt.NDArray[np.uint16]:
    """Returns who gets each place, from 1 on: of the occurrences that are open the one with the earliest deadline."""
    order = np.argsort(openings, kind="stable")
    waiting = list(zip(deadlines[order].tolist(), owners[order].tolist(), strict=True))
    # Occurrences that open at place p are waiting[ends[p - 1]:ends[p]].
    ends = np.searchsorted(openings[order], np.arange(len(order) + 1), side="right").tolist()
    ready: list[tuple[int, int]] = []
    chosen = []
    for first, end in itertools.pairwise(ends):
        for occurrence in waiting[first:end]:
            heapq.heappush(ready, occurrence)
        chosen.append(heapq.heappop(ready)[1])
    return np.array(chosen, dtype=np.uint16)


def _ranks(sources: npt.NDArray[np.uint16]) -> Integers:
    """Returns for each place how many earlier places have the same source, [n]."""
    order = np.argsort(sources, kind="stable")
    counts = np.bincount(sources)
    ranks = np.empty(len(sources), dtype=np.int64)
    ranks[order] = np.arange(len(sources)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks
