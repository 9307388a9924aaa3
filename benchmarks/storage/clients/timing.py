"""What the scripts of all clients share: they move files one way, and print what it took as JSON.

Standard library only, since each script runs in the environment that has its client.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
KEY, SECRET = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
REGION = os.environ["AWS_REGION"]

MODE = sys.argv[1]
"""Which way of using the client is measured."""

_NUM_PARALLEL_OBJECTS = 4
_Move = Callable[[str, str, str], None]


def report(upload: _Move, download: _Move) -> None:
    """Moves the files that the command line names: a JSON object with `direction`, `bucket` and `objects`.

    The time begins when the client is imported and made, and holds the transfers alone. Four objects are moved at a
    time, as Lemur does it for the objects of a result.

    Args:
        upload: Called with bucket, name and path.
        download: Likewise.
    """
    task = json.loads(sys.argv[2])
    move = upload if task["direction"] == "up" else download
    began, before = time.time(), os.times()
    with ThreadPoolExecutor(_NUM_PARALLEL_OBJECTS) as pool:
        list(pool.map(lambda pair: move(task["bucket"], *pair), task["objects"]))
    after = os.times()
    cpu_seconds = sum(after[:4]) - sum(before[:4])
    print(json.dumps({"began": began, "ended": time.time(), "cpu_seconds": cpu_seconds}))
