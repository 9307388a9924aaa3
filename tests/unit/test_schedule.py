"""The schedule: every prefix of an endless stream holds each source within one place of its share."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lemur.schedule import BLOCK_PLACES, Schedule, whole_parts

decimals = st.lists(st.integers(1, 40_000).map(lambda value: value / 400), min_size=1, max_size=40)
weights_of_any_size = st.lists(st.floats(1e-4, 100), min_size=1, max_size=20)
blocks = st.one_of(st.integers(0, 3), st.integers(0, 10**9))


def shares_of(weights: list[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def follow(schedule: Schedule, number: int) -> Fraction:
    """Follows every prefix that ends in a block and returns the largest distance of a count from its share."""
    block, following = schedule.block(number), schedule.block(number + 1)
    first = number * BLOCK_PLACES
    worst = 0
    for source, part in enumerate(schedule.parts):
        here = np.cumsum(block.sources == source)
        assert block.taken[source] + here[-1] == following.taken[source], "two blocks disagree on their common edge"
        # In units of 1 / whole of a place, so that nothing is rounded.
        lag = first * part - int(block.taken[source]) * schedule.whole
        distances = lag + np.arange(1, BLOCK_PLACES + 1) * part - here * schedule.whole
        worst = max(worst, int(np.abs(distances).max()))
    return Fraction(worst, schedule.whole)


@given(decimals, blocks)
@example([10.0, 1.0], 0)
@example([1.0] * 40, 7)
@example([100.0] + [0.25] * 39, 10**9)
@settings(deadline=None, max_examples=60)
def test_decimal_weights_are_kept_exactly_in_every_prefix(weights: list[float], number: int) -> None:
    schedule = Schedule(shares_of(weights))
    exact = [Fraction(str(weight)) for weight in weights]

    if schedule.whole < 2**40:
        assert [Fraction(part, schedule.whole) for part in schedule.parts] == [share / sum(exact) for share in exact]
    assert follow(schedule, number) < 1


@given(weights_of_any_size, blocks)
@settings(deadline=None, max_examples=60)
def test_any_weights_are_kept_in_every_prefix(weights: list[float], number: int) -> None:
    schedule = Schedule(shares_of(weights))

    assert sum(schedule.parts) == schedule.whole
    assert max(np.abs(np.divide(schedule.parts, schedule.whole) - shares_of(weights))) < 2**-39
    assert follow(schedule, number) < 1


@given(st.lists(st.integers(1, 16), min_size=1, max_size=6), st.integers(0, 200))
@settings(deadline=None, max_examples=60)
def test_shares_with_a_short_period_repeat_with_it(parts: list[int], place: int) -> None:
    schedule = Schedule([part / sum(parts) for part in parts])

    counts = schedule.counts(place * schedule.whole)

    assert counts == [place * part for part in schedule.parts]


@given(decimals, st.integers(0, 3 * BLOCK_PLACES))
@settings(deadline=None, max_examples=30)
def test_counts_are_those_of_the_places(weights: list[float], num_places: int) -> None:
    schedule = Schedule(shares_of(weights))
    sources = np.concatenate([schedule.block(number).sources for number in range(4)])

    assert schedule.counts(num_places) == np.bincount(sources[:num_places], minlength=len(weights)).tolist()


@given(decimals, st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_a_rank_counts_the_earlier_places_of_its_source(weights: list[float], number: int) -> None:
    schedule = Schedule(shares_of(weights))
    block = schedule.block(number)

    for source in set(block.sources.tolist()):
        ranks = block.ranks[block.sources == source]
        assert ranks.tolist() == list(range(int(block.taken[source]), int(block.taken[source]) + len(ranks)))


def test_a_block_is_the_same_whichever_was_asked_for_before() -> None:
    shares = shares_of([72.73, 5.148, 1.82, 1.71, 0.124])
    forward, backward = Schedule(shares), Schedule(shares)
    expected = [forward.block(number).sources.tolist() for number in range(6)]

    assert [backward.block(number).sources.tolist() for number in reversed(range(6))] == expected[::-1]


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [10 / 11, 1 / 11]])
def test_simple_shares_become_simple_fractions(shares: list[float]) -> None:
    parts, whole = whole_parts(shares)

    assert whole <= 11
    assert np.allclose(np.divide(parts, whole), shares, rtol=0, atol=1e-16)
