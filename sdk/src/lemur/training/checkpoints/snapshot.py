"""Copies of the state in host memory, so that training can go on while they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from lemur.training.state import Stretch
from lemur.training.state.stretches import flat


class Snapshot:
    """Host memory for one copy of what a process writes, taken once and used for every checkpoint.

    From a GPU the copy runs on a stream of its own into pinned memory: the host waits for nothing, and computing goes
    on until something is about to change what is being copied; `hold_changes` makes the device wait there. From a
    CPU it is a plain copy.
    """

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None
        self._stream: Any = None
        self._copied: Any = None

    @property
    def size_bytes(self) -> int:
        """Host memory that is taken."""
        return 0 if self._memory is None else self._memory.numel() * self._memory.element_size()

    def take(self, stretches: Sequence[Stretch]) -> list[Stretch]:
        """Returns copies in float32; they are whole after `wait`, and good until the next call."""
        on_gpu = next((stretch.values.device for stretch in stretches if stretch.values.is_cuda), None)
        total = sum(stretch.runs.num_elements for stretch in stretches)
        if self._memory is None or self._memory.numel() < total:
            self._memory = torch.empty(total, dtype=torch.float32, pin_memory=on_gpu is not None)
        if on_gpu is None:
            return self._copy(stretches)
        self._stream = self._stream or torch.cuda.Stream(on_gpu)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(on_gpu))
        with torch.cuda.stream(self._stream):
            copies = self._copy(stretches)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(self._stream)
        return copies

    def hold_changes(self) -> None:
        """Makes the GPU finish the copy before what is asked of it next; the host goes on."""
        if self._copied is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._copied)

    def wait(self) -> None:
        """Waits until the copy is whole; may be called from another thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def _copy(self, stretches: Sequence[Stretch]) -> list[Stretch]:
        assert self._memory is not None
        copies, first = [], 0
        for stretch in stretches:
            end = first + stretch.runs.num_elements
            target = self._memory[first:end]
            target.copy_(flat(stretch.values), non_blocking=True)
            copies.append(replace(stretch, values=target))
            first = end
        return copies
