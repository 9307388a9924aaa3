"""What is far from the recent steps: by median and median distance, which outliers do not move."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any, Literal

from lemur.recipe import SpikeLimits

Fault = Literal["loss is no number", "gradient is no number", "loss spiked", "gradient spiked"]
"""What is wrong with a step."""

_NORMAL = 1.4826
"""Standard deviations of a normal distribution in its median distance from the median: 1 / 0.67449."""
_LEAST_SHARE = 0.05
"""Least deviation, as a share of the median: where steps hardly differ, little is not far."""


class RecentSteps:
    """The recent accepted steps, and whether a new one is like them.

    Args:
        limits: What counts as a spike; without them, only what is no number is refused.
    """

    def __init__(self, limits: SpikeLimits | None) -> None:
        self._limits = limits
        self._losses: deque[float] = deque(maxlen=limits.window_steps if limits else 0)
        self._norms: deque[float] = deque(maxlen=limits.window_steps if limits else 0)

    def fault(self, loss: float, norm: float) -> Fault | None:
        """Says what is wrong with a step, or `None`; what is not is taken into account from then on.

        Args:
            loss: Mean loss of a token, in nats.
            norm: Norm of the gradient over all processes, before clipping.
        """
        if not math.isfinite(loss):
            return "loss is no number"
        if not math.isfinite(norm):
            return "gradient is no number"
        if self._is_far(loss, self._losses):
            return "loss spiked"
        if self._is_far(norm, self._norms):
            return "gradient spiked"
        self._losses.append(loss)
        self._norms.append(norm)
        return None

    def state(self) -> dict[str, list[float]]:
        """Returns what a resumed run needs to judge alike, as JSON."""
        return {"losses": list(self._losses), "norms": list(self._norms)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` returned."""
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])

    def _is_far(self, value: float, recent: deque[float]) -> bool:
        if not self._limits or len(recent) < self._limits.window_steps:
            return False
        median = statistics.median(recent)
        distance = statistics.median(abs(other - median) for other in recent)
        deviation = max(_NORMAL * distance, _LEAST_SHARE * abs(median))
        return value > median + self._limits.deviations * deviation
