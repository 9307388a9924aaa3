"""Micro batches as the model reads them: whole dialogues that do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lemur.training.dialogues.arrangement import Arrangement
from lemur.training.dialogues.encoding import EncodedDialogues
from lemur.training.isolation import NO_LABEL

_SHORTEST = 2
"""Tokens of a micro batch that has no dialogue: one cannot be a label."""


class MicroBatches(Dataset[dict[str, torch.Tensor]]):
    """The micro batches of a run from a given step on, as the Trainer reads them.

    Step s has `num_micro_batches` items; the Trainer deals them to the processes in turn. The rows of a step are
    spread over them evenly, neighbours by length together; which rows a step has does not depend on their number. A
    step with fewer rows than micro batches has some with nothing to learn.

    Attention in `transformers` knows dialogues apart by positions that begin again, as long as there is no attention
    mask and no cache. With `flat`, a micro batch is one row without padding, as variable-length kernels want it;
    otherwise it is a matrix of rows, padded at their ends.

    Args:
        dialogues: The encoded dialogues.
        arrangement: Which of them each step learns from.
        num_micro_batches: Micro batches of a step, over all processes.
        rows_at_once: Rows in a micro batch, at most.
        pad_token_id: Token of places that nothing stands at.
        first_step: Steps that are done already.
        flat: Whether a micro batch is one row.
        full: Whether every micro batch has the same size: `rows_at_once` rows of the arrangement's capacity.
    """

    def __init__(
        self,
        dialogues: EncodedDialogues,
        arrangement: Arrangement,
        *,
        num_micro_batches: int,
        rows_at_once: int,
        pad_token_id: int,
        first_step: int = 0,
        flat: bool = False,
        full: bool = False,
    ) -> None:
        self._dialogues, self._arrangement = dialogues, arrangement
        self.num_micro_batches = num_micro_batches
        """Micro batches of a step, over all processes."""
        self._rows_at_once = rows_at_once
        self._pad_token_id, self._first_step, self._flat = pad_token_id, first_step, flat
        self._row_length = arrangement.capacity if full else None
        if arrangement.most_rows > num_micro_batches * rows_at_once:
            raise ValueError(
                f"{num_micro_batches} micro batches of {rows_at_once} rows do not hold the {arrangement.most_rows} "
                "rows of a step"
            )

    def __len__(self) -> int:
        return self._arrangement.num_steps * self.num_micro_batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        step, number = divmod(index + self._first_step * self.num_micro_batches, self.num_micro_batches)
        # What would come after the last step is asked for by a loader that reads ahead, and used by no one.
        rows = self.rows(step, number) if step < self._arrangement.num_steps else range(0)
        return self._tensors([self._read(row) for row in rows])

    def rows(self, step: int, number: int) -> range:
        """Returns the rows of one micro batch of a step."""
        first, stop = (int(self._arrangement.step_firsts[step + end]) for end in (0, 1))
        starts = [first + (number + end) * (stop - first) // self.num_micro_batches for end in (0, 1)]
        return range(*starts)

    def origins(self, place: int) -> list[str]:
        """Returns where the dialogues of a micro batch come from.

        Args:
            place: Number of the micro batch in the whole run.
        """
        rows = self.rows(*divmod(place, self.num_micro_batches))
        return self._dialogues.origins([number for row in rows for number in self._arrangement.row(row).tolist()])

    def _read(self, row: int) -> tuple[np.ndarray[Any, Any], ...]:
        """Returns ids, labels and positions of a row, each [tokens]."""
        parts = [self._dialogues[number] for number in self._arrangement.row(row).tolist()]
        token_ids = np.concatenate([ids for ids, _ in parts]).astype(np.int64)
        learned = np.concatenate([mask for _, mask in parts])
        positions = np.concatenate([np.arange(len(ids)) for ids, _ in parts])
        return token_ids, np.where(learned, token_ids, NO_LABEL), positions

    def _tensors(self, rows: Sequence[tuple[np.ndarray[Any, Any], ...]]) -> dict[str, torch.Tensor]:
        if self._flat and rows:
            rows = [tuple(np.concatenate(columns) for columns in zip(*rows, strict=True))]
        num_rows, length = max(1, len(rows)), max([_SHORTEST, *(len(row[0]) for row in rows)])
        if self._row_length:
            num_rows, length = self._rows_at_once, self._row_length
            if self._flat:
                num_rows, length = 1, num_rows * length
        token_ids = torch.full((num_rows, length), self._pad_token_id)
        labels = torch.full((num_rows, length), NO_LABEL)
        positions = torch.zeros((num_rows, length), dtype=torch.int64)
        for number, (ids, row_labels, row_positions) in enumerate(rows):
            end = len(ids)
            token_ids[number, :end] = torch.from_numpy(ids)
            labels[number, :end] = torch.from_numpy(row_labels)
            positions[number, :end] = torch.from_numpy(row_positions)
            # Padding counts as one more dialogue, which nothing is learned from.
            positions[number, end:] = torch.arange(length - end)
        if not rows:
            positions[:] = torch.arange(length)
        return {"input_ids": token_ids, "labels": labels, "position_ids": positions}


def one_item(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collates for the Trainer, whose batches are single items: a micro batch is whole already."""
    (item,) = items
    return item
