"""Keeps steps that would harm the model from changing it: skipped, counted, and in the end reason to stop."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.errors import LemurError, TrainingError
from lemur.progress import emit
from lemur.recipe import FinetuneSection, PretrainSection
from lemur.training.loop.curve import LossCurve
from lemur.training.loop.interruption import Interruption
from lemur.training.loop.spikes import Fault, RecentSteps

_MOST_IN_A_ROW = 5
"""Steps with a loss or gradient that is no number, one after another: then it is the weights and not the data."""
_MOST_PLACES = 4
_MOST_LINES = 12


@dataclass(frozen=True)
class Batches:
    """What the batches of a run are made of, for whoever has to look at the data of a step."""

    num_items: int
    """Items of the training stream (sequences, dialogues, packs) in one optimizer step over all processes."""
    origins: Callable[[int], Sequence[str]]
    """What the item at a place of the stream was made of: a line for each document or dialogue."""


class Guard(TrainerCallback):
    """Skips steps whose loss or gradient is no number, or far above those of the recent steps.

    A skipped step changes neither weights nor Adam's moments nor its count of steps; the learning rate and the data
    go on. All processes decide alike, from one reduction in each step, which also tells all of them when one was
    asked to stop. It hooks into the optimizer's own `step`, since that is where every engine ends up: DeepSpeed calls
    it from within the backward pass, in ZeRO 3 once for each group of parameters.

    Args:
        section: Settings of the stage.
        curve: Told of skipped steps.
        interruption: Told of the processes' agreement.
        batches: What the steps' data was made of.
    """

    def __init__(
        self,
        section: PretrainSection | FinetuneSection,
        curve: LossCurve,
        interruption: Interruption,
        batches: Batches,
    ) -> None:
        self._curve, self._interruption, self._batches = curve, interruption, batches
        self._max_skipped = section.max_skipped_steps
        self._recent = RecentSteps(section.skip_spikes)
        self.skipped: list[dict[str, Any]] = []
        """Skipped steps: `step`, `fault`, `loss` and `gradient_norm`, the last two `None` where they are no number."""
        self._num_in_a_row = 0
        self._step = 0
        self._trainer: Trainer | None = None
        self._losses: list[torch.Tensor] = []
        self._norm: Callable[[], Any] = lambda: None
        self._accepted: bool | None = None
        self._stands_still = False

    @property
    def num_skipped(self) -> int:
        """Steps of the run that changed nothing; Adam has made so many fewer."""
        return len(self.skipped)

    def checkpoint_state(self) -> dict[str, Any]:
        """Returns what a resumed run goes on with, as JSON."""
        # Copied, because it is written while steps go on.
        return {"recent": self._recent.state(), "skipped": [*self.skipped], "num_in_a_row": self._num_in_a_row}

    def restore_state(self, state: dict[str, Any]) -> None:
        """Takes up what `checkpoint_state` returned."""
        self._recent.restore(state["recent"])
        self.skipped, self._num_in_a_row = [*state["skipped"]], state["num_in_a_row"]

    def attach(self, trainer: Trainer) -> None:
        """Listens to the losses of micro batches and the norm of the gradient; before training begins."""
        self._trainer = trainer
        # Set on the very objects, which mypy has no word for.
        listened: Any = trainer
        accelerator, clipped = listened.accelerator, listened._get_grad_norm
        backward = accelerator.backward

        def listening_backward(loss: torch.Tensor, **kwargs: Any) -> None:
            self._losses.append(loss.detach())
            backward(loss, **kwargs)
            if accelerator.distributed_type == DistributedType.DEEPSPEED and accelerator.sync_gradients:
                self._pass_over_what_the_engine_refused(trainer)

        def listening_norm(*args: Any, **kwargs: Any) -> Any:
            norm = clipped(*args, **kwargs)
            if accelerator.distributed_type != DistributedType.DEEPSPEED:
                self._norm = lambda: norm
            return norm

        accelerator.backward = listening_backward
        listened._get_grad_norm = listening_norm

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Puts itself before the optimizer's step."""
        outer: Any = None
        optimizer: Any = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):
            outer, optimizer = optimizer, optimizer.optimizer
        if self._trainer and self._trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # Not every one of its optimizers has the attribute before its first step.
            self._norm = lambda: outer._global_grad_norm
        # Offloading a part of the optimizer, ZeRO 3 has a second one for the other part.
        for stepping in (optimizer, getattr(outer, "backup_optimizer", None)):
            if stepping is not None:
                stepping.step = self._guarded(stepping.step, args)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forgets the step before."""
        if self._accepted is False and self._trainer:
            # The Trainer takes its sum of losses from itself, which leaves no number where it was none.
            self._trainer._tr_loss.zero_()
        self._step, self._losses, self._accepted = state.global_step + 1, [], None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the run where too much was skipped.

        Raises:
            TrainingError: Too many steps were skipped, or the weights give no numbers any more; it names the data.
        """
        if self._stands_still:
            self._stands_still = False
            _advance(kwargs["lr_scheduler"])
        if self._accepted is None:
            raise RuntimeError(f"step {self._step} did not come by the guard; is this optimizer known to it?")
        if self._accepted:
            return
        broken = self._num_in_a_row >= _MOST_IN_A_ROW or (
            self._num_in_a_row > 1 and state.global_step == state.max_steps
        )
        if not broken and self.num_skipped <= self._max_skipped:
            return
        why = (
            f"the last {self._num_in_a_row} steps gave no numbers, so the weights are past saving"
            if broken
            else f"{self.num_skipped} steps were skipped, and max_skipped_steps is {self._max_skipped}"
        )
        message = [f"{why}; {self._told(self.skipped[-1])}.\n{self._data(args)}\n{_advice(args, broken)}"]
        if args.world_size > 1:
            broadcast_object_list(message)
        raise TrainingError(message[0])

    def _guarded(self, step: Callable[..., Any], args: TrainingArguments) -> Callable[..., Any]:
        @functools.wraps(step)
        def guarded_step(*arguments: Any, **named: Any) -> Any:
            if self._accepted is None:
                self._decide(args)
            return step(*arguments, **named) if self._accepted else None

        return guarded_step

    def _decide(self, args: TrainingArguments) -> None:
        """Judges the step, the same in every process."""
        loss, norm, asked = self._agreed(args)
        if asked:
            self._interruption.agree()
        fault = self._recent.fault(loss, norm)
        self._accepted = fault is None
        if fault is None:
            self._num_in_a_row = 0
            return
        self._num_in_a_row = self._num_in_a_row + 1 if fault.endswith("no number") else 0
        self._skip(fault, loss, norm, is_first=args.process_index == 0)

    def _agreed(self, args: TrainingArguments) -> list[float]:
        """Returns means over all processes: loss, norm of the gradient, and share of them that were asked to stop."""
        loss = torch.stack(self._losses).sum().double()
        norm = torch.as_tensor(_whole(self._norm()), dtype=torch.float64, device=loss.device)
        asked = torch.as_tensor(float(self._interruption.asked), dtype=torch.float64, device=loss.device)
        numbers = torch.stack([loss, norm, asked])
        if args.world_size > 1:
            torch.distributed.all_reduce(numbers)
            numbers /= args.world_size
        return numbers.tolist()

    def _pass_over_what_the_engine_refused(self, trainer: Trainer) -> None:
        """Judges a step that DeepSpeed itself did not take, because the gradient is no number."""
        if self._accepted is not None:
            return
        self._decide(trainer.args)
        assert not self._accepted, "DeepSpeed passed over a step whose loss and gradient are numbers"
        self._stands_still = True

    def _skip(self, fault: Fault, loss: float, norm: float, *, is_first: bool) -> None:
        def number(value: float) -> float | None:
            return value if math.isfinite(value) else None

        self.skipped.append({"step": self._step, "fault": fault, "loss": number(loss), "gradient_norm": number(norm)})
        self._curve.skip(self._step)
        if is_first:
            emit("note", text=f"{self._told(self.skipped[-1])}; the step is skipped ({self.num_skipped} so far)")

    def _told(self, skipped: dict[str, Any]) -> str:
        loss, norm = (
            "no number" if skipped[name] is None else f"{skipped[name]:.4g}" for name in ("loss", "gradient_norm")
        )
        return f"step {skipped['step']:,}: {skipped['fault']} (loss {loss}, gradient norm {norm})"

    def _data(self, args: TrainingArguments) -> str:
        """Names what the micro batches with the worst losses of the step were made of; all processes call it."""
        losses: list[list[float]] = gather_object([torch.stack(self._losses).tolist()])
        micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        # Processes that share a model share its sequences too; each micro batch counts once.
        num_readers = max(1, self._batches.num_items // (micro * accumulation))
        readers = losses[:: max(1, len(losses) // num_readers)]
        # Micro batches are dealt to the readers in turn.
        dealt = [
            (loss if math.isfinite(loss) else math.inf, turn * len(readers) + reader)
            for reader, own in enumerate(readers)
            for turn, loss in enumerate(own)
        ]
        first = (self._step - 1) * self._batches.num_items
        numbers = [number for _, number in sorted(dealt, reverse=True)]
        places = [first + number * micro + item for number in numbers for item in range(micro)][:_MOST_PLACES]
        if args.process_index:
            return ""
        try:
            lines = [f"item {place:,}: {line}" for place in places for line in self._batches.origins(place)]
        except LemurError as error:
            lines = [f"(it cannot be told: {error})"]
        hidden = len(lines) - _MOST_LINES
        shown = lines[:_MOST_LINES] + ([f"and {hidden} more"] if hidden > 0 else [])
        return "What the worst part of its batch was made of:\n" + "\n".join(f"  {line}" for line in shown)


def _whole(norm: Any) -> Any:
    """Returns the norm itself where an engine keeps it as a tensor that is divided over processes."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _advance(schedule: Any) -> None:
    """Takes a learning rate to the next step: it is to follow from the step alone, whatever became of this one."""
    while hasattr(schedule, "scheduler"):
        schedule = schedule.scheduler
    schedule.step()


def _advice(args: TrainingArguments, broken: bool) -> str:
    advice = f"lower learning_rate ({args.learning_rate:g}) or lengthen the warmup"
    if broken:
        return f"To mend it, {advice}, and look at that data; a run with other settings begins anew."
    return (
        f"To mend it, look at that data and leave out what is broken, or {advice}. If such steps are to be expected, "
        "raise max_skipped_steps and run again: it goes on from the last checkpoint."
    )
