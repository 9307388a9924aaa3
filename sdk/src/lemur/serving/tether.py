"""Runs a command that ends when the process which started it ends, however that happens.

`python -m lemur.serving.tether PARENT_PID COMMAND …`. Linux signals a process when its parent dies if the
process asked for it; asking here and not between fork and exec keeps clear of the parent's threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks for the signal and becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        # SIGTERM, so that a server with workers of its own can end them.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("the process that started this server is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
