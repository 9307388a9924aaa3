"""The order in which dialogues are read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lemur.training.dialogues.encoding import training_order


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=80),
    num_steps=st.integers(1, 60),
    batch_dialogues=st.integers(1, 16),
    seed=st.integers(0, 2**53 - 1),
)
def test_every_pass_reads_every_dialogue_once(
    lengths: list[int], num_steps: int, batch_dialogues: int, seed: int
) -> None:
    order = training_order(np.array(lengths), num_steps=num_steps, batch_dialogues=batch_dialogues, seed=seed)

    assert len(order) == num_steps * batch_dialogues
    counts = np.bincount(order, minlength=len(lengths))
    # Complete passes hold each dialogue once, and the last, cut one at most once.
    assert counts.max() - counts.min() <= 1


def test_the_order_follows_from_the_seed_alone() -> None:
    lengths = np.arange(1, 101)
    first, again, other = (training_order(lengths, num_steps=20, batch_dialogues=10, seed=seed) for seed in (1, 1, 2))

    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_step_is_a_chance_sample_whose_micro_batches_have_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 3200)

    steps = lengths[training_order(lengths, num_steps=100, batch_dialogues=32, seed=0)].reshape(100, 32)

    # The means of chance samples of 32 spread by a standard deviation of 288.7 / sqrt(32); of sorted ones, far more.
    assert steps.mean(axis=1).std() < 1.3 * 288.7 / np.sqrt(32)
    micro_batches = steps.reshape(400, 8)
    padding = 1 - micro_batches.sum() / (micro_batches.max(axis=1) * 8).sum()
    assert padding < 0.25
