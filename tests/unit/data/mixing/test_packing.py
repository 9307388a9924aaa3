"""Packing: every token once, no sequence overfull, only long documents cut, and best-fit decreasing to the letter."""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemur.data.mixing.packing import Packed, pack
from lemur.dataset.layout import PIECE

Packing = Literal["best_fit", "concatenate"]
Piece = tuple[int, int, int]
PACKINGS: tuple[Packing, ...] = ("best_fit", "concatenate")


class Documents(NamedTuple):
    """Kept documents of a partition: others may have stood between them."""

    starts: list[int]
    lengths: list[int]
    rows: list[int]


def documents(lengths: list[int], gaps: list[int] | None = None) -> Documents:
    """Lays documents out in a partition, with so many documents of one token left out before each."""
    starts, rows, start, row = list[int](), list[int](), 0, 0
    for length, gap in zip(lengths, gaps or [0] * len(lengths), strict=True):
        start, row = start + gap, row + gap
        starts.append(start)
        rows.append(row)
        start, row = start + length, row + 1
    return Documents(starts, lengths, rows)


def packed(kept: Documents, sequence_length: int, packing: Packing) -> Packed:
    return pack(
        np.array(kept.starts, dtype=np.uint64),
        np.array(kept.lengths, dtype=np.uint64),
        np.array(kept.rows, dtype=np.uint32),
        sequence_length=sequence_length,
        packing=packing,
    )


def as_sequences(result: Packed) -> list[list[Piece]]:
    pieces: list[Piece] = result.pieces.tolist()
    firsts = result.firsts.tolist()
    return [pieces[first:end] for first, end in itertools.pairwise(firsts)]


def best_fit_decreasing(kept: Documents, sequence_length: int) -> list[list[Piece]]:
    """Places one chunk after another, by the definition."""
    chunks = [
        (start + offset, min(sequence_length, length - offset), row)
        for start, length, row in zip(*kept, strict=True)
        for offset in range(0, length, sequence_length)
    ]
    sequences, rooms = list[list[Piece]](), list[int]()
    for chunk in sorted(chunks, key=lambda chunk: -chunk[1]):
        fitting = [(room, index) for index, room in enumerate(rooms) if room >= chunk[1]]
        if not fitting:
            fitting = [(sequence_length, len(rooms))]
            sequences.append([])
            rooms.append(sequence_length)
        _, chosen = min(fitting)
        sequences[chosen].append(chunk)
        rooms[chosen] -= chunk[1]
    return sequences


@st.composite
def kept_documents(draw: st.DrawFn) -> tuple[Documents, int]:
    """Draws a sequence length and documents: many of few lengths, some of them longer than a sequence."""
    sequence_length = draw(st.integers(1, 60))
    any_length = st.integers(1, draw(st.sampled_from([sequence_length, 3 * sequence_length])))
    groups = draw(st.lists(st.tuples(any_length, st.integers(1, 12)), max_size=12))
    lengths = draw(st.permutations([length for length, count in groups for _ in range(count)]))
    gaps = draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    return documents(lengths, gaps), sequence_length


@pytest.mark.parametrize("packing", PACKINGS)
@given(drawn=kept_documents())
def test_every_token_of_every_document_is_in_exactly_one_piece(packing: Packing, drawn: tuple[Documents, int]) -> None:
    kept, sequence_length = drawn
    result = packed(kept, sequence_length, packing)
    assert result.pieces.dtype == PIECE
    tokens = [(row, place) for start, length, row in result.pieces.tolist() for place in range(start, start + length)]
    expected = [
        (row, place) for start, length, row in zip(*kept, strict=True) for place in range(start, start + length)
    ]
    assert sorted(tokens) == expected
    assert result.num_tokens == len(expected)


@pytest.mark.parametrize("packing", PACKINGS)
@given(drawn=kept_documents())
def test_no_sequence_is_overfull_or_empty_and_padding_is_what_stays_free(
    packing: Packing, drawn: tuple[Documents, int]
) -> None:
    kept, sequence_length = drawn
    result = packed(kept, sequence_length, packing)
    assert result.firsts.dtype == np.dtype("<u8")
    assert (result.firsts[0], result.firsts[-1]) == (0, len(result.pieces))
    filled = [sum(length for _, length, _ in sequence) for sequence in as_sequences(result)]
    assert all(0 < size <= sequence_length for size in filled)
    assert result.num_padding_tokens == sum(sequence_length - size for size in filled)
    assert all(length > 0 for length in result.pieces["length"].tolist())


@pytest.mark.parametrize("packing", PACKINGS)
@given(drawn=kept_documents())
def test_documents_in_more_than_one_piece_are_counted_as_cut(packing: Packing, drawn: tuple[Documents, int]) -> None:
    kept, sequence_length = drawn
    result = packed(kept, sequence_length, packing)
    pieces_of = np.bincount(result.pieces["document"], minlength=1)
    assert result.num_cut_documents == np.count_nonzero(pieces_of > 1)
    if packing == "best_fit":
        assert result.num_cut_documents == sum(length > sequence_length for length in kept.lengths)


@given(drawn=kept_documents())
def test_best_fit_is_best_fit_decreasing_chunk_by_chunk(drawn: tuple[Documents, int]) -> None:
    kept, sequence_length = drawn
    result = packed(kept, sequence_length, "best_fit")
    assert as_sequences(result) == best_fit_decreasing(kept, sequence_length)


@pytest.mark.parametrize("spread", [0.3, 1.2, 2.0])
def test_best_fit_is_best_fit_decreasing_on_many_documents(spread: float) -> None:
    lengths = np.random.default_rng(7).lognormal(np.log(25), spread, 3000).astype(int) + 1
    kept = documents(lengths.tolist())
    assert as_sequences(packed(kept, 128, "best_fit")) == best_fit_decreasing(kept, 128)


@given(drawn=kept_documents())
def test_at_most_one_sequence_of_best_fit_is_half_free(drawn: tuple[Documents, int]) -> None:
    kept, sequence_length = drawn
    sequences = as_sequences(packed(kept, sequence_length, "best_fit"))
    filled = [sum(length for _, length, _ in sequence) for sequence in sequences]
    assert sum(2 * size <= sequence_length for size in filled) <= 1


@given(drawn=kept_documents(), chance=st.randoms(use_true_random=False))
def test_the_order_of_documents_decides_only_which_of_equal_length_stands_where(
    drawn: tuple[Documents, int], chance: random.Random
) -> None:
    kept, sequence_length = drawn
    shuffled = list(kept.lengths)
    chance.shuffle(shuffled)
    results = [packed(documents(lengths), sequence_length, "best_fit") for lengths in (kept.lengths, shuffled)]
    assert results[0].pieces["length"].tolist() == results[1].pieces["length"].tolist()
    assert results[0].firsts.tolist() == results[1].firsts.tolist()


@given(drawn=kept_documents())
def test_concatenate_reads_the_documents_in_order_and_fills_all_sequences_but_the_last(
    drawn: tuple[Documents, int],
) -> None:
    kept, sequence_length = drawn
    sequences = as_sequences(packed(kept, sequence_length, "concatenate"))
    tokens = [
        place for sequence in sequences for start, length, _ in sequence for place in range(start, start + length)
    ]
    assert tokens == [
        place for start, length in zip(kept.starts, kept.lengths, strict=True) for place in range(start, start + length)
    ]
    assert all(sum(length for _, length, _ in sequence) == sequence_length for sequence in sequences[:-1])
    assert all(len({row for _, _, row in sequence}) == len(sequence) for sequence in sequences), "cut within a sequence"


def test_long_documents_are_cut_from_their_beginning_and_whole_sequences_come_first() -> None:
    result = packed(documents([3, 17, 2, 8]), 8, "best_fit")
    assert as_sequences(result) == [[(3, 8, 1)], [(11, 8, 1)], [(22, 8, 3)], [(0, 3, 0), (20, 2, 2), (19, 1, 1)]]
    assert (result.num_tokens, result.num_padding_tokens, result.num_cut_documents) == (30, 2, 1)


def test_the_earlier_of_sequences_with_equal_room_takes_a_piece() -> None:
    result = packed(documents([6, 6, 2, 2]), 8, "best_fit")
    assert as_sequences(result) == [[(0, 6, 0), (12, 2, 2)], [(6, 6, 1), (14, 2, 3)]]


def test_a_few_short_documents_leave_room_in_the_sequences_after_the_one_they_went_to() -> None:
    result = packed(documents([10, 10, 10, 2] + [1] * 16), 16, "best_fit")
    lengths = [[length for _, length, _ in sequence] for sequence in as_sequences(result)]
    assert lengths == [[10, 2, 1, 1, 1, 1], [10, 1, 1, 1, 1, 1, 1], [10, 1, 1, 1, 1, 1, 1]]


def test_concatenate_cuts_where_a_sequence_ends_and_pads_the_last() -> None:
    result = packed(documents([3, 17, 2]), 8, "concatenate")
    assert as_sequences(result) == [[(0, 3, 0), (3, 5, 1)], [(8, 8, 1)], [(16, 4, 1), (20, 2, 2)]]
    assert (result.num_tokens, result.num_padding_tokens, result.num_cut_documents) == (22, 2, 1)


@pytest.mark.parametrize("packing", PACKINGS)
def test_no_documents_make_no_sequences(packing: Packing) -> None:
    result = packed(documents([]), 8, packing)
    assert (result.pieces.shape, result.pieces.dtype, result.firsts.tolist()) == ((0,), PIECE, [0])
    assert (result.num_tokens, result.num_padding_tokens, result.num_cut_documents) == (0, 0, 0)


@pytest.mark.parametrize("packing", PACKINGS)
def test_places_beyond_what_a_double_holds_are_exact(packing: Packing) -> None:
    start, row = 2**60 + 1, 2**32 - 1
    result = packed(Documents([start], [11], [row]), 8, packing)
    assert as_sequences(result) == [[(start, 8, row)], [(start + 8, 3, row)]]


def test_best_fit_pads_little_where_lengths_are_spread() -> None:
    lengths = np.random.default_rng(3).lognormal(np.log(600), 1.2, 30_000).astype(int) + 1
    result = packed(documents(lengths.tolist()), 4096, "best_fit")
    assert result.num_padding_tokens <= 0.0005 * result.num_tokens


def test_equal_documents_are_packed_as_they_were_when_stored_results_were_made() -> None:
    kept = documents([1 + number * number * 2654435761 % 9973 for number in range(2000)])
    digests = {}
    for packing in PACKINGS:
        result = packed(kept, 4096, packing)
        digests[packing] = hashlib.sha256(result.pieces.tobytes() + result.firsts.tobytes()).hexdigest()[:16]
    assert digests == {"best_fit": "bdf07c117ac19c60", "concatenate": "97ef9b4193f5acd3"}
