"""Runs a command that ends when the process which started it ends, however that happens.

`python -m lemur.serving.tether PARENT_PID COMMAND …` becomes the command, bound to its parent.
"""

from __future__ import annotations

import os
import signal
import sys

from lemur.lifeline import end_with_parent


def main() -> None:
    """Binds this process and becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # SIGTERM, so that a server with workers of its own can end them.
    end_with_parent(parent, signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
