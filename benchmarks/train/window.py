"""The stretch of a training run that is measured: from the end of the first steps, which compile and warm up, on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.train.measured import Measured
from lemur.training.loop.waiting import WaitingTrainer
from lemur.training.loop.watching import peak_memory_bytes


class CountingTrainer(WaitingTrainer):
    """Counts the tokens it is given; on the device, so that counting waits for nothing."""

    counted: torch.Tensor | None = None
    """Tokens that are no padding, and all, [2]."""

    def training_step(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Counts a micro batch and trains on it."""
        input_ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        # Without a mask a batch has no padding: packs and rows laid end to end are given without one.
        useful = mask.sum() if mask is not None else torch.tensor(input_ids.numel(), device=input_ids.device)
        both = torch.stack([useful, torch.tensor(input_ids.numel(), device=input_ids.device)])
        self.counted = both if self.counted is None else self.counted + both
        return super().training_step(model, inputs, *args, **kwargs)


class Window(TrainerCallback):
    """Starts the clock after the first steps and stops it after the last.

    Args:
        num_warmup_steps: Steps that are not measured.
    """

    def __init__(self, num_warmup_steps: int) -> None:
        self._num_warmup_steps = num_warmup_steps
        self.trainer: CountingTrainer | None = None
        """The Trainer, set once it is made."""
        self._start: tuple[float, float, list[int]] | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clock."""
        if state.global_step == self._num_warmup_steps:
            self._start = self._now()

    def measured(self, loss: float, **extra: Any) -> Measured:
        """Stops the clock and returns what was measured."""
        assert self._start
        end = self._now()
        (tokens, padded), (tokens_before, padded_before) = end[2], self._start[2]
        return Measured(
            tokens - tokens_before,
            padded - padded_before,
            end[0] - self._start[0],
            end[1] - self._start[1],
            peak_memory_bytes(),
            loss,
            extra,
        )

    def _now(self) -> tuple[float, float, list[int]]:
        assert self.trainer
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        counted = self.trainer.counted
        assert counted is not None
        return time.perf_counter(), self.trainer.data_wait_seconds, counted.tolist()
