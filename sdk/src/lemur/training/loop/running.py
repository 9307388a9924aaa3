"""Running the library's training loop with everything of ours around it; the same for pretraining and tuning."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import gather_object
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from lemur.progress import emit, task
from lemur.receipt import Receipt
from lemur.recipe import FinetuneSection, PretrainSection
from lemur.training.checkpoints.resuming import Resumable, newest_whole
from lemur.training.checkpoints.steps import StepCheckpoints
from lemur.training.description import TrainingDescription
from lemur.training.kernels import Kernels, what_ran
from lemur.training.loop.checkpointing import Checkpointing
from lemur.training.loop.curve import LossCurve
from lemur.training.loop.guard import Batches, Guard
from lemur.training.loop.interruption import Interruption
from lemur.training.loop.seeding import Seeding
from lemur.training.loop.waiting import WaitingTrainer
from lemur.training.loop.watchdog import Watchdog
from lemur.training.loop.watching import Watching, peak_memory_bytes
from lemur.training.settings import local_folder
from lemur.training.workplace import mark


@dataclass(frozen=True)
class Work:
    """What one training stage hands to the loop."""

    job: TrainingDescription
    """The job's description."""
    stage: Literal["pretrain", "finetune"]
    """Name of the stage."""
    section: PretrainSection | FinetuneSection
    """Its settings."""
    parents: Mapping[str, Receipt]
    """Results the model is made from, by role."""
    num_steps: int
    """Optimizer steps of the whole run."""
    tokens_at: Callable[[int], int]
    """Tokens trained on after so many steps."""
    flops_per_token: float
    """Floating-point operations that training on a token takes."""
    kernels: Kernels
    """What it computes with."""
    batches: Batches
    """What the batches are made of."""
    watchdog: Watchdog
    """Ends this process where nothing moves."""


@dataclass(frozen=True)
class Trained:
    """What the loop reports of a finished run."""

    metrics: dict[str, float]
    """Figures of the receipt."""
    metadata: dict[str, Any]
    """How the run went, as JSON."""
    curve: LossCurve
    """The whole loss curve."""
    trainer: Trainer
    """The Trainer, with the trained model."""


class SavingTrainer(WaitingTrainer):
    """A Trainer whose checkpoints are not its own: where it would write one, `Checkpointing.on_save` does."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Leaves it to the callback that is called next."""


def resume_point(arguments: TrainingArguments, checkpoints: StepCheckpoints, folder: Path) -> Resumable | None:
    """Returns the checkpoint to go on from, the same in every process; all of them look at it.

    Args:
        arguments: The Trainer's arguments; what a killed attempt left in their output folder is deleted.
        checkpoints: Where resumable checkpoints are stored.
        folder: Folder for the files of one that is not stored on this machine.
    """
    if arguments.local_process_index == 0:
        shutil.rmtree(local_folder(arguments), ignore_errors=True)
    return newest_whole(arguments, checkpoints, folder)


def train(
    work: Work,
    arguments: TrainingArguments,
    checkpoints: StepCheckpoints,
    resumed: Resumable | None,
    *,
    make_trainer: Callable[[list[TrainerCallback]], Trainer],
) -> Trained:
    """Trains to the last step.

    Args:
        work: What is trained.
        arguments: The Trainer's arguments.
        checkpoints: Where resumable checkpoints are stored.
        resumed: Checkpoint to go on from, or `None` to begin.
        make_trainer: Makes the Trainer around the callbacks.
    """
    section, is_first = work.section, arguments.process_index == 0
    curve = LossCurve(
        steps_per_point=section.log_every_steps,
        num_steps=work.num_steps,
        flops_per_token=work.flops_per_token,
        peak_flops=work.job.peak_flops * arguments.world_size,
    )
    if resumed:
        curve.restore(resumed.folder, resumed.step)
        if is_first:
            emit("note", text=f"{work.stage}: going on from the checkpoint of step {resumed.step:,}")
    for note in work.kernels.notes if is_first else ():
        emit("note", text=f"{work.stage}: {note}")
    with ExitStack() as stack:
        bar = stack.enter_context(task(work.stage, total=work.num_steps)) if is_first else None
        watching = Watching(
            curve,
            bar,
            tokens_at=work.tokens_at,
            folder=local_folder(arguments).parent,
            first_step=resumed.step if resumed else 0,
        )
        interruption = Interruption()
        checkpointing = Checkpointing(
            checkpoints,
            resumed,
            curve,
            bar,
            section=section,
            folder=local_folder(arguments),
            leaves_after=interruption.stops_after,
            on_whole=partial(mark, local_folder(arguments).parent, "checkpoint"),
        )
        guard = Guard(section, curve, interruption, work.batches)
        # The interruption comes last: it leaves once the checkpoint is stored.
        seeding = Seeding(section.seed, section.engine.tensor_parallel_size)
        own = [seeding, guard, work.watchdog, watching, checkpointing, interruption]
        trainer = make_trainer(own)
        trainer.remove_callback(PrinterCallback)
        assert isinstance(trainer, WaitingTrainer)
        watching.trainer = trainer
        guard.attach(trainer)
        interruption.listen()
        checkpointing.attach(trainer)
        with checkpointing.in_background():
            trainer.train()
    num_tokens, seconds = work.tokens_at(work.num_steps), curve.seconds
    metrics = {
        "final_loss": curve.final_loss,
        "tokens_per_second": num_tokens / seconds,
        "mfu": curve.mfu(num_tokens / seconds),
        "data_wait_share": curve.data_wait_share,
        "peak_memory_bytes": float(max(gather_object([peak_memory_bytes()]))),
        "checkpoint_stall_seconds": checkpointing.stall_seconds,
        "checkpoint_stall_share": checkpointing.stall_seconds / seconds,
        "seconds": seconds,
    }
    metadata = {
        "steps": work.num_steps,
        "tokens": num_tokens,
        "resumed_at_steps": curve.resumed_at_steps,
        "skipped_steps": curve.skipped_steps,
        "skipped": guard.skipped,
        "device": arguments.device.type,
        "precision": work.kernels.arithmetic,
        "processes": arguments.world_size,
        **what_ran(trainer, section, work.kernels),
    }
    return Trained(metrics, metadata, curve, trainer)
