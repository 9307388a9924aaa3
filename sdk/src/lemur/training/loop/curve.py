"""The loss curve as data: one line of JSON for each point, carried through interruptions."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
_STATE_NAME = "curve.json"


class LossCurve:
    """Points of a training run: means over the steps since the point before.

    A resumed run continues the curve of the checkpoint, the open point included, so that an interrupted run
    ends with the same losses as an unbroken one. What a point says of time is this run's own: its speed, the share
    of the time that the loop waited for data, the seconds of training so far, and the time of day.

    Utilisation (MFU) is `floating-point operations of a token x tokens a second / peak of all devices`, with
    `6 N + 12 L h s` operations for a token: see `lemur.model_size.training_flops_per_token`.

    Args:
        steps_per_point: Steps that one point stands for.
        num_steps: Steps of the whole run; the last one closes a point.
        flops_per_token: Floating-point operations that training on a token takes.
        peak_flops: Peak of all devices together, in operations a second.
    """

    def __init__(self, *, steps_per_point: int, num_steps: int, flops_per_token: float, peak_flops: float) -> None:
        self._steps_per_point, self._num_steps = steps_per_point, num_steps
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self.points: list[dict[str, Any]] = []
        self.resumed_at_steps: list[int] = []
        self.skipped_steps: list[int] = []
        self._open_losses: list[float] = []
        self._seconds_before = self._wait_seconds_before = self._wait_seconds = 0.0
        self._started = time.monotonic()
        self._last: tuple[int, float, float] = (0, 0.0, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of training in all attempts; what an attempt did after its last checkpoint is not in it."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def final_loss(self) -> float:
        """Loss of the last point that has one."""
        loss: float = next(point["loss"] for point in reversed(self.points) if point["loss"] is not None)
        return loss

    @property
    def data_wait_share(self) -> float:
        """Share of the time that this process waited for its next batch, over all attempts; between 0 and 1."""
        return min(1.0, self._wait_seconds / max(self.seconds, 1e-9))

    def mfu(self, tokens_per_second: float) -> float:
        """Returns the share of the devices' peak that a speed amounts to."""
        return self._flops_per_token * tokens_per_second / self._peak_flops

    def start(self, tokens: int) -> None:
        """Starts the clock of this attempt, when training itself begins.

        Args:
            tokens: Tokens that earlier attempts have trained on.
        """
        self._started = time.monotonic()
        self._last = (tokens, self._seconds_before, self._wait_seconds_before)

    def skip(self, step: int) -> None:
        """Notes that a step changed nothing, because its batch was not to be learned from; before `add` is told of it.

        Args:
            step: Number of the step, from 1.
        """
        if step not in self.skipped_steps:
            self.skipped_steps.append(step)

    def add(
        self,
        step: int,
        tokens: int,
        *,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        wait_seconds: float = 0.0,
    ) -> bool:
        """Takes in one step; the loss of a skipped one has no part in its point.

        Args:
            step: Number of the step, from 1.
            tokens: Tokens trained on so far.
            loss: Mean loss of a token in this step, in nats.
            learning_rate: What the step was made with.
            grad_norm: Norm of the gradient before clipping.
            wait_seconds: Seconds that this attempt has waited for data so far.

        Returns:
            Whether the step closed a point.
        """
        self._wait_seconds = self._wait_seconds_before + wait_seconds
        if step not in self.skipped_steps:
            self._open_losses.append(loss)
        if step % self._steps_per_point and step != self._num_steps:
            return False
        tokens_before, seconds_before, wait_before = self._last
        seconds = self.seconds
        passed = max(seconds - seconds_before, 1e-9)
        tokens_per_second = (tokens - tokens_before) / passed
        self.points.append(
            {
                "step": step,
                "tokens": tokens,
                "loss": sum(self._open_losses) / len(self._open_losses) if self._open_losses else None,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
                "tokens_per_second": round(tokens_per_second, 1),
                "mfu": round(self.mfu(tokens_per_second), 5),
                "data_wait_share": round(min(1.0, (self._wait_seconds - wait_before) / passed), 5),
                "seconds": round(seconds, 3),
                "time": round(time.time(), 3),
            }
        )
        self._open_losses, self._last = [], (tokens, seconds, self._wait_seconds)
        return True

    def save(self, folder: Path) -> None:
        """Writes the curve, and what is needed to continue it, into a checkpoint's folder."""
        self.save_points(folder)
        state = {
            "open_losses": self._open_losses,
            "seconds": self.seconds,
            "wait_seconds": self._wait_seconds,
            "resumed_at_steps": self.resumed_at_steps,
            "skipped_steps": self.skipped_steps,
        }
        (folder / _STATE_NAME).write_text(json.dumps(state), encoding="utf-8")

    def save_points(self, folder: Path) -> None:
        """Writes the points as `metrics.jsonl`."""
        lines = "".join(json.dumps(point) + "\n" for point in self.points)
        (folder / METRICS_NAME).write_text(lines, encoding="utf-8")

    def restore(self, folder: Path, step: int) -> None:
        """Continues the curve of a checkpoint.

        Args:
            folder: The checkpoint.
            step: Step it was taken at.
        """
        lines = (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()
        self.points = [json.loads(line) for line in lines]
        state: dict[str, Any] = json.loads((folder / _STATE_NAME).read_text(encoding="utf-8"))
        self._open_losses = state["open_losses"]
        self._seconds_before = state["seconds"]
        self._wait_seconds_before = self._wait_seconds = state["wait_seconds"]
        self.resumed_at_steps = [*state["resumed_at_steps"], step]
        self.skipped_steps = state["skipped_steps"]
