"""Takes checkpoints while training goes on, and takes up the one that a run goes on from."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.errors import StorageError, TrainingError
from lemur.progress import Task
from lemur.recipe import FinetuneSection, PretrainSection
from lemur.training.checkpoints.layout import RunRecord
from lemur.training.checkpoints.reading import StateReader
from lemur.training.checkpoints.resuming import Resumable
from lemur.training.checkpoints.saving import Saver
from lemur.training.checkpoints.steps import StepCheckpoints
from lemur.training.loop.curve import LossCurve
from lemur.training.state import TrainingState


@runtime_checkable
class Remembering(Protocol):
    """A callback with a state of its own that a resumed run goes on with; the first process's is stored."""

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns the state as JSON."""

    def restore_state(self, state: dict[str, Any]) -> None:
        """Takes up what `checkpoint_state` returned; called in every process before the first step."""


class Checkpointing(TrainerCallback):
    """Copies the state every so many steps, and wherever else `should_save` is set, and has it stored.

    A run that goes on is filled from its checkpoint once the Trainer has prepared model and optimizer, whatever the
    engine and the number of processes that wrote it. Random numbers, the learning rate and the place in the data
    follow from the step.

    Args:
        checkpoints: Where they are stored.
        resumed: Checkpoint to go on from, or `None` to begin.
        curve: Loss curve that goes with them.
        bar: Progress bar that names the last one; `None` in processes that do not show any.
        section: Settings of the stage.
        folder: Local folder for files on their way to storage.
        leaves_after: Tells whether training ends after the step at hand; then a checkpoint is waited for.
        on_whole: Called in the first process with the step of a checkpoint that is whole.
    """

    def __init__(
        self,
        checkpoints: StepCheckpoints,
        resumed: Resumable | None,
        curve: LossCurve,
        bar: Task | None,
        *,
        section: PretrainSection | FinetuneSection,
        folder: Path,
        leaves_after: Callable[[TrainerState], bool] = lambda state: False,
        on_whole: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._checkpoints, self._resumed, self._curve, self._bar = checkpoints, resumed, curve, bar
        self._section, self._folder = section, folder
        self._leaves_after, self._on_whole = leaves_after, on_whole
        self._trainer: Trainer | None = None
        self._state: TrainingState | None = None
        self._saver: Saver | None = None
        self._stall_seconds_before = 0.0
        self._shown_step: int | None = None

    @property
    def stall_seconds(self) -> float:
        """Seconds for which training stood still for checkpoints, in all attempts."""
        return self._stall_seconds_before + (self._saver.stall_seconds if self._saver else 0.0)

    def attach(self, trainer: Trainer) -> None:
        """Names the Trainer whose state is stored; before training begins."""
        self._trainer = trainer

    def save_now(self, step: int, timeout_seconds: float | None = None) -> bool:
        """Stores a checkpoint of the state as it is, and waits until it is whole.

        All processes call it after the same step, once that step's loss is in the curve: from `on_save`, `on_log` or
        `on_train_end`. Where this step's checkpoint is on its way already, it only waits.

        Args:
            step: Steps that are done.
            timeout_seconds: How long to wait at most; `None` until it is stored or has failed.

        Returns:
            Whether there is a whole checkpoint of this step, the same in every process.

        Raises:
            StorageError: It could not be stored.
        """
        saver = self._begun()
        if saver.begun_step != step:
            self._save(step)
        saver.finish(timeout_seconds)
        committed = [saver.stored_step == step]
        if self._own_trainer().args.world_size > 1:
            broadcast_object_list(committed)
        self._show()
        return committed[0]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up the checkpoint."""
        trainer = self._own_trainer()
        self._state = self._section.engine.state(trainer)
        attempt = [uuid.uuid4().hex]
        if args.world_size > 1:
            broadcast_object_list(attempt)
        self._saver = Saver(
            self._checkpoints,
            rank=args.process_index,
            num_ranks=args.world_size,
            attempt=attempt[0],
            folder=self._folder,
            retry_seconds=self._section.checkpoint_retry_seconds,
            on_whole=self._on_whole,
        )
        if self._resumed:
            self._take_up(self._resumed, trainer, state)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Lets a copy that a GPU is making finish before the weights change."""
        self._begun().hold_changes()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Asks for a checkpoint; not after the last step, when the model itself is stored.

        Raises:
            StorageError: The checkpoint before could not be stored.
        """
        self._begun().check()
        self._show()
        if state.global_step % self._section.checkpoint_every_steps == 0 and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Copies the state; it is stored while training goes on."""
        if self._leaves_after(state):
            self.save_now(state.global_step)
        elif self._begun().begun_step != state.global_step:
            self._save(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Waits until what is on its way is stored."""
        self._begun().finish()
        self._show()

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Ends what is in the background when training ends, however it does.

        Where it was ended for the sake of the model, the checkpoint on its way is finished first.
        """
        try:
            yield
        except TrainingError:
            if self._saver:
                with suppress(StorageError):
                    self._saver.finish(self._section.checkpoint_retry_seconds)
            raise
        finally:
            if self._saver:
                self._saver.stop()

    def _save(self, step: int) -> None:
        trainer, saver = self._own_trainer(), self._begun()
        assert self._state
        run = RunRecord(
            step=step,
            num_updates=self._state.num_updates(),
            engine=self._section.engine.model_dump(mode="json"),
            num_ranks=trainer.args.world_size,
            seed=self._section.seed,
            extra={name: callback.checkpoint_state() for name, callback in self._remembering()},
        )
        documents = _documents(self._curve) if trainer.args.process_index == 0 else {}
        saver.save(run, self._state.owned(), documents)
        # DeepSpeed changes the weights within the backward pass, where nothing can be asked of it.
        if trainer.is_deepspeed_enabled:
            saver.hold_changes()

    def _take_up(self, resumed: Resumable, trainer: Trainer, state: TrainerState) -> None:
        """Fills everything that a run has, as it was after the checkpoint's step."""
        assert self._state
        StateReader(resumed.objects).fill(self._state.held())
        self._state.restored(resumed.run.num_updates)
        state.global_step = trainer._globalstep_last_logged = resumed.step
        _set_schedule(trainer.lr_scheduler, resumed.step)
        for name, callback in self._remembering():
            if name in resumed.run.extra:
                callback.restore_state(resumed.run.extra[name])
        # All have read what they need; what was downloaded for it can go.
        trainer.args.distributed_state.wait_for_everyone()
        if trainer.args.local_process_index == 0:
            resumed.objects.drop_downloads()
        self._resumed = None

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns how long training stood still."""
        return {"stall_seconds": self.stall_seconds}

    def restore_state(self, state: dict[str, Any]) -> None:
        """Goes on counting from there."""
        self._stall_seconds_before = state["stall_seconds"]

    def _remembering(self) -> Iterator[tuple[str, Remembering]]:
        for callback in self._own_trainer().callback_handler.callbacks:
            if isinstance(callback, Remembering):
                yield type(callback).__name__, callback

    def _show(self) -> None:
        step = self._begun().stored_step
        if self._bar and step is not None and step != self._shown_step:
            self._shown_step = step
            self._bar.update(self._bar.completed, checkpoint=f"step {step}")

    def _own_trainer(self) -> Trainer:
        assert self._trainer, "attach() comes before training"
        return self._trainer

    def _begun(self) -> Saver:
        assert self._saver, "training has not begun"
        return self._saver


def _documents(curve: LossCurve) -> dict[str, bytes]:
    """Returns the curve's files."""
    with tempfile.TemporaryDirectory(prefix="lemur-curve-") as folder:
        curve.save(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _set_schedule(scheduler: Any, step: int) -> None:
    """Puts a learning-rate schedule, a factor that follows from the step, to where it is after so many steps."""
    while hasattr(scheduler, "scheduler"):
        scheduler = scheduler.scheduler
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler.last_epoch, scheduler._step_count, scheduler._last_lr = step, step + 1, rates
