"""What surrounds the library's training loop: progress, the loss curve, utilisation, and checkpoints to storage."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.errors import TrainingError
from lemur.progress import Task
from lemur.receipt import digest_of
from lemur.training.checkpoints import StepCheckpoints
from lemur.training.curve import LossCurve
from lemur.training.settings import local_folder


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


class Seeding(TrainerCallback):
    """Makes what is random in a step, such as dropout, follow from the seed, the step and the process alone.

    So a resumed run draws what an unbroken one draws, without any state of generators to restore.

    Args:
        seed: Seed of the stage.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seeds the generators of all devices."""
        torch.manual_seed(int(digest_of([self._seed, state.global_step, args.process_index])[:15], 16))


class Checkpointing(TrainerCallback):
    """Asks the Trainer for a checkpoint every so many steps, and moves it from the local folder to storage.

    Args:
        checkpoints: Where they are stored.
        curve: Loss curve that goes with them.
        bar: Progress bar that names the last one; `None` in processes that do not show any.
        every_steps: Steps between two.
    """

    def __init__(self, checkpoints: StepCheckpoints, curve: LossCurve, bar: Task | None, *, every_steps: int) -> None:
        self._checkpoints, self._curve, self._bar, self._every_steps = checkpoints, curve, bar, every_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint; not after the last step, when the model itself is stored."""
        control.should_save = state.global_step % self._every_steps == 0 and state.global_step < state.max_steps

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stores the checkpoint that the Trainer has just written."""
        # Every rank writes its own random state into the folder.
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            folder = local_folder(args) / f"checkpoint-{state.global_step}"
            # A pickle of the arguments, which nothing here reads.
            (folder / "training_args.bin").unlink(missing_ok=True)
            self._curve.save(folder)
            self._checkpoints.store(state.global_step, folder)
            shutil.rmtree(folder)
            if self._bar:
                self._bar.update(state.global_step, checkpoint=f"step {state.global_step}")
        args.distributed_state.wait_for_everyone()
