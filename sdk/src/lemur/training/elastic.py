"""Starts the processes of one machine with torchrun's own agent, and says as data which of them failed.

`python -m lemur.training.elastic` takes torchrun's arguments. Unlike torchrun it writes the failures to the file
that `LEMUR_JOB_FAILURE` names, so that nobody has to read them out of a table, and leaves with the exit code of the
process that failed first, so that whoever started it can tell what to start again (see `lemur.errors.HungError`).

SIGTERM is passed on to the processes, which then have `--shutdown-timeout` seconds to store a checkpoint;
a second one ends them at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

FAILURE_VARIABLE = "LEMUR_JOB_FAILURE"
"""File for the failures in the order they were seen: `[{"rank": 1, "exit_code": -9}]`."""


def main() -> None:
    """Runs the processes to their end; leaves with an exit code above 0 where one of them failed."""
    config, command, arguments = config_from_args(parse_args(sys.argv[1:]))  # type: ignore[no-untyped-call]
    try:
        elastic_launch(config, entrypoint=command)(*arguments)
    except ChildFailedError as error:
        failures = [{"rank": rank, "exit_code": failure.exitcode} for rank, failure in error.failures.items()]
        path = os.environ.get(FAILURE_VARIABLE)
        if path:
            Path(path).write_text(json.dumps(failures), encoding="utf-8")
        exit_code = error.get_first_failure()[1].exitcode
        # What a shell makes of a process that a signal ended.
        sys.exit(exit_code if exit_code > 0 else 128 - exit_code)
    except SignalException as error:
        # Processes further down are bound to this one, so what has not ended within its time ends now.
        os._exit(128 + error.sigval)


if __name__ == "__main__":
    main()
