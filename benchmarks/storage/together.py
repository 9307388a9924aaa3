"""Runs several commands at the same time and prints what each printed last, as one JSON object.

`python -m benchmarks.storage.together '[{"command": […], "environment": {…}}, …]'`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys


def main() -> int:
    """Returns 1 where a command failed."""
    running = [
        subprocess.Popen(each["command"], env={**os.environ, **each["environment"]}, stdout=subprocess.PIPE)
        for each in json.loads(sys.argv[1])
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        return 1
    print(json.dumps({"outputs": [json.loads(output.splitlines()[-1]) for output in outputs]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
