"""Binds a process to the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, signal_number: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to signal this process when its parent ends; works on Linux, elsewhere it does nothing.

    It is asked for by the process itself and not between fork and exec, which keeps clear of the parent's threads.

    Args:
        parent: Process id of the parent; where it has ended already, this process is signalled at once.
        signal_number: What this process gets: SIGKILL, or SIGTERM for one that has children of its own to end.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal_number)
