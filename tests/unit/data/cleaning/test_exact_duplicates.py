"""Exact duplicates: the first document of each text, with bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemur.data.cleaning.exact_duplicates import first_occurrences, is_member

Digests = npt.NDArray[np.uint8]

HALVES = st.sampled_from([b"\0" * 8, b"\0" * 7 + b"\1", b"\1" + b"\0" * 7, b"\x7f" * 8, b"\xff" * 8])
"""Few enough for digests to be equal, or to share one half only."""
DIGESTS = st.lists(st.tuples(HALVES, HALVES).map(b"".join), max_size=20)


def array(digests: list[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


@given(st.lists(DIGESTS, max_size=5), st.sampled_from([None, 1, 2, 3, 255, 1000]))
def test_the_first_document_with_a_digest_is_kept_and_no_other(parts: list[list[bytes]], buckets: int | None) -> None:
    seen = set[bytes]()
    expected = [[len(seen) < len(seen := seen | {digest}) for digest in part] for part in parts]

    found = first_occurrences([array(part) for part in parts], num_buckets=buckets)

    assert [flags.tolist() for flags in found] == expected


@given(DIGESTS, DIGESTS)
def test_a_digest_is_found_in_a_set_when_all_of_it_is_there(digests: list[bytes], wanted: list[bytes]) -> None:
    assert is_member(array(digests), array(wanted)).tolist() == [digest in set(wanted) for digest in digests]


def test_every_bucket_is_looked_at() -> None:
    digests = np.random.default_rng(0).integers(0, 256, (5_000, 16), dtype=np.uint8)
    twice = [digests, digests[::-1]]

    for num_buckets in (1, 7, 2048):
        first, second = first_occurrences(twice, num_buckets=num_buckets)
        assert first.all(), num_buckets
        assert not second.any(), num_buckets


def test_memory_is_that_of_one_bucket_for_digests_on_disk(tmp_path: Path) -> None:
    digests = np.random.default_rng(0).integers(0, 256, (400_000, 16), dtype=np.uint8)
    np.save(tmp_path / "digests.npy", digests)
    mapped = np.load(tmp_path / "digests.npy", mmap_mode="r")

    def peak_bytes(num_buckets: int) -> int:
        tracemalloc.start()
        first_occurrences([mapped[:150_000], mapped[150_000:]], num_buckets=num_buckets)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(64) < 3_000_000
    assert peak_bytes(1) > 20_000_000


def test_no_documents_are_no_trouble() -> None:
    none = np.empty((0, 16), dtype=np.uint8)

    assert first_occurrences([]) == []
    assert [flags.tolist() for flags in first_occurrences([none, none])] == [[], []]
    assert is_member(none, none).tolist() == []
    with pytest.raises(ValueError, match="size"):
        is_member(np.zeros((2, 15), dtype=np.uint8), none)
