"""How long the training loop waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from transformers import Trainer


class WaitingTrainer(Trainer):
    """A Trainer that measures how long it waits for the next batch.

    That is the time within the data loader: reading and collating where the loop does so itself, and whatever
    workers do not have ready where they do. Counting tokens and waiting for a device are no part of it.
    """

    data_wait_seconds = 0.0
    """Seconds so far."""

    def get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        """Fetches the batches of a step, as `transformers` does."""
        return super().get_batch_samples(self._timed(epoch_iterator), *args, **kwargs)

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.data_wait_seconds += time.perf_counter() - started
            yield batch
