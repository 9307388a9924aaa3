"""In which sequences a document is, and where in the training stream they come."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from lemur.data.inspection.figures import Figures
from lemur.dataset import PIECE, TokenDataset, firsts_name, pieces_name
from lemur.dataset.layout import FIRST
from lemur.mixture import Mixture
from lemur.permutation import permutation_keys, permute

_POSITIONS_AT_ONCE = 2**20


class Standing(Figures):
    """Where a piece of a document stands."""

    sequence: int
    """Number of the sequence in its source, in stored order."""
    first_token: int
    """Where the piece begins in the document, in tokens."""
    end_token: int
    """Where it ends there, exclusive."""
    place: int
    """Place of the sequence in the stream, in the first pass over the source."""


def document_standings(dataset: TokenDataset, partition: int, row: int, start: int) -> list[Standing]:
    """Returns where the pieces of a document stand, in order of its tokens.

    Args:
        dataset: The mixture.
        partition: Number of the document's partition.
        row: Its row there.
        start: Its first token in the partition's tokens.
    """
    table = dataset.partitions
    source = table.source(partition)
    same_source = [number for number in range(partition) if table.source(number) == source]
    begin = int(table.num_sequences[same_source].sum())
    end = begin + int(table.num_sequences[partition])
    if begin == end:
        return []
    # Mapped, and only this partition's part is read.
    firsts = np.memmap(dataset.folder / firsts_name(source), FIRST, "r")[begin : end + 1]
    pieces = np.memmap(dataset.folder / pieces_name(source), PIECE, "r")[int(firsts[0]) : int(firsts[-1])]
    found = np.flatnonzero(pieces["document"] == row)
    sequences = begin + np.searchsorted(firsts - firsts[0], found.astype(FIRST), side="right") - 1
    places = first_places(dataset.mixture, source, sequences.tolist())
    standings = [
        Standing(
            sequence=sequence,
            first_token=int(piece["start"]) - start,
            end_token=int(piece["start"]) + int(piece["length"]) - start,
            place=places[sequence],
        )
        for sequence, piece in zip(sequences.tolist(), pieces[found], strict=True)
    ]
    return sorted(standings, key=lambda standing: standing.first_token)


def first_places(mixture: Mixture, source: str, sequences: Sequence[int]) -> dict[int, int]:
    """Returns the place of sequences in the first pass over their source.

    Args:
        mixture: The interleave of the sources.
        source: Name of the source.
        sequences: Numbers of sequences in it.
    """
    index = mixture.names.index(source)
    size, keys = mixture.num_sequences[index], permutation_keys(mixture.seed, source, 0)
    wanted, places = np.unique(np.asarray(sequences, np.int64)), dict[int, int]()
    # The order of an epoch is computed forwards only, so it is walked until all are found.
    for begin in range(0, size, _POSITIONS_AT_ONCE):
        positions = np.arange(begin, min(begin + _POSITIONS_AT_ONCE, size))
        images = permute(positions, size, keys)
        for offset in np.flatnonzero(np.isin(images, wanted)).tolist():
            places[int(images[offset])] = _place_of(mixture, index, begin + offset)
        if len(places) == len(wanted):
            break
    return places


def _place_of(mixture: Mixture, index: int, rank: int) -> int:
    """Returns the place where a source has its turn number `rank`, counted from 0."""
    share, name = mixture.shares[index], mixture.names[index]
    # After any number of places a source's count is within one of its share of them.
    low, high = max(0, math.floor((rank - 1) / share) - 1), math.ceil((rank + 2) / share) + 1
    return bisect_left(range(high), rank + 1, lo=low, key=lambda places: mixture.counts(places)[name]) - 1
