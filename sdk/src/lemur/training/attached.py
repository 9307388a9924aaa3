"""Runs a module as a process that never outlives the one that started it.

`python -m lemur.training.attached MODULE ARGUMENTS` is `python -m MODULE ARGUMENTS`, bound to its parent: a
launcher that is killed, even with `kill -9`, takes its training processes along, so that none of them goes on
writing checkpoints that a later attempt also writes.
"""

from __future__ import annotations

import os
import runpy
import sys

from lemur.lifeline import end_with_parent

if __name__ == "__main__":
    end_with_parent(os.getppid())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
