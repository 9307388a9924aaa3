"""What goes wrong with the steps of a training process, told by the variable `FAULTS` as JSON.

Loaded by `ForkedBackend(prepare="faulty")`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any


def prepare(rank: int) -> None:
    """Plants the faults, and has the state after each step written down.

    `losses` maps steps to what the loss of the first micro batch is multiplied by, on rank `rank`; `terminate` and
    `kill` are steps in which that rank gets SIGTERM and after which it kills itself.
    """
    faults = json.loads(os.environ["FAULTS"])
    here = rank == faults.get("rank", 0)
    _spoil_losses({int(step): float(factor) for step, factor in faults.get("losses", {}).items()} if here else {})
    _note_state(Path(os.environ["FAULTS_OUT"]), rank)
    _signal_itself(faults.get("terminate") if here else None, faults.get("kill") if here else None)


def _spoil_losses(factors: dict[int, float]) -> None:
    from transformers import Trainer

    compute_loss, seen = Trainer.compute_loss, set()

    def spoiled(self: Any, *arguments: Any, **named: Any) -> Any:
        loss, step = compute_loss(self, *arguments, **named), self.state.global_step + 1
        first, _ = step not in seen, seen.add(step)
        return loss * factors[step] if first and step in factors else loss

    Trainer.compute_loss = spoiled


def _note_state(folder: Path, rank: int) -> None:
    """Appends a digest of all this process holds, and Adam's count, after each step."""
    from lemur.training.loop.checkpointing import Checkpointing

    on_step_end = Checkpointing.on_step_end

    def noting(self: Any, args: Any, state: Any, control: Any, **named: Any) -> None:
        digest = hashlib.sha256()
        for stretch in self._state.held():
            digest.update(stretch.values.detach().contiguous().numpy().tobytes())
        with (folder / f"states-{rank}.jsonl").open("a", encoding="utf-8") as file:
            told = {"step": state.global_step, "state": digest.hexdigest(), "updates": self._state.num_updates()}
            file.write(json.dumps(told) + "\n")
        on_step_end(self, args, state, control, **named)

    Checkpointing.on_step_end = noting


def _signal_itself(terminate: int | None, kill: int | None) -> None:
    from transformers import Trainer

    from lemur.training.loop.watching import Watching

    training_step, on_log = Trainer.training_step, Watching.on_log

    def training_step_when_asked_to_stop(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step + 1 == terminate:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(self, *arguments, **named)

    def on_log_then_die(self: Any, args: Any, state: Any, *rest: Any, **named: Any) -> None:
        on_log(self, args, state, *rest, **named)
        if state.global_step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.training_step = training_step_when_asked_to_stop
    Watching.on_log = on_log_then_die
