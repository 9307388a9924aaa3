"""Which pieces of which documents make up each training sequence: pure functions on arrays.

`concatenate` lays the documents one after another and cuts wherever a sequence ends. `best_fit` is Best-fit Packing
(Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830): only documents longer than a
sequence are cut, into chunks of a sequence and a rest, and all chunks are placed by best-fit decreasing.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.dataset.layout import FIRST, PIECE
from lemur.packing import Integers, best_fit_decreasing, numbers


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
        order, sequences = best_fit_decreasing(chunks.lengths, sequence_length)
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
    sequences = np.repeat(first_sequences, counts) + numbers(counts)
    begins_of_sequences = sequences * sequence_length
    begins_of_sequences -= np.repeat(begins, counts)
    offsets = np.maximum(begins_of_sequences, 0)
    stops = np.minimum(begins_of_sequences + sequence_length, np.repeat(lengths, counts))
    return _Chunks(counts, offsets, stops - offsets), sequences


def _cut_long(lengths: Integers, sequence_length: int) -> _Chunks:
    """Returns chunks of a sequence from the beginning of each document, and what is left of it."""
    counts = -(-lengths // sequence_length)
    offsets = numbers(counts) * sequence_length
    return _Chunks(counts, offsets, np.minimum(np.repeat(lengths, counts) - offsets, sequence_length))
