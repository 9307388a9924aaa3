"""Which documents are the first with their text, however many there are.

Digests are taken a bucket at a time, by their first two bytes, so that memory stays bounded: one bucket is sorted
while the others lie where they are, in memory maps if need be. Digests are even, and so are the buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

_ROWS_PER_BUCKET = 2**20
"""About 60 bytes of memory each while a bucket is sorted."""
_MAX_BUCKETS = 2**16


def first_occurrences(digests: Sequence[Digests], *, num_buckets: int | None = None) -> list[Flags]:
    """Says which documents are the first with their digest.

    All sixteen bytes count, and the order of the arrays and within them decides which one is first.

    Args:
        digests: The documents of each partition, uint8 [n, 16]; memory maps are read once for each bucket.
        num_buckets: Parts in which the work is done, at most 65,536; `None` takes one for each million documents.

    Returns:
        For each partition, [n]: true for the first document with its digest.
    """
    if num_buckets is None:
        num_buckets = min(_MAX_BUCKETS, 1 + sum(map(len, digests)) // _ROWS_PER_BUCKET)
    none = np.empty((0, 16), dtype=np.uint8)
    firsts = [np.zeros(len(array), dtype=np.bool_) for array in digests]
    for bucket in range(num_buckets):
        chosen = [_rows_of_bucket(array, bucket, num_buckets) for array in digests]
        taken = (array[rows] for array, rows in zip(digests, chosen, strict=True))
        is_first = _first_rows(np.concatenate([none, *taken]))
        begin = 0
        for flags, rows in zip(firsts, chosen, strict=True):
            flags[rows] = is_first[begin : begin + len(rows)]
            begin += len(rows)
    return firsts


def is_member(digests: Digests, wanted: Digests) -> Flags:
    """Says which digests stand in a set, for example that of the held-out documents.

    Args:
        digests: uint8 [n, 16].
        wanted: The set, in any order, uint8 [m, 16].

    Returns:
        [n].
    """
    is_possible = np.zeros(_MAX_BUCKETS, dtype=np.bool_)
    is_possible[_leading(wanted)] = True
    rows = np.flatnonzero(is_possible[_leading(digests)])
    found = np.zeros(len(digests), dtype=np.bool_)
    high, low = _halves(wanted)
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    sought_high, sought_low = _halves(digests[rows])
    place = np.searchsorted(high, sought_high)
    # Second halves are compared as long as first halves agree; more than once only where two wanted ones share one.
    pending = np.flatnonzero(place < len(high))
    while len(pending := pending[high[place[pending]] == sought_high[pending]]):
        found[rows[pending]] |= low[place[pending]] == sought_low[pending]
        place[pending] += 1
        pending = pending[place[pending] < len(high)]
    return found


def _rows_of_bucket(digests: Digests, bucket: int, num_buckets: int) -> npt.NDArray[np.int64]:
    if num_buckets == 1:
        return np.arange(len(digests))
    low, high = (-(-number * _MAX_BUCKETS // num_buckets) for number in (bucket, bucket + 1))
    leading = _leading(digests)
    return np.flatnonzero((leading >= low) & (leading < high))


def _first_rows(digests: Digests) -> Flags:
    high, low = _halves(digests)
    order = np.argsort(high)
    if np.any((low[order[1:]] != low[order[:-1]]) & (high[order[1:]] == high[order[:-1]])):
        # Digests that share a half and no more: one sort does not bring equal ones together.
        order = np.lexsort((low, high))
    high, low = high[order], low[order]
    begins = np.flatnonzero(np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])]))
    is_first = np.zeros(len(digests), dtype=np.bool_)
    if len(digests):
        is_first[np.minimum.reduceat(order, begins)] = True
    return is_first


def _leading(digests: Digests) -> npt.NDArray[np.uint16]:
    """Returns the first two bytes as a number."""
    return digests.view(">u2")[:, 0]


def _halves(digests: Digests) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    halves = np.ascontiguousarray(digests).view(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])
