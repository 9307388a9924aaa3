"""Stretches of words that are looked for in documents, found by a hash of the words they begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.data.cleaning.ngrams import Hashes, Positions, Words

_TABLE_BITS = 32
"""Bits of the table for each stretch: of other hashes about one in so many passes it and is looked for in full."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class StretchColumns(NamedTuple):
    """Stretches as columns, [n] each."""

    hashes: Hashes
    """Of the words that it is found by, with which it begins."""
    begins: Positions
    """Where it begins in the letters of all benchmarks."""
    sizes: Positions
    """How many letters it has, the last space included."""
    owners: npt.NDArray[np.uint16]
    """Number of its benchmark."""
    whole_hashes: Hashes
    """Of all its words."""


def stretch_columns(
    words: Words, num_words: int, *, ngram_words: int, min_telling: int
) -> tuple[StretchColumns, Positions]:
    """Returns the stretches of some texts that are found by so many words.

    Those with too few telling words, different ones of two letters or more, are left out: numbers and single letters
    in a row, such as `1 2 3 4 5 6 7 8`, stand in many a program.

    Args:
        words: The texts.
        num_words: As many as an n-gram has for the n-grams; fewer for the whole texts that have no n-gram, but so many
            words at least.
        ngram_words: Words of an n-gram.
        min_telling: Telling words that a stretch must have.

    Returns:
        The stretches, the first benchmark's and by places in these letters, and the text that each is from, [n].
    """
    if num_words == ngram_words:
        firsts = np.flatnonzero(words.is_within(num_words))
        counts = np.full(len(firsts), num_words)
    else:
        counts = np.diff(words.offsets)
        chosen = (counts >= num_words) & (counts < ngram_words)
        firsts, counts = words.offsets[:-1][chosen], counts[chosen]
    tells = words.num_telling(firsts, counts) >= min_telling
    firsts, lasts = firsts[tells], firsts[tells] + counts[tells] - 1
    begins = words.begins[firsts]
    columns = StretchColumns(
        hashes=words.stretch_hashes(firsts, firsts + num_words - 1),
        begins=begins,
        sizes=words.ends[lasts] + 1 - begins,
        owners=np.zeros(len(firsts), dtype=np.uint16),
        whole_hashes=words.stretch_hashes(firsts, lasts),
    )
    return columns, words.texts_of(firsts)


class Stretches:
    """Stretches that are found by the same number of words.

    Args:
        hashes: Of those words, sorted, [n].
        begins: As in `StretchColumns`, [n].
        sizes: As there, [n].
        owners: As there, [n].
    """

    names = ("hashes", "begins", "sizes", "owners")

    def __init__(self, hashes: Hashes, begins: Positions, sizes: Positions, owners: npt.NDArray[np.uint16]) -> None:
        self.hashes, self.begins, self.sizes, self.owners = hashes, begins, sizes, owners
        num_bits = max(16, (len(hashes) * _TABLE_BITS).bit_length())
        self._shift = np.uint64(64 - num_bits)
        table = np.zeros(1 << num_bits, dtype=np.bool_)
        table[self._places(hashes)] = True
        self._table = np.packbits(table, bitorder="little")

    @classmethod
    def of_columns(cls, parts: Sequence[StretchColumns]) -> Stretches:
        """Returns the stretches of several parts, each once, the first benchmark's where several have it."""
        columns = StretchColumns(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        order = np.lexsort((columns.whole_hashes, columns.hashes))
        hashes, whole = columns.hashes[order], columns.whole_hashes[order]
        is_new = np.concatenate([[True], (np.diff(hashes) != 0) | (np.diff(whole) != 0)])[: len(order)]
        order = order[is_new]
        return cls(*(column[order] for column in columns[:4]))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what the class is made of, by name."""
        return {name: getattr(self, name) for name in self.names}

    def look_up(self, hashes: Hashes) -> tuple[Positions, Positions]:
        """Returns each place in some hashes and each stretch that is found by the hash there, in order, [n] each."""
        table_places = self._places(hashes)
        places = np.flatnonzero(self._table[table_places >> 3] >> (table_places & 7).astype(np.uint8) & 1)
        begins = np.searchsorted(self.hashes, hashes[places])
        counts = np.searchsorted(self.hashes, hashes[places], side="right") - begins
        # One after another, the stretches of each place are numbered from its first one on.
        before = np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), np.repeat(begins, counts) + np.arange(len(before)) - before

    def _places(self, hashes: Hashes) -> Positions:
        return (hashes * _SPREAD >> self._shift).view(np.int64)
