"""Packs of dialogues: nothing is lost, next to nothing is wasted, and chance decides who stands beside whom."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemur.packing import best_fit_decreasing
from lemur.training.dialogues.packing import Packs, pack_dialogues

Lengths = npt.NDArray[np.int64]
CAPACITY = 4096


def spread(median: float, deviation: float, num_dialogues: int, capacity: int = CAPACITY) -> Lengths:
    """Draws lengths as dialogues have them: most are short, and a few are long."""
    drawn = np.random.default_rng(0).lognormal(np.log(median), deviation, num_dialogues)
    return np.clip(drawn.astype(np.int64), 8, capacity)


def packed(lengths: Lengths, capacity: int = CAPACITY, seed: int = 1) -> Packs:
    return pack_dialogues(lengths, capacity, np.random.default_rng(seed))


def fills(lengths: Lengths, packs: Packs) -> Lengths:
    return np.add.reduceat(lengths[packs.dialogues], packs.firsts[:-1])


def padding(lengths: Lengths, packs: Packs, capacity: int = CAPACITY) -> float:
    return 1 - float(lengths.sum()) / ((len(packs.firsts) - 1) * capacity)


def likeness(lengths: Lengths, packs: Packs) -> float:
    """Returns the share of the variance of log lengths that is between packs: 1 where each has lengths of one kind."""
    values = np.log(lengths[packs.dialogues])
    counts = np.diff(packs.firsts)
    means = np.add.reduceat(values, packs.firsts[:-1]) / counts
    return float(1 - ((values - np.repeat(means, counts)) ** 2).sum() / ((values - values.mean()) ** 2).sum())


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=150), seed=st.integers(0, 2**53 - 1))
def test_every_dialogue_stands_whole_in_one_pack(lengths: list[int], seed: int) -> None:
    sizes = np.array(lengths)

    packs = packed(sizes, 60, seed)

    assert sorted(packs.dialogues.tolist()) == list(range(len(lengths)))
    assert fills(sizes, packs).max() <= 60
    assert np.diff(packs.firsts).min() >= 1
    fewest = int(best_fit_decreasing(sizes, 60)[1].max()) + 1
    assert len(packs.firsts) - 1 <= fewest * (1 + 1 / 2000)


@pytest.mark.parametrize(("median", "deviation"), [(700, 1.0), (500, 0.8), (250, 1.2)])
def test_at_most_a_thousandth_is_padding(median: float, deviation: float) -> None:
    lengths = spread(median, deviation, 20_000)

    assert padding(lengths, packed(lengths)) <= 0.001


def test_dialogues_of_agents_that_are_all_long_waste_a_fraction_of_what_they_would(shared_benchmarks: Path) -> None:
    files = sorted((shared_benchmarks / "mint" / "logs").rglob("results.jsonl"))
    states = [json.loads(line)["state"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    # About four characters are a token; none has fewer than 800, so that there is nothing to fill gaps with.
    sizes = [sum(len(turn["content"]) for turn in state["history"]) // 4 for state in states]
    lengths = np.random.default_rng(0).choice(np.clip(sizes, 1, CAPACITY), 20_000)

    assert len(sizes) > 400
    assert padding(lengths, packed(lengths, 2 * CAPACITY), 2 * CAPACITY) <= 0.001
    num_decreasing = int(best_fit_decreasing(lengths, CAPACITY)[1].max()) + 1
    assert padding(lengths, packed(lengths)) < (1 - lengths.sum() / (num_decreasing * CAPACITY)) / 3


def test_packs_mix_long_and_short_as_chance_does_and_best_fit_decreasing_does_not() -> None:
    lengths = spread(500, 0.8, 20_000)
    packs = packed(lengths)
    counts = np.diff(packs.firsts)

    by_chance = likeness(lengths, packs._replace(dialogues=np.random.default_rng(2).permutation(packs.dialogues)))
    order, sequences = best_fit_decreasing(lengths, CAPACITY)
    decreasing = likeness(lengths, Packs(order, np.concatenate([[0], np.cumsum(np.bincount(sequences))])))

    assert len(counts) > 1000
    assert likeness(lengths, packs) < by_chance + 0.15
    assert decreasing > by_chance + 0.5


def test_the_seed_alone_decides() -> None:
    lengths = spread(500, 0.8, 3_000)
    first, again, other = packed(lengths, seed=1), packed(lengths, seed=1), packed(lengths, seed=2)

    assert first.dialogues.tolist() == again.dialogues.tolist()
    assert first.firsts.tolist() == again.firsts.tolist()
    neighbours, others = (
        {frozenset(packs.dialogues[a:b].tolist()) for a, b in zip(packs.firsts, packs.firsts[1:], strict=False)}
        for packs in (first, other)
    )
    assert len(neighbours & others) < len(neighbours) / 20


def test_as_many_dialogues_as_the_paper_tuned_on_are_packed_in_seconds() -> None:
    lengths = spread(400, 1.0, 300_000)

    packs = packed(lengths)

    assert padding(lengths, packs) <= 0.0002
    assert len(packs.dialogues) == 300_000
