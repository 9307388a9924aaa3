"""Which dialogues the steps of a run learn from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemur.training.dialogues.arrangement import Arrangement, arrange


def arranged(lengths: Any, **changes: Any) -> Arrangement:
    settings = {"epochs": 2.0, "batch_dialogues": 8, "packing": "best_fit", "capacity": 64, "seed": 0}
    return arrange(np.array(lengths), **{**settings, **changes})


def dialogues_of(arrangement: Arrangement, step: int) -> list[int]:
    rows = range(arrangement.step_firsts[step], arrangement.step_firsts[step + 1])
    return [number for row in rows for number in arrangement.row(row).tolist()]


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=80),
    epochs=st.sampled_from([0.3, 1.0, 1.5, 3.0]),
    batch_dialogues=st.integers(1, 16),
    packing=st.sampled_from(["best_fit", "none"]),
    seed=st.integers(0, 2**53 - 1),
)
def test_every_pass_reads_every_dialogue_once(
    lengths: list[int], epochs: float, batch_dialogues: int, packing: str, seed: int
) -> None:
    made = arranged(lengths, epochs=epochs, batch_dialogues=batch_dialogues, packing=packing, seed=seed)

    counts = np.bincount(made.dialogues, minlength=len(lengths))
    assert math.floor(epochs) <= counts.min()
    assert counts.max() <= math.ceil(epochs)
    assert abs(len(made.dialogues) - epochs * len(lengths)) <= 1
    steps = [dialogues_of(made, step) for step in range(made.num_steps)]
    assert sorted(number for step in steps for number in step) == sorted(made.dialogues.tolist())
    assert made.row_lengths.max() <= 64
    assert made.tokens_after[-1] == np.array(lengths)[made.dialogues].sum()
    sizes = np.diff(made.step_firsts)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_packed_or_not_there_are_as_many_steps_with_as_many_dialogues_on_average() -> None:
    lengths = np.random.default_rng(0).integers(5, 40, 1000)

    packed, single = arranged(lengths), arranged(lengths, packing="none")

    assert packed.num_steps == single.num_steps == 250
    tokens = [np.diff(made.tokens_after) for made in (packed, single)]
    assert tokens[0].mean() == pytest.approx(tokens[1].mean())
    # A step has whole packs, so that its tokens differ by what one of them holds.
    assert np.ptp(tokens[0]) <= 2 * 64
    assert single.most_rows == 8


def test_a_step_has_one_pack_where_that_holds_more_than_its_dialogues() -> None:
    made = arranged([4] * 320, epochs=1.0, batch_dialogues=8)

    assert made.num_steps == 20
    assert [len(dialogues_of(made, step)) for step in range(20)] == [16] * 20


def test_the_order_follows_from_the_seed_alone() -> None:
    lengths = np.arange(1, 61)
    first, again, other = (arranged(lengths, seed=seed) for seed in (1, 1, 2))

    assert first.dialogues.tolist() == again.dialogues.tolist()
    assert first.dialogues.tolist() != other.dialogues.tolist()


@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_a_step_is_a_chance_sample(packing: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 3200)

    made = arranged(lengths, epochs=1.0, batch_dialogues=32, packing=packing, capacity=2048)

    means = np.array([lengths[dialogues_of(made, step)].mean() for step in range(made.num_steps)])
    # The means of chance samples of 32 spread by a standard deviation of 288.7 / sqrt(32); of sorted ones, far more.
    assert means.std() < 1.4 * 288.7 / np.sqrt(32)


def test_single_dialogues_stand_beside_others_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 3200)

    made = arranged(lengths, epochs=1.0, batch_dialogues=32, packing="none", capacity=1000)

    assert made.padding_share(rows_at_once=8) < 0.25
