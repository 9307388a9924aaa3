"""Measures the data engine: `python -m benchmarks.data --help`."""

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

from benchmarks.data.bench import Bench
from benchmarks.data.end_to_end import PARTS as END_TO_END
from benchmarks.data.killing import killing
from benchmarks.data.many_files import many_files
from benchmarks.data.packing import packing
from benchmarks.data.places import places
from benchmarks.data.processes import CommandError
from benchmarks.data.reader import reader
from benchmarks.data.tables import Table, machine

_PARTS: dict[str, Callable[[Bench], list[Table]]] = {
    **END_TO_END,
    "packing": packing,
    "places": places,
    "reader": reader,
    "many-files": many_files,
    "kill": killing,
}


def main() -> int:
    """Runs the parts that were asked for, prints their tables, and returns 1 where a part could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what is running is ended on the way out.
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.processes])
    # Compiling every import anew would be measured otherwise.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    facts = machine()
    print(f"## Data engine\n\n{_facts(facts)}\n", flush=True)
    work = Path(options.work or tempfile.mkdtemp(prefix="lemur-benchmark-")).absolute()
    report: dict[str, Any] = {"machine": facts, "options": vars(options), "parts": {}}
    failed = False
    try:
        bench = _bench(options, work)
        for name in options.only:
            bench.say(f"{name} …")
            started = time.perf_counter()
            try:
                tables = _PARTS[name](bench)
            except CommandError as error:
                print(f"### {name}\n\nnot measured: {error}\n", flush=True)
                failed = True
                continue
            for table in tables:
                print(table.markdown(), flush=True)
            seconds = round(time.perf_counter() - started, 1)
            report["parts"][name] = {"seconds": seconds, "tables": [vars(table) for table in tables]}
            if options.json:
                Path(options.json).write_text(json.dumps(report, indent=2))
            bench.say(f"{name}: {seconds} s")
    finally:
        shutil.rmtree(work if options.work is None else work / "runs", ignore_errors=True)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    usual = [name for name in _PARTS if name != "kill"]
    parser.add_argument("--only", default=None, help=f"parts, separated by commas; of {', '.join(_PARTS)}")
    parser.add_argument("--megabytes", type=int, default=400, help="text of the corpus (400)")
    parser.add_argument("--peer-megabytes", type=int, default=24, help="text that other tools get (24)")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="entries of the tokenizer (32000)")
    parser.add_argument("--processes", type=int, default=2, help="cores, and processes of each tool (2)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each figure is measured (3)")
    parser.add_argument("--partitions", type=int, default=1_000_000, help="partitions of the part places (1000000)")
    parser.add_argument("--small-files", type=int, default=1000, help="files of the part many-files (1000)")
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="kill a run N times, and compare results")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is chosen by chance (0)")
    parser.add_argument(
        "--peers-python", action="append", default=[], metavar="PATH", help="interpreter with other tools"
    )
    parser.add_argument("--work", default=None, help="folder to keep the corpus in; without it a temporary one")
    parser.add_argument("--json", default=None, metavar="PATH", help="file for every single measurement")
    options = parser.parse_args()
    named = options.only.split(",") if options.only else ([] if options.kill else usual)
    unknown = sorted(set(named) - set(_PARTS))
    if unknown:
        parser.error(f"--only: no part is named {unknown[0]!r}; there are {', '.join(_PARTS)}")
    options.only = [*named, *(["kill"] if options.kill and "kill" not in named else [])]
    if "kill" in options.only and not options.kill:
        parser.error("--only kill needs --kill N, the number of kills")
    return options


def _bench(options: argparse.Namespace, work: Path) -> Bench:
    named = os.environ.get("LEMUR_BENCHMARK_DATA")
    return Bench(
        work=work,
        megabytes=options.megabytes,
        peer_megabytes=options.peer_megabytes,
        vocab_size=options.vocab_size,
        processes=options.processes,
        repeats=options.repeats,
        seed=options.seed,
        peers_python=tuple(options.peers_python),
        num_partitions=options.partitions,
        num_small_files=options.small_files,
        num_kills=options.kill,
        benchmark_data=Path(named) if named else None,
    )


def _facts(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    return (
        f"{facts['processor']}, {facts['cores_used']} of {facts['cores']} cores used, {facts['memory_gib']} GiB; load "
        f"before the start {facts['load_before']}; Python {facts['python']}; {versions}.\n\nWhere a figure is followed "
        "by a range, it is the median of several, and the range is from the smallest to the largest."
    )


if __name__ == "__main__":
    sys.exit(main())
