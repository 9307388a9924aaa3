"""Trying again where storage is away for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lemur.errors import StorageError
from lemur.progress import emit, moved

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

_Result = TypeVar("_Result")


class Patience:
    """Repeats what fails for want of storage, with growing pauses, and says so once.

    Args:
        seconds: How long a single piece of work may go on failing.
        what: What is being stored, as the note names it.
        stopped: Set where nobody waits for the work any more.
    """

    def __init__(self, seconds: float, what: str, stopped: threading.Event) -> None:
        self._seconds, self._what, self._stopped = seconds, what, stopped
        self._told = False

    def call(self, work: Callable[[], _Result]) -> _Result:
        """Does the work, and again until it succeeds.

        Raises:
            StorageError: It failed for too long; the last failure.
        """
        began, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
        while True:
            try:
                return work()
            except StorageError as error:
                left = began + self._seconds - time.monotonic()
                if left <= 0 or self._stopped.is_set():
                    raise
                if not self._told:
                    self._told = True
                    emit(
                        "note",
                        text=f"{self._what} cannot be stored yet, and training goes on meanwhile; trying again for "
                        f"{left:,.0f} s: {error}",
                    )
            # Whoever waits for this is not stuck: it ends.
            moved()
            self._stopped.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
