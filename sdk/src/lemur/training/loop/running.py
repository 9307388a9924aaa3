"""Running the library's training loop with everything of ours around it; the same for pretraining and tuning."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from lemur.progress import emit, task
from lemur.receipt import Receipt
from lemur.recipe import FinetuneSection, PretrainSection
from lemur.training.checkpoints.steps import Resumable, StepCheckpoints
from lemur.training.description import TrainingDescription
from lemur.training.loop.checkpointing import Checkpointing
from lemur.training.loop.curve import LossCurve
from lemur.training.loop.seeding import Seeding
from lemur.training.loop.watching import Watching
from lemur.training.settings import arithmetic, local_folder
from lemur.training.workplace import writing


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


@dataclass(frozen=True)
class Trained:
    """What the loop reports of a finished run."""

    metrics: dict[str, float]
    """Figures of the receipt."""
    metadata: dict[str, Any]
    """How the run went, as JSON."""
    curve: LossCurve
    """The whole loss curve."""


class SavingTrainer(Trainer):
    """A Trainer that names the folder when a checkpoint cannot be written."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with writing(f"the checkpoint of step {self.state.global_step}", local_folder(self.args)):
            super()._save_checkpoint(model, trial)


def resume_point(arguments: TrainingArguments, checkpoints: StepCheckpoints, folder: Path) -> Resumable | None:
    """Returns the checkpoint to go on from, the same in every process; the first one looks for it.

    Args:
        arguments: The Trainer's arguments; what a killed attempt left in their output folder is deleted.
        checkpoints: Where resumable checkpoints are stored.
        folder: Folder for the files of one that is not stored on this machine.
    """
    found: list[Resumable | None] = [None]
    if arguments.process_index == 0:
        shutil.rmtree(local_folder(arguments), ignore_errors=True)
        found = [checkpoints.newest(folder)]
    if arguments.world_size > 1:
        broadcast_object_list(found)
    return found[0]


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
    curve = LossCurve(steps_per_point=section.log_every_steps, num_steps=work.num_steps)
    if resumed:
        curve.restore(resumed.folder, resumed.step)
        if is_first:
            emit("note", text=f"{work.stage}: going on from the checkpoint of step {resumed.step:,}")
    precision = arithmetic(section)
    if is_first and precision != section.precision:
        emit("note", text=f"{work.stage}: this processor has no {section.precision}; computing in {precision}")
    with ExitStack() as stack:
        bar = stack.enter_context(task(work.stage, total=work.num_steps)) if is_first else None
        watching = Watching(
            curve,
            bar,
            tokens_at=work.tokens_at,
            flops_per_token=work.flops_per_token,
            peak_flops=work.job.peak_flops * arguments.world_size,
        )
        checkpointing = Checkpointing(checkpoints, curve, bar, every_steps=section.checkpoint_every_steps)
        trainer = make_trainer([Seeding(section.seed), watching, checkpointing])
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(resumed.folder) if resumed else None)
    num_tokens, seconds = work.tokens_at(work.num_steps), curve.seconds
    metrics = {
        "final_loss": curve.final_loss,
        "tokens_per_second": num_tokens / seconds,
        "mfu": watching.utilisation(num_tokens / seconds),
        "seconds": seconds,
    }
    metadata = {
        "steps": work.num_steps,
        "tokens": num_tokens,
        "resumed_at_steps": curve.resumed_at_steps,
        "device": arguments.device.type,
        "precision": precision,
        "processes": arguments.world_size,
    }
    return Trained(metrics, metadata, curve)
