"""Starts the processes of one machine with torchrun's own agent, and says as data which of them failed.

`python -m lemur.training.elastic` takes torchrun's arguments. Unlike torchrun it writes the first failure to
the file that `LEMUR_JOB_FAILURE` names, so that nobody has to read it out of a table.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

FAILURE_VARIABLE = "LEMUR_JOB_FAILURE"
"""File for the first failure: `{"rank": 1, "exit_code": -9}`."""


def main() -> None:
    """Runs the processes to their end; leaves with 1 where one of them failed."""
    config, command, arguments = config_from_args(parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
    try:
        elastic_launch(config, entrypoint=command)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        failed = {"rank": rank, "exit_code": failure.exitcode}
        Path(os.environ[FAILURE_VARIABLE]).write_text(json.dumps(failed), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
