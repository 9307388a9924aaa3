"""Runs a module as a process that never outlives the one that started it.

`python -m lemur.training.attached MODULE ARGUMENTS` is `python -m MODULE ARGUMENTS`, bound to its parent: a
launcher that is killed, even with `kill -9`, takes its training processes along, so that none of them goes on
writing checkpoints that a later attempt also writes.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent ends; works on Linux, elsewhere it does nothing."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent went before the kernel was asked.
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with_parent()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
