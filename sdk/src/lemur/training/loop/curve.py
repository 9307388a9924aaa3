"""The loss curve as data: one line of JSON for each point, carried through interruptions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
_STATE_NAME = "curve.json"


class LossCurve:
    """Points of a training run: means over the steps since the point before.

    A resumed run continues the curve of the checkpoint, the open point included, so that an interrupted run
    ends with the same losses as an unbroken one.

    Args:
        steps_per_point: Steps that one point stands for.
        num_steps: Steps of the whole run; the last one closes a point.
    """

    def __init__(self, *, steps_per_point: int, num_steps: int) -> None:
        self._steps_per_point, self._num_steps = steps_per_point, num_steps
        self.points: list[dict[str, float]] = []
        self.resumed_at_steps: list[int] = []
        self._open_losses: list[float] = []
        self._seconds_before = 0.0
        self._started = time.monotonic()
        self._last: tuple[int, float] = (0, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of training in all attempts; what an attempt did after its last checkpoint is not in it."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def final_loss(self) -> float:
        """Loss of the last point."""
        return self.points[-1]["loss"]

    def start(self, tokens: int) -> None:
        """Starts the clock of this attempt, when training itself begins.

        Args:
            tokens: Tokens that earlier attempts have trained on.
        """
        self._started = time.monotonic()
        self._last = (tokens, self._seconds_before)

    def add(self, step: int, tokens: int, *, loss: float, learning_rate: float, grad_norm: float) -> bool:
        """Takes in one step.

        Args:
            step: Number of the step, from 1.
            tokens: Tokens trained on so far.
            loss: Mean loss of a token in this step, in nats.
            learning_rate: What the step was made with.
            grad_norm: Norm of the gradient before clipping.

        Returns:
            Whether the step closed a point.
        """
        self._open_losses.append(loss)
        if step % self._steps_per_point and step != self._num_steps:
            return False
        seconds = self.seconds
        tokens_before, seconds_before = self._last
        self.points.append(
            {
                "step": step,
                "tokens": tokens,
                "loss": sum(self._open_losses) / len(self._open_losses),
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "tokens_per_second": round((tokens - tokens_before) / max(seconds - seconds_before, 1e-9), 1),
                "seconds": round(seconds, 3),
            }
        )
        self._open_losses, self._last = [], (tokens, seconds)
        return True

    def save(self, folder: Path) -> None:
        """Writes the curve, and what is needed to continue it, into a checkpoint's folder."""
        self.save_points(folder)
        state = {
            "open_losses": self._open_losses,
            "seconds": self.seconds,
            "resumed_at_steps": self.resumed_at_steps,
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
        self.resumed_at_steps = [*state["resumed_at_steps"], step]
