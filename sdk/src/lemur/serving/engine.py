"""The thread that owns the model: takes requests in, makes tokens for all of them at once, hands them out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

import torch

from lemur.serving.batch import Batch, Updates
from lemur.serving.generation import Generation, Update
from lemur.serving.model import LoadedModel

_GATHER_SECONDS = 0.003
"""How long an idle engine waits for more requests after the first, so that those sent together share a pass."""

_log = logging.getLogger(__name__)


class Engine:
    """Answers generations in batches that requests join and leave between tokens.

    Args:
        model: The loaded model.
        max_rows: Most answers in the making at a time; more wait.
        deliver: Takes the updates of one step, in the engine's thread.
    """

    def __init__(self, model: LoadedModel, *, max_rows: int, deliver: Callable[[Updates], None]) -> None:
        self._model, self._max_rows, self._deliver = model, max_rows, deliver
        self._waiting: list[Generation] = []
        self._changed = threading.Condition()
        self._closed = False
        self._cached_tokens = model.cached_tokens
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after its current step; answers in the making are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, generations: Iterable[Generation]) -> None:
        """Queues generations; their updates come through `deliver`."""
        with self._changed:
            self._waiting += generations
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @torch.inference_mode()
    def _run(self) -> None:
        batch = Batch(self._model)
        while not self._closed:
            entering = self._admit(batch.rows)
            try:
                batch.drop_finished()
                if entering:
                    self._deliver(batch.read(entering))
                if batch.rows:
                    self._deliver(batch.step())
            except Exception as error:  # One bad batch must not end the server; every request in it is told.
                _log.exception("a batch of %d requests failed", len(batch.rows) + len(entering))
                lost = [row for row in {*batch.rows, *entering} if row.finish_reason is None]
                self._deliver([(row, Update(error=f"{type(error).__name__}: {error}")) for row in lost])
                batch = Batch(self._model)

    def _admit(self, rows: list[Generation]) -> list[Generation]:
        """Returns the waiting generations whose prompts are read next; waits for one where there is no work."""
        with self._changed:
            if not rows and not self._waiting:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(lambda: self._closed, _GATHER_SECONDS)
            self._waiting = [waiting for waiting in self._waiting if not waiting.cancelled]
            chosen = self._choose(rows) if self._waiting else []
            taken = set(map(id, chosen))
            self._waiting = [waiting for waiting in self._waiting if id(waiting) not in taken]
        return chosen

    def _choose(self, rows: list[Generation]) -> list[Generation]:
        """Returns the generation that has waited longest, and others of about its length that fit beside it."""
        first = self._waiting[0]
        length = len(first.prompt.token_ids)
        by_length = sorted(self._waiting[1:], key=lambda other: abs(len(other.prompt.token_ids) - length))
        chosen: list[Generation] = []
        num_answered, longest = len(rows), max((_final_length(row) for row in rows), default=0)
        width = 0
        for candidate in [first, *by_length]:
            width = max(width, len(candidate.prompt.token_ids))
            if chosen and width * (len(chosen) + 1) > self._model.prefill_tokens:
                break
            if candidate.sampling.max_tokens:
                longest = max(longest, _final_length(candidate))
                fits = num_answered < self._max_rows and longest * (num_answered + 1) <= self._cached_tokens
                # A generation too large for the cache beside others must still get its turn alone.
                if num_answered and not fits:
                    break
                num_answered += 1
            chosen.append(candidate)
        return chosen


def _final_length(generation: Generation) -> int:
    return len(generation.prompt.token_ids) + generation.sampling.max_tokens
