"""Asks for checkpoints, and moves them to storage."""

from __future__ import annotations

import shutil
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.progress import Task
from lemur.training.checkpoints.steps import StepCheckpoints
from lemur.training.loop.curve import LossCurve
from lemur.training.settings import local_folder


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
