"""Documents that are almost the same as an earlier one that is kept.

The documents of all sources are gone through in order, and one is left out where its signature agrees with that of an
earlier document *that is kept* in the threshold's share of places. So whatever is left out has something like it in
the mixture, and no chain of small differences joins documents that are unlike each other, as clusters would.

Pairs are looked for among documents whose signatures agree throughout a band of places (locality-sensitive hashing;
Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4), and each is verified on all places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.recipe.data import NearDuplicates

Signatures = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_FOUND_AT_THRESHOLD = 0.99
"""Share of the pairs exactly at the threshold that must agree in a band."""
_MAX_LEADERS = 32
"""In a band, a document is compared with so many of the first that agree with it there, however many more do."""
_ROWS_AT_ONCE = 16_384
_KEYS_AT_ONCE_BYTES = 2**28
_NUM_LARGEST = 10


class NearGroup(NamedTuple):
    """A document that is kept, and how many are left out for it."""

    partition: int
    """Number of its partition."""
    row: int
    """Its row there."""
    num_left_out: int
    """Documents that are left out for it; one that is like several kept ones counts for one of them."""


class NearResult(NamedTuple):
    """What is almost the same as something earlier."""

    left_out: list[Flags]
    """For each partition, [n]: true for a document that is left out."""
    largest: list[NearGroup]
    """The documents for which most are left out, at most ten."""


def later_near_duplicates(
    signatures: Sequence[Signatures], kept: Sequence[Flags], section: NearDuplicates, *, num_fixed: int = 0
) -> NearResult:
    """Finds the documents that are almost the same as an earlier one that is kept.

    Beside the signatures, which may be memory maps, it takes about 80 bytes for a document, 16 bytes for a pair, and
    for the keys of bands 256 MiB or 8 bytes for a document, whichever is more.

    Args:
        signatures: Those of each partition, [n, num_permutations].
        kept: For each partition, [n]: false for documents that are left out already; they count for nothing.
        section: The threshold, and how long a signature is.
        num_fixed: So many documents at the beginning stay, however much alike they are.

    Returns:
        Which documents are left out.
    """
    corpus = _Corpus(signatures, kept)
    first = corpus.first_with_signature()
    distinct = np.flatnonzero(first == np.arange(len(first)))
    reason = _reasons(corpus, distinct, section, num_fixed)[first]
    is_left_out = reason != np.arange(len(first))
    counted = sorted(Counter(reason[is_left_out].tolist()).items(), key=lambda item: (-item[1], item[0]))
    largest = [NearGroup(*corpus.place(document), count) for document, count in counted[:_NUM_LARGEST]]
    return NearResult(corpus.flags(is_left_out), largest)


def band_places(threshold: float, num_permutations: int) -> int:
    """Returns how long a band is: as long as 99 % of the pairs at the threshold still agree in at least one."""
    for size in range(num_permutations, 1, -1):
        if (1 - threshold**size) ** (num_permutations // size) <= 1 - _FOUND_AT_THRESHOLD:
            return size
    return 1


class _Corpus:
    """The kept documents of all partitions, numbered in order."""

    def __init__(self, signatures: Sequence[Signatures], kept: Sequence[Flags]) -> None:
        self._signatures = signatures
        self._offsets = np.concatenate([[0], np.cumsum([len(flags) for flags in kept], dtype=np.int64)])
        self._rows = np.flatnonzero(np.concatenate([np.empty(0, dtype=np.bool_), *kept]))

    @property
    def num_documents(self) -> int:
        """How many there are."""
        return len(self._rows)

    def signatures(self, documents: Rows) -> Signatures:
        """Returns their signatures, [n, num_permutations]."""
        rows = self._rows[documents]
        order = np.argsort(rows, kind="stable")
        limits = np.searchsorted(rows[order], self._offsets)
        found = np.empty((len(rows), self._signatures[0].shape[1]), dtype=np.uint32)
        for partition in np.flatnonzero(np.diff(limits)).tolist():
            chosen = order[limits[partition] : limits[partition + 1]]
            found[chosen] = self._signatures[partition][rows[chosen] - self._offsets[partition]]
        return found

    def agreements(self, some: Rows, others: Rows) -> Rows:
        """Returns in how many places the signatures of documents agree with those of others, [n]."""
        counts = np.empty(len(some), dtype=np.int64)
        for begin in range(0, len(some), _ROWS_AT_ONCE):
            part = slice(begin, begin + _ROWS_AT_ONCE)
            counts[part] = np.count_nonzero(self.signatures(some[part]) == self.signatures(others[part]), axis=1)
        return counts

    def first_with_signature(self) -> Rows:
        """Returns for each document the first one whose signature is the same, [num_documents]."""
        every = np.arange(len(self._rows))
        if not len(every):
            return every
        num_permutations = self._signatures[0].shape[1]
        keys = self.band_keys(every, range(1), num_permutations)[0]
        _, firsts, group = np.unique(keys, return_index=True, return_inverse=True)
        found = firsts[group]
        later = np.flatnonzero(found != every)
        differs = later[self.agreements(later, found[later]) < num_permutations]
        found[differs] = differs
        return found

    def band_keys(self, documents: Rows, bands: range, places: int) -> Keys:
        """Returns a hash for each of some bands of each document, [num_bands, n]."""
        keys = np.empty((len(bands), len(documents)), dtype=np.uint64)
        for begin in range(0, len(documents), _ROWS_AT_ONCE):
            part = self.signatures(documents[begin : begin + _ROWS_AT_ONCE])
            for index, band in enumerate(bands):
                keys[index, begin : begin + len(part)] = _hash(part[:, band * places : (band + 1) * places])
        return keys

    def flags(self, is_left_out: Flags) -> list[Flags]:
        """Returns flags of the documents by partition and row."""
        every = np.zeros(self._offsets[-1], dtype=np.bool_)
        every[self._rows] = is_left_out
        return [every[begin:end] for begin, end in zip(self._offsets[:-1], self._offsets[1:], strict=True)]

    def place(self, document: int) -> tuple[int, int]:
        """Returns a document's partition and row."""
        row = int(self._rows[document])
        partition = int(np.searchsorted(self._offsets, row, side="right")) - 1
        return partition, row - int(self._offsets[partition])


def _reasons(corpus: _Corpus, distinct: Rows, section: NearDuplicates, num_fixed: int) -> Rows:
    """Returns for each document a kept earlier one that it is like; for one that is kept, itself.

    One that has such a reason need not be compared with others. So the first round compares documents only with the
    first that they share a band with, and the next one what is kept after that, now with many. Where a reason turns out
    to be left out itself, what it was the reason for is compared anew. In the end no two that are kept are alike and
    all others have a kept earlier one, which is true of one set only: the one that going through in order gives.
    """
    pairs, compared, max_leaders = np.empty((0, 2), dtype=np.int64), distinct, 1
    while True:
        found = _similar_pairs(corpus, compared, section, max_leaders)
        pairs = np.unique(np.concatenate([pairs, found[found[:, 0] >= num_fixed]]), axis=0)
        reason = _first_kept_neighbours(pairs, corpus.num_documents)
        kept = distinct[reason[distinct] == distinct]
        if max_leaders > 1 and np.isin(kept, compared).all():
            return reason
        compared, max_leaders = kept, _MAX_LEADERS


def _similar_pairs(corpus: _Corpus, documents: Rows, section: NearDuplicates, max_leaders: int) -> Rows:
    """Returns pairs at or above the threshold, the later document and the earlier one, [num_pairs, 2]."""
    places = band_places(section.threshold, section.num_permutations)
    num_bands = section.num_permutations // places
    at_once = max(1, _KEYS_AT_ONCE_BYTES // (8 * max(1, len(documents))))
    # What the threshold asks for, but for the rounding of a product such as 0.7 x 10.
    minimum = math.ceil(section.threshold * section.num_permutations - 1e-9)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for begin in range(0, num_bands, at_once):
        bands = range(begin, min(begin + at_once, num_bands))
        for keys in corpus.band_keys(documents, bands, places):
            for earlier, later in _candidates(keys, max_leaders):
                is_similar = corpus.agreements(documents[earlier], documents[later]) >= minimum
                pairs.append(documents[np.stack([later[is_similar], earlier[is_similar]], axis=1)])
    return np.concatenate(pairs)


def _candidates(keys: Keys, max_leaders: int) -> Iterator[tuple[Rows, Rows]]:
    """Yields documents with equal keys, some of the first of them and the later ones."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    positions = np.arange(len(order))
    begins = np.maximum.accumulate(np.where(np.diff(keys, prepend=~keys[:1]) != 0, positions, 0))
    members = np.flatnonzero(positions > begins)
    for leader in range(max_leaders):
        members = members[positions[members] - begins[members] > leader]
        if not len(members):
            break
        yield order[begins[members] + leader], order[members]


def _first_kept_neighbours(pairs: Rows, num_documents: int) -> Rows:
    """Returns for each document the first kept one that it makes a pair with; for one that is kept, itself.

    Args:
        pairs: The later document and the earlier one, sorted, so that all verdicts about earlier ones are known.
        num_documents: How many there are.
    """
    reason = np.arange(num_documents)
    for begin in range(0, len(pairs), _ROWS_AT_ONCE):
        for later, earlier in pairs[begin : begin + _ROWS_AT_ONCE].tolist():
            if reason[later] == later and reason[earlier] == earlier:
                reason[later] = earlier
    return reason


def _hash(columns: Signatures) -> Keys:
    """Returns a hash of each row, [n], after Fowler, Noll and Vo with the high half mixed in."""
    keys = np.full(len(columns), 0xCBF29CE484222325, dtype=np.uint64)
    for column in columns.T:
        keys ^= column
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return keys
