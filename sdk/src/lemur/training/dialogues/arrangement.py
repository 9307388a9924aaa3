"""Which dialogues each optimizer step of a run learns from: decided by the seed, whatever the number of processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lemur.packing import Integers
from lemur.training.dialogues.packing import pack_dialogues


@dataclass(frozen=True)
class Arrangement:
    """The dialogues of a whole run in rows, and the rows in steps.

    A row is what stands in one sequence: a pack, or one dialogue where nothing is packed.
    """

    dialogues: Integers
    """Numbers of dialogues, row after row, [dialogues of all passes]."""
    row_firsts: Integers
    """Where each row begins in `dialogues`, and their number at the end, [rows + 1]."""
    step_firsts: Integers
    """Where each step begins among the rows, and their number at the end, [steps + 1]."""
    row_lengths: Integers
    """Tokens in each row, [rows]."""
    capacity: int | None
    """Tokens that a row has room for; `None` where rows are as long as what is in them."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the run."""
        return len(self.step_firsts) - 1

    @property
    def most_rows(self) -> int:
        """Rows of the step that has most; no step has more than one less."""
        return int(np.diff(self.step_firsts).max())

    @property
    def tokens_after(self) -> Integers:
        """Tokens trained on after each step, [steps + 1]."""
        return np.concatenate([[0], np.cumsum(self.row_lengths)])[self.step_firsts]

    def row(self, number: int) -> Integers:
        """Returns the dialogues of a row, in the order in which they stand."""
        return self.dialogues[self.row_firsts[number] : self.row_firsts[number + 1]]

    def padding_share(self, rows_at_once: int) -> float:
        """Returns the share of places that no token takes.

        Args:
            rows_at_once: Rows of a micro batch, which are padded to the longest of them where no capacity is given.
        """
        num_tokens = int(self.row_lengths.sum())
        if self.capacity:
            return 1 - num_tokens / (len(self.row_lengths) * self.capacity)
        num_places = 0
        for first, stop in zip(self.step_firsts[:-1], self.step_firsts[1:], strict=True):
            for start in range(first, stop, rows_at_once):
                together = self.row_lengths[start : min(start + rows_at_once, stop)]
                num_places += int(together.max()) * len(together)
        return 1 - num_tokens / num_places


def arrange(
    lengths: Integers,
    *,
    epochs: float,
    batch_dialogues: int,
    packing: Literal["best_fit", "none"],
    capacity: int,
    seed: int,
) -> Arrangement:
    """Lays out a run; equal arguments give the same on every machine and with any number of processes.

    Every pass over the data is a shuffle, and packs, of its own, so what a step learns from is a chance sample. The
    last pass of a broken number of epochs reads so many dialogues, drawn by chance. Steps get `batch_dialogues`
    dialogues on average, in whole rows: there are as many steps as without packing, unless packs hold more dialogues
    than a step is to have; then each step has one pack. Within a step rows stand by length, so that those of a micro
    batch are alike.

    Args:
        lengths: Tokens of each dialogue, at most `capacity`, [dialogues].
        epochs: Passes over the dialogues.
        batch_dialogues: Dialogues of a step.
        packing: Whether a row is a pack, or one dialogue.
        capacity: Tokens in a pack.
        seed: Seed of the arrangement.
    """
    passes = [
        _one_pass(lengths, packing, capacity, np.random.default_rng([seed, number]), share)
        for number, share in enumerate(_shares(epochs))
    ]
    dialogues = np.concatenate([numbers for numbers, _ in passes])
    num_in_rows = np.concatenate([counts for _, counts in passes])
    row_firsts = np.concatenate([[0], np.cumsum(num_in_rows)])
    row_lengths = np.add.reduceat(lengths[dialogues], row_firsts[:-1])
    num_rows = len(row_lengths)
    num_steps = min(num_rows, math.ceil(len(dialogues) / batch_dialogues))
    step_firsts = np.arange(num_steps + 1) * num_rows // num_steps
    step_of_row = np.repeat(np.arange(num_steps), np.diff(step_firsts))
    by_length = np.lexsort((row_lengths, step_of_row))
    return Arrangement(
        dialogues=dialogues[_of_rows(by_length, row_firsts)],
        row_firsts=np.concatenate([[0], np.cumsum(num_in_rows[by_length])]),
        step_firsts=step_firsts,
        row_lengths=row_lengths[by_length],
        capacity=capacity if packing == "best_fit" else None,
    )


def _shares(epochs: float) -> list[float]:
    """Returns the share of the dialogues that each pass reads."""
    whole = math.floor(epochs)
    rest = epochs - whole
    return [1.0] * whole + ([rest] if rest > 0 or not whole else [])


def _one_pass(
    lengths: Integers,
    packing: Literal["best_fit", "none"],
    capacity: int,
    generator: np.random.Generator,
    share: float,
) -> tuple[Integers, Integers]:
    """Returns the dialogues of a pass, row after row, and how many are in each row."""
    chosen = np.arange(len(lengths))
    if share < 1:
        chosen = np.sort(generator.permutation(len(lengths))[: max(1, round(share * len(lengths)))])
    if packing == "none":
        return generator.permutation(chosen), np.ones(len(chosen), np.int64)
    packs = pack_dialogues(lengths[chosen], capacity, generator)
    return chosen[packs.dialogues], np.diff(packs.firsts)


def _of_rows(rows: Integers, row_firsts: Integers) -> Integers:
    """Returns the places in `dialogues` of those rows, one row after another."""
    counts = np.diff(row_firsts)[rows]
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts - row_firsts[rows], counts)
