"""Near-duplicates: what is found, which one stays, and what is left alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemur.data.cleaning import near_duplicates
from lemur.data.cleaning.minhash import signatures
from lemur.data.cleaning.near_duplicates import Flags, NearGroup, Signatures, band_places, later_near_duplicates
from lemur.recipe.data import NearDuplicates

SECTION = NearDuplicates()
VOCABULARY = [f"word{number}" for number in range(5000)]


def text(seed: int, num_words: int = 300) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=num_words))


def changed(original: str, num_changes: int, seed: int = 0) -> str:
    words = original.split()
    for place in random.Random(seed).sample(range(len(words)), num_changes):
        words[place] = "changed"
    return " ".join(words)


def left_out(parts: list[list[str]], section: NearDuplicates = SECTION) -> list[list[int]]:
    found = later_near_duplicates(
        [signatures(part, section) for part in parts], [np.ones(len(part), dtype=np.bool_) for part in parts], section
    )
    return [np.flatnonzero(flags).tolist() for flags in found.left_out]


def slowly(parts: list[Signatures], kept: list[Flags], section: NearDuplicates) -> list[list[bool]]:
    """Returns what is to be left out, by comparing each document with all earlier ones that are kept."""
    places = band_places(section.threshold, section.num_permutations)
    num_bands = section.num_permutations // places
    before = list[Signatures]()

    def is_near(signature: Signatures) -> bool:
        agree = [signature == other for other in before]
        return any(
            np.count_nonzero(places_equal) >= section.threshold * section.num_permutations
            and places_equal[: num_bands * places].reshape(num_bands, places).all(axis=1).any()
            for places_equal in agree
        )

    found = []
    for part, flags in zip(parts, kept, strict=True):
        found.append([False] * len(part))
        for row in np.flatnonzero(flags).tolist():
            found[-1][row] = is_near(part[row])
            if not found[-1][row]:
                before.append(part[row])
    return found


def test_documents_with_a_few_words_changed_are_found_and_unrelated_ones_are_not() -> None:
    originals = [text(seed) for seed in range(300)]
    planted = [changed(original, 2, seed) for seed, original in enumerate(originals[:100])]

    assert left_out([originals, planted]) == [[], list(range(100))]


def test_the_first_of_all_sources_stays_and_what_is_less_alike_too() -> None:
    original = text(1)
    near, far = changed(original, 3), changed(original, 40)

    assert left_out([[text(2), near], [], [original, far, text(2)], [near.upper(), "short", "Short!"]]) == [
        [],
        [],
        [0, 2],
        [0, 2],
    ]


def test_no_chain_of_small_changes_joins_documents_that_are_unlike() -> None:
    words = text(1, 400).split()
    chain = [" ".join([f"new{number}" for number in range(30 * step)] + words[30 * step :]) for step in range(6)]

    # Each is like the one before and no other.
    assert left_out([chain]) == [[1, 3, 5]]


def test_documents_that_are_left_out_already_count_for_nothing() -> None:
    original = text(1)
    parts = [signatures([original, text(2)], SECTION), signatures([changed(original, 1), original], SECTION)]

    found = later_near_duplicates(parts, [np.array([False, True]), np.array([True, True])], SECTION)

    assert [flags.tolist() for flags in found.left_out] == [[False, False], [False, True]]
    assert found.largest == [NearGroup(partition=1, row=0, num_left_out=1)]


def test_the_largest_groups_are_named() -> None:
    parts = [[text(1), text(2)], [text(3), *(changed(text(2), 1, seed) for seed in range(5)), changed(text(1), 1)]]

    found = later_near_duplicates(
        [signatures(part, SECTION) for part in parts], [np.ones(len(part), dtype=np.bool_) for part in parts], SECTION
    )

    assert found.largest == [NearGroup(0, 1, 5), NearGroup(0, 0, 1)]


@settings(deadline=None, max_examples=200)
@given(
    copies=st.lists(st.tuples(st.integers(0, 29), st.integers(0, 12)), max_size=30),
    threshold=st.sampled_from([0.5, 0.7, 0.8, 0.95, 1.0]),
    num_partitions=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_it_is_what_comparing_all_with_all_finds(
    copies: list[tuple[int, int]], threshold: float, num_partitions: int, seed: int
) -> None:
    # Each is a copy of an earlier one, or new, with some places changed: the copies drift apart.
    generator = np.random.default_rng(seed)
    documents = generator.integers(0, 2**32, (len(copies), 64), dtype=np.uint32)
    for row, (copied, num_changed) in enumerate(copies):
        if copied < row:
            same = generator.permutation(64)[num_changed:]
            documents[row, same] = documents[copied, same]
    parts = np.array_split(documents[generator.permutation(len(documents))], num_partitions)
    kept = [generator.random(len(part)) < 0.8 for part in parts]
    section = NearDuplicates(threshold=threshold, num_permutations=64)

    found = later_near_duplicates(parts, kept, section)

    assert [flags.tolist() for flags in found.left_out] == slowly(parts, kept, section)


def test_what_was_left_out_for_one_that_is_left_out_itself_is_compared_anew() -> None:
    # A number is a place of a signature, and bands have one place. In all places that `kept` shares with later ones
    # another stands first, so the first comparison finds only that `third` is like `second`.
    hiding = [[1] * 5 + [10 + place for place in range(11)], [30 + place for place in range(5)] + [1] * 5 + [40] * 6]
    kept = [1] * 10 + [50] * 6
    second = [1] * 10 + [60] * 6
    third = [1] * 9 + [70] + [60] * 6
    documents = np.array([*hiding, kept, second, third], dtype=np.uint32)
    section = NearDuplicates(threshold=0.5, num_permutations=16)

    found = later_near_duplicates([documents], [np.ones(5, dtype=np.bool_)], section)

    assert band_places(0.5, 16) == 1
    assert found.left_out[0].tolist() == [False, False, False, True, True]
    assert found.largest == [NearGroup(0, 2, 2)]


def test_signatures_with_equal_hashes_are_not_taken_for_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_hash", lambda columns: np.zeros(len(columns), dtype=np.uint64))

    assert left_out([[text(1), text(2), text(1), changed(text(2), 1)]]) == [[2, 3]]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("num_permutations", [16, 64, 128, 1024])
def test_bands_let_hardly_a_pair_at_the_threshold_pass(threshold: float, num_permutations: int) -> None:
    size = band_places(threshold, num_permutations)

    def missed(places: int) -> float:
        return (1 - threshold**places) ** (num_permutations // places)

    assert missed(size) <= 0.01
    assert missed(size + 1) > 0.01


def test_thousands_of_near_copies_are_found_without_comparing_all_with_all() -> None:
    generator = np.random.default_rng(0)
    documents = np.tile(generator.integers(0, 2**32, 128, dtype=np.uint32), (20_000, 1))
    rows = np.arange(len(documents))
    documents[rows, rows % 128] = generator.integers(0, 2**32, len(documents), dtype=np.uint32)

    found = later_near_duplicates([documents], [np.ones(len(documents), dtype=np.bool_)], SECTION)

    assert np.count_nonzero(found.left_out[0]) == len(documents) - 1


def test_no_documents_are_no_trouble() -> None:
    none = np.empty((0, 128), dtype=np.uint32)

    assert later_near_duplicates([], [], SECTION).left_out == []
    assert [flags.tolist() for flags in later_near_duplicates([none], [np.empty(0, bool)], SECTION).left_out] == [[]]
