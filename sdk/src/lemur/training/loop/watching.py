"""Shows how training goes: loss, speed and utilisation, beside the progress bar and in the loss curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.errors import TrainingError
from lemur.progress import Task
from lemur.training.loop.curve import LossCurve


class Watching(TrainerCallback):
    """Keeps the loss curve, and shows loss, speed and utilisation beside the progress bar.

    Utilisation (MFU) is `floating-point operations of a token x tokens a second / peak of all devices`, with
    `6 N + 12 L h s` operations for a token: see `lemur.model_size.training_flops_per_token`.

    Args:
        curve: Loss curve to add to.
        bar: Progress in steps; `None` in processes that do not show any.
        tokens_at: Tokens trained on after so many steps.
        flops_per_token: Floating-point operations for a token.
        peak_flops: Peak of all devices together, in operations a second.
    """

    def __init__(
        self,
        curve: LossCurve,
        bar: Task | None,
        *,
        tokens_at: Callable[[int], int],
        flops_per_token: float,
        peak_flops: float,
    ) -> None:
        self._curve, self._bar, self._tokens_at = curve, bar, tokens_at
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops

    def utilisation(self, tokens_per_second: float) -> float:
        """Returns the share of the peak that a speed amounts to."""
        return self._flops_per_token * tokens_per_second / self._peak_flops

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        self._curve.start(self._tokens_at(state.global_step))
        if self._bar:
            self._bar.update(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Takes in a step's figures.

        Raises:
            TrainingError: The loss is no number any more; earlier checkpoints are good.
        """
        # The Trainer keeps every step's log for ever and writes it into each checkpoint; the curve does that better.
        state.log_history.clear()
        if not logs or "loss" not in logs:
            return
        step, loss = state.global_step, logs["loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {step}; lower the learning rate ({args.learning_rate}) or raise "
                "the warmup, or look at the data of that step"
            )
        closed = self._curve.add(
            step,
            self._tokens_at(step),
            loss=loss,
            learning_rate=logs["learning_rate"],
            grad_norm=float(logs["grad_norm"]),
        )
        if self._bar:
            self._bar.update(step, **self._details() if closed else {})

    def _details(self) -> dict[str, str]:
        point = self._curve.points[-1]
        return {
            "loss": f"{point['loss']:.3f}",
            "tokens/s": f"{point['tokens_per_second']:,.0f}",
            "mfu": f"{self.utilisation(point['tokens_per_second']):.1%}",
        }
