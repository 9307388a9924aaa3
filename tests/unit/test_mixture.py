"""The mixture: where each place leads, and an order that is computed, not stored."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemur.errors import PlanError
from lemur.mixture import Mixture, mixture_shares
from lemur.permutation import permutation_keys, permute
from lemur.recipe import DataSection


def mixture_of(weights: list[float], *, num_sequences: int = 50, seed: int = 0) -> Mixture:
    return Mixture([(f"source-{index}", weight, num_sequences) for index, weight in enumerate(weights)], seed)


@given(st.integers(1, 3000), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    images = permute(np.arange(size), size, permutation_keys(seed, "code", epoch))

    assert np.array_equal(np.sort(images), np.arange(size))


def test_the_order_differs_by_seed_epoch_and_source() -> None:
    orders = {
        tuple(permute(np.arange(100), 100, permutation_keys(seed, source, epoch)).tolist())
        for seed, source, epoch in itertools.product(range(3), ("code", "text"), range(3))
    }

    assert len(orders) == 18
    assert tuple(range(100)) not in orders


def test_an_order_looks_drawn_at_random() -> None:
    size = 4099
    images = permute(np.arange(size), size, permutation_keys(7, "code", 0))

    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.05
    assert (np.abs(np.diff(images)) == 1).sum() < 10


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.lists(st.integers(1, 30), min_size=4, max_size=4))
@settings(deadline=None, max_examples=40)
def test_an_epoch_reads_every_sequence_exactly_once(weights: list[int], sizes: list[int]) -> None:
    sources = [(f"s{index}", float(weight), sizes[index]) for index, weight in enumerate(weights)]
    mixture = Mixture(sources, seed=1)
    num_places = 1500
    seen: dict[tuple[str, int], list[int]] = {}
    for place in range(num_places):
        location = mixture.locate(place)
        seen.setdefault((location.source, location.epoch), []).append(location.sequence)
    sizes_by_name = {name: size for name, _, size in sources}

    for (name, epoch), sequences in seen.items():
        assert len(set(sequences)) == len(sequences)
        complete = mixture.counts(num_places)[name] >= (epoch + 1) * sizes_by_name[name]
        assert not complete or sorted(sequences) == list(range(sizes_by_name[name]))


@pytest.mark.parametrize("num_ranks", [1, 2, 7, 64])
@given(first=st.integers(0, 10**9))
@settings(deadline=None, max_examples=3)
def test_a_place_holds_the_same_for_any_number_of_ranks_and_any_start(num_ranks: int, first: int) -> None:
    whole = mixture_of([3.5, 1, 0.25], num_sequences=37, seed=5)
    places = np.arange(first, first + 200)
    expected = [whole.locate(int(place)) for place in places]

    found: dict[int, Any] = {}
    for rank in range(num_ranks):
        mixture = mixture_of([3.5, 1, 0.25], num_sequences=37, seed=5)
        mine = places[rank::num_ranks]
        for place, source, epoch, sequence in zip(mine, *mixture.locate_many(mine), strict=True):
            found[int(place)] = (mixture.names[source], epoch, sequence)

    assert [found[int(place)] for place in places] == expected


@given(st.integers(0, 5000))
@settings(deadline=None, max_examples=20)
def test_counts_and_epochs_are_those_of_the_places(num_places: int) -> None:
    mixture = mixture_of([5, 2, 1], num_sequences=40)
    names = [mixture.locate(place).source for place in range(num_places)]

    assert mixture.counts(num_places) == {name: names.count(name) for name in mixture.names}
    assert mixture.epochs(num_places)["source-0"] == names.count("source-0") / 40


def test_a_source_that_is_too_small_is_named_with_the_missing_tokens() -> None:
    mixture = Mixture([("code", 10, 100), ("text", 1, 4)], seed=0)

    mixture.check(110, {"code": 1.0, "text": 2.5}, sequence_length=256)
    with pytest.raises(PlanError, match=r"'text' is too small by 512 tokens.*1.5 epochs over 1,024 tokens") as error:
        mixture.check(88, {"code": None, "text": 1.5}, sequence_length=256)
    assert "'code'" not in str(error.value)


def test_a_source_that_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(PlanError, match="'text' holds no sequence"):
        Mixture([("code", 1, 5), ("text", 1, 0)], seed=0)
    with pytest.raises(PlanError, match="'text' has a share of 1e-09"):
        Mixture([("code", 1, 5), ("text", 1e-9, 5)], seed=0)


def test_a_share_is_the_groups_part_times_the_part_within_the_group() -> None:
    source = {"kind": "expressions"}
    data = DataSection.model_validate(
        {
            "sources": [
                {**source, "name": "python", "group": "code", "weight": 3},
                {**source, "name": "java", "group": "code", "weight": 1},
                {**source, "name": "web", "group": "text", "weight": 7},
            ],
            "groups": {"code": 10, "text": 1},
            "sequence_length": 8,
        }
    )

    assert mixture_shares(data) == pytest.approx({"python": 30 / 44, "java": 10 / 44, "web": 1 / 11})
