"""Stopping when asked to (SIGTERM): after the step at hand, with a checkpoint, at the same step in every process."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.errors import PreemptedError
from lemur.progress import emit


class Interruption(TrainerCallback):
    """Takes SIGTERM as the request to stop at the end of a step.

    The signal may reach one process of the job first, or alone, and no process may leave while others wait for it.
    So each only says that it was asked, `Guard` brings it up in the reduction of the next step, and all of them
    stop at the end of that one.

    After the last step there is nothing to stop: the model is being stored, which is as good as a checkpoint.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether this process was asked to stop."""
        self.agreed = False
        """Whether all processes know that one was asked to."""

    def listen(self) -> None:
        """Takes SIGTERM from now on; in a thread other than the main one, signals are someone else's.

        Processes forked from this one, such as readers of data, take no notice: a group of processes is often
        signalled as a whole, and readers must go on until the step at hand is done.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._take)

    def agree(self) -> None:
        """Makes this the last step."""
        self.agreed = True

    def stops_after(self, state: TrainerState) -> bool:
        """Returns whether the run is to stop after the step that has just been made."""
        return self.agreed and state.global_step < state.max_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint."""
        if self.stops_after(state):
            control.should_save = True
            if state.is_world_process_zero:
                emit("note", text=f"asked to stop: storing a checkpoint of step {state.global_step:,}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves, once the checkpoint is stored.

        Raises:
            PreemptedError: Always, where the run is to stop here.
        """
        if self.stops_after(state):
            raise PreemptedError(
                f"asked to stop, training did so after step {state.global_step:,} of {state.max_steps:,}, with a "
                "checkpoint; run the same command again: it goes on from there"
            )

    def _take(self, number: int, frame: FrameType | None) -> None:
        # Not a word from here: the signal may have come in the middle of another one.
        self.asked = True
