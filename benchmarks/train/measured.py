"""What a row took, as its process tells it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple


class Measured(NamedTuple):
    """What a run took."""

    tokens: int
    """Tokens that are no padding, in the window."""
    padded_tokens: int
    """All that the model was given, padding too."""
    seconds: float
    """Length of the window."""
    wait_seconds: float
    """Of that, waiting for the next batch."""
    peak_memory_bytes: int
    """Of the first device, or of the process where there is none; over the whole run."""
    loss: float
    """Mean over all steps, to see that rows learn alike."""
    extra: dict[str, Any]
    """What else there is to say: kernels, stalls."""

    def write(self) -> None:
        """Prints it as the last line, for the process that measures."""
        print(json.dumps(self._asdict()), flush=True)


def window_of_curve(metrics: Path, num_warmup_steps: int) -> dict[str, float]:
    """Returns tokens, seconds, waiting and loss of a run of ours, whose curve has a point for every step.

    Args:
        metrics: Its `metrics.jsonl`.
        num_warmup_steps: Steps that are not measured.
    """
    points = [json.loads(line) for line in metrics.read_text().splitlines()]
    before, *inside = points[num_warmup_steps - 1 :]
    seconds = [point["seconds"] - earlier["seconds"] for earlier, point in zip([before, *inside], inside, strict=False)]
    waits = [point["data_wait_share"] * passed for point, passed in zip(inside, seconds, strict=True)]
    return {
        "tokens": inside[-1]["tokens"] - before["tokens"],
        "seconds": sum(seconds),
        "wait_seconds": sum(waits),
        "loss": statistics.fmean(point["loss"] for point in points),
    }
