"""Runs a compiled pipeline on this machine, in a process of its own.

`python -m lemur.local_pipeline PARENT_PID PIPELINE ARGUMENTS ROOT`: the Kubeflow Pipelines SDK executes the same
compiled file that a cluster takes, each step as a subprocess of this interpreter. It is a process of its own so that
whoever started it can stop everything below it, and need not import the SDK.

SIGTERM is passed on to the stage at work, past the shell that the SDK runs it in: a training stage stores a checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path

from lemur.lifeline import end_with_parent
from lemur.stages.envelope import RUNNER_VARIABLE, STOP_VARIABLE


def main() -> int:
    """Runs the pipeline; returns 1 when a step failed."""
    end_with_parent(int(sys.argv[1]))
    pipeline, arguments, root = (Path(argument) for argument in sys.argv[2:])
    # Steps are started as `python3`: it must be this interpreter, wherever PATH points.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ[RUNNER_VARIABLE] = str(os.getpid())
    stop = root / "stop"
    os.environ[STOP_VARIABLE] = str(stop)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.touch())

    from kfp import components, local

    # The local runner warns of every setting that only a cluster can honour, once for each step.
    warnings.filterwarnings("ignore", category=UserWarning, module="kfp.local")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp.local")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    component = components.load_component_from_file(str(pipeline))
    try:
        component(**json.loads(arguments.read_text(encoding="utf-8")))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
