"""Measures storage beside other S3 clients: `python -m benchmarks.storage --help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.data.processes import CommandError
from benchmarks.data.tables import Table, machine
from benchmarks.storage.bench import Bench
from benchmarks.storage.folders import folders
from benchmarks.storage.servers import null, seaweedfs


def _null(bench: Bench) -> list[Table]:
    payload = bench.payload(bench.megabytes)
    with null(payload.path, bench.work) as server:
        title = f"One object of {bench.megabytes:,} MB, a server that keeps nothing"
        return [bench.compare(title, [server], payload, 1, 1)]


def _memory(bench: Bench) -> list[Table]:
    with seaweedfs(bench.memory) as servers:
        title = f"One object of {bench.megabytes:,} MB, SeaweedFS in memory"
        return [bench.compare(title, servers, bench.payload(bench.megabytes), 1, 1)]


def _disk(bench: Bench) -> list[Table]:
    with seaweedfs(bench.work) as servers:
        title = f"One object of {bench.megabytes:,} MB, SeaweedFS on disk"
        return [bench.compare(title, servers, bench.payload(bench.megabytes), 1, 1)]


def _shards(bench: Bench) -> list[Table]:
    payload = bench.payload(bench.shard_megabytes)
    shards = f"{bench.num_shards} objects of {bench.shard_megabytes} MB, {bench.processes} processes"
    with null(payload.path, bench.work) as server:
        title = f"{shards}, a server that keeps nothing"
        tables = [bench.compare(title, [server], payload, bench.num_shards, bench.processes)]
    with seaweedfs(bench.memory, bench.processes) as servers:
        title = f"{shards}, each with a SeaweedFS in memory of its own"
        return [*tables, bench.compare(title, servers, payload, bench.num_shards, bench.processes)]


_PARTS: dict[str, Callable[[Bench], list[Table]]] = {
    "null": _null,
    "memory": _memory,
    "disk": _disk,
    "shards": _shards,
    "folders": folders,
}


def main() -> int:
    """Runs the parts that were asked for, prints their tables, and returns 1 where a part could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what is running is ended on the way out.
    options = _options()
    # Compiling every import anew would be measured otherwise.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    facts = machine()
    print(
        f"## Storage\n\n{facts['processor']}, {facts['cores_used']} cores, {facts['memory_gib']} GiB; load before the "
        f"start {facts['load_before']}; Python {facts['python']}.\n\nWhere a figure is followed by a range, it is the "
        "median of several, and the range is from the smallest to the largest.\n",
        flush=True,
    )
    report: dict[str, Any] = {"machine": facts, "options": vars(options), "parts": {}}
    failed = False
    for name in options.only:
        # Each part has its own folders: what it leaves takes memory.
        work = Path(tempfile.mkdtemp(prefix="lemur-benchmark-", dir=options.work))
        memory = Path(tempfile.mkdtemp(prefix="lemur-benchmark-", dir=options.memory))
        started = time.perf_counter()
        try:
            tables = _PARTS[name](_bench(options, work, memory))
        except CommandError as error:
            print(f"### {name}\n\nnot measured: {error}\n", flush=True)
            failed = True
            continue
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(memory, ignore_errors=True)
        for table in tables:
            print(table.markdown(), flush=True)
        report["parts"][name] = {
            "seconds": round(time.perf_counter() - started, 1),
            "load_after": round(os.getloadavg()[0], 2),
            "tables": [vars(table) for table in tables],
        }
        if options.json:
            Path(options.json).write_text(json.dumps(report, indent=2))
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--only", default=",".join(_PARTS), help=f"parts, separated by commas; of {', '.join(_PARTS)}")
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the one object (2000)")
    parser.add_argument("--shards", type=int, default=64, help="objects of a sharded checkpoint (64)")
    parser.add_argument("--shard-megabytes", type=int, default=32, help="size of each (32)")
    parser.add_argument("--processes", type=int, default=2, help="processes that share the shards (2)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each figure is measured (3)")
    parser.add_argument(
        "--wait-seconds", type=float, default=60, help="how long each turn waits until nothing else runs (60)"
    )
    parser.add_argument("--clients", default="", help="beginnings of names, separated by commas; all without it")
    parser.add_argument(
        "--peers-python", action="append", default=[], metavar="PATH", help="interpreter with other clients"
    )
    parser.add_argument(
        "--memory", default="/dev/shm", help="folder in memory with a short name; three times the object must fit"
    )
    parser.add_argument("--work", default=None, help="folder on disk; without it the one for temporary files")
    parser.add_argument("--json", default=None, metavar="PATH", help="file for every single measurement")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = sorted(set(options.only) - set(_PARTS))
    if unknown:
        parser.error(f"--only: no part is named {unknown[0]!r}; there are {', '.join(_PARTS)}")
    return options


def _bench(options: argparse.Namespace, work: Path, memory: Path) -> Bench:
    return Bench(
        work=work,
        memory=memory,
        megabytes=options.megabytes,
        num_shards=options.shards,
        shard_megabytes=options.shard_megabytes,
        processes=options.processes,
        repeats=options.repeats,
        wait_seconds=options.wait_seconds,
        peers_python=tuple(options.peers_python),
        only_clients=tuple(options.clients.split(",")) if options.clients else (),
    )


if __name__ == "__main__":
    sys.exit(main())
