"""Ends a training process in a job where nothing moves any more, and says where it stood."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur import progress
from lemur.errors import HungError
from lemur.training.process import leave
from lemur.training.workplace import mark

HUNG_NAME = "hung-rank-{rank}.json"
"""File for where a rank stood, in the job's folder."""
STACKS_NAME = "stacks-rank-{rank}.txt"
"""File for the stacks of all its threads."""

_OUTSIDE_FACTOR = 4
"""How much longer everything but a step may take: loading, compiling in the first step, storing the model."""
_MOST_BETWEEN_LOOKS_SECONDS = 10.0
_OTHERS_SECONDS = 5.0
"""Time for the other processes to write down where they stand, before the first one to leave takes them along."""
_STUCK_INTERPRETER_SECONDS = 60.0
_MOVES_KEY = "lemur/moves"
_LIBRARIES = ("torch", "accelerate", "transformers", "deepspeed", "threading.py", "selectors.py")


class Watchdog(TrainerCallback):
    """Ends this process when, for too long, no process of the job has made a step or moved any data.

    A thread looks, so it also works while the main thread is stuck in a collective; and where a library holds the
    interpreter itself, a timer without it does (which can only write the stacks and leave with exit code 1). Every
    process has one. What moves is a finished step or any progress that is shown, bytes of an upload for example, and
    processes tell each other through the store of their process group: the ones that wait at the end while one of
    them stores the model are not stuck.

    Args:
        limit_seconds: Longest time without a movement between steps; four times that before the first one is done
            and after the last one.
        folder: Local folder of the job.
    """

    def __init__(self, limit_seconds: float, folder: Path) -> None:
        self._limit_seconds, self._folder = limit_seconds, folder
        self._rank, self._num_ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._main_thread = threading.get_ident()
        self._steps: int | None = None
        self._between_steps = False
        self._moved, self._moved_at, self._known_moves = True, time.monotonic(), -1
        self._store: TCPStore | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._stacks = (folder / STACKS_NAME.format(rank=self._rank)).open("w", encoding="utf-8")

    def start(self) -> Watchdog:
        """Begins to look, until the process ends."""
        progress.tell(self._note_movement)
        self._thread.start()
        # A thread that is inside a library when the interpreter ends is unwound through it, which aborts the process.
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Looks no more."""
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts a step."""
        self._steps, self._between_steps = state.global_step, state.global_step < state.max_steps
        if state.is_world_process_zero:
            mark(self._folder, "step", state.global_step)
        self._note_movement()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gives the rest of the work more time."""
        self._between_steps = False
        self._note_movement()

    def _note_movement(self) -> None:
        self._moved, self._moved_at = True, time.monotonic()

    @property
    def _limit(self) -> float:
        return self._limit_seconds * (1 if self._between_steps else _OUTSIDE_FACTOR)

    def _look(self) -> None:
        while not self._ended.wait(min(_MOST_BETWEEN_LOOKS_SECONDS, self._limit_seconds / 10)):
            self._hear_from_others()
            faulthandler.dump_traceback_later(self._limit + _STUCK_INTERPRETER_SECONDS, exit=True, file=self._stacks)
            if time.monotonic() - self._moved_at > self._limit:
                self._end()

    def _hear_from_others(self) -> None:
        """Tells the other processes of movement here, and takes theirs for our own."""
        moved, self._moved = self._moved, False
        if self._num_ranks == 1 or not torch.distributed.is_initialized():
            return
        try:
            if self._store is None:
                address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                self._store = TCPStore(
                    address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10)
                )
            moves = self._store.add(_MOVES_KEY, int(moved))
        except (RuntimeError, ValueError):
            # The store went with the process that keeps it. Without it, only what happens here counts.
            return
        if moves != self._known_moves:
            self._known_moves, self._moved_at = moves, time.monotonic()

    def _end(self) -> None:
        """Writes down where this process stands, and ends it."""
        seconds = round(time.monotonic() - self._moved_at)
        stands = {"rank": self._rank, "step": self._steps, "seconds": seconds, "at": self._place()}
        path = self._folder / HUNG_NAME.format(rank=self._rank)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(stands), encoding="utf-8")
        partial.replace(path)
        for file in (self._stacks, sys.stderr):
            faulthandler.dump_traceback(file=file, all_threads=True)
        time.sleep(_OTHERS_SECONDS)
        leave(HungError(hung_message(self._folder)))

    def _place(self) -> str:
        """Returns the innermost line of the main thread, and the one of ours or of the user's that it came from."""
        frame: FrameType | None = sys._current_frames().get(self._main_thread)
        stack = traceback.extract_stack(frame) if frame else []
        if not stack:
            return "an unknown place"
        told = [_told(stack[-1])]
        own = next((line for line in reversed(stack) if not any(part in line.filename for part in _LIBRARIES)), None)
        if own is not None and own is not stack[-1]:
            told.append(f"called from {_told(own)}")
        return ", ".join(told)


def hung_message(folder: Path) -> str:
    """Returns what is to be said of a job in which nothing moved, from what its processes on this machine wrote."""
    paths = sorted(folder.glob(HUNG_NAME.format(rank="*")))
    ranks = sorted((json.loads(path.read_text(encoding="utf-8")) for path in paths), key=lambda rank: rank["rank"])
    lines = [
        f"  rank {rank['rank']}: {rank['seconds']:,} s without a movement "
        + (f"after step {rank['step']:,}" if rank["step"] is not None else "before its first step was done")
        + f", in {rank['at']}"
        for rank in ranks
    ]
    return (
        "training hung: no step was made and no data moved.\n"
        + "\n".join(lines)
        + f"\nThe stacks of all threads: {folder / STACKS_NAME.format(rank='*')}. If steps may take so long, raise "
        "step_timeout_seconds and run again: it goes on from the last checkpoint"
    )


def _told(line: traceback.FrameSummary) -> str:
    return f"{line.name} ({'/'.join(Path(line.filename).parts[-3:])}:{line.lineno})"
