"""Shows how training goes: loss, speed and utilisation, beside the progress bar and in the loss curve."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur import units
from lemur.progress import Task, emit
from lemur.training.loop.curve import LossCurve
from lemur.training.loop.events import EventFile
from lemur.training.loop.waiting import WaitingTrainer


class Watching(TrainerCallback):
    """Keeps the loss curve, and shows loss, speed and utilisation beside the progress bar.

    The first process also writes TensorBoard events into the job's local folder while training goes on; they go to
    storage with the model.

    Args:
        curve: Loss curve to add to.
        bar: Progress in steps; `None` in processes that do not show any.
        tokens_at: Tokens trained on after so many steps.
        folder: Local folder of the job, for TensorBoard events.
        first_step: Steps that earlier attempts have done.
    """

    def __init__(
        self, curve: LossCurve, bar: Task | None, *, tokens_at: Callable[[int], int], folder: Path, first_step: int
    ) -> None:
        self._curve, self._bar, self._tokens_at, self._folder = curve, bar, tokens_at, folder
        self._first_step = first_step
        self._events: EventFile | None = None
        self.trainer: WaitingTrainer | None = None
        """The Trainer, which is made around this callback and set afterwards; it knows how long it waited for data."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        if self._bar:
            self._events = EventFile(self._folder, self._curve.points, step=self._first_step)
            emit("note", text=f"{self._bar.name}: to watch, run tensorboard --logdir {self._events.folder}")
            self._bar.update(self._first_step)
        self._curve.start(self._tokens_at(self._first_step))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes in a step's figures."""
        # The Trainer keeps every step's log for ever and writes it into each checkpoint; the curve does that better.
        state.log_history.clear()
        if not logs or "loss" not in logs:
            return
        step, loss = state.global_step, logs["loss"]
        closed = self._curve.add(
            step,
            self._tokens_at(step),
            loss=loss,
            learning_rate=logs["learning_rate"],
            grad_norm=float(logs["grad_norm"]),
            wait_seconds=self.trainer.data_wait_seconds if self.trainer else 0.0,
        )
        if self._bar:
            self._bar.update(step, **self._details() if closed else {})
        if self._events and closed:
            self._events.add(self._curve.points[-1])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Completes the events."""
        if self._events:
            self._events.close()

    def _details(self) -> dict[str, str]:
        point = self._curve.points[-1]
        details = {
            "loss": "skipped" if point["loss"] is None else f"{point['loss']:.3f}",
            "tokens/s": f"{point['tokens_per_second']:,.0f}",
            "mfu": f"{point['mfu']:.1%}",
        }
        if point["data_wait_share"] >= 0.01:
            details["data wait"] = units.percent(point["data_wait_share"])
        if self._curve.skipped_steps:
            details["skipped"] = units.count(len(self._curve.skipped_steps), "steps")
        return details


def peak_memory_bytes() -> int:
    """Returns the most memory this process has used: of its GPU for tensors, or of the machine where it has no GPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
