"""Measures resumable checkpoints of a model of 100 million parameters: `python -m benchmarks.checkpoints --help`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.checkpoints.process import make_model
from benchmarks.data.processes import CommandError, Usage, measure
from benchmarks.data.tables import Table, machine, middle
from benchmarks.s3_server import find_server, s3_server

_ENGINES = {
    "ddp": {"kind": "ddp"},
    "zero1": {"kind": "deepspeed", "zero_stage": 1},
    "zero3": {"kind": "deepspeed", "zero_stage": 3},
    "fsdp": {"kind": "fsdp"},
}
_INTERVAL_SECONDS = 300


def main() -> int:
    """Measures each engine with each storage, and returns 1 where one could not be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what is running is ended on the way out.
    options = _options()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    facts = machine()
    work = Path(tempfile.mkdtemp(prefix="lemur-benchmark-", dir=options.work))
    table = Table(
        "Storing and taking up checkpoints",
        [
            "engine",
            "storage",
            "stall, s",
            f"of {_INTERVAL_SECONDS} s",
            "until whole, s",
            "step, s",
            "step meanwhile, s",
            "memory, GB",
            "verify, s",
            "fill, s",
        ],
    )
    failed = False
    try:
        num_parameters = make_model(work / "model")
        print(
            f"## Checkpoints\n\n{facts['processor']}, {facts['cores_used']} cores; load before the start "
            f"{facts['load_before']}; torch {facts['versions'].get('torch')}. {num_parameters:,} parameters, "
            f"{12 * num_parameters / 1e9:.2f} GB of weights and moments, {options.ranks} processes.\n",
            flush=True,
        )
        with ExitStack() as stack:
            for way, engine, storage in _rows(options):
                environment, uri = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}, (work / "storage").as_uri()
                if storage == "S3":
                    server = stack.enter_context(s3_server(str(find_server()), parent=work))
                    environment, uri = {**environment, **server.environment}, server.new_bucket()
                try:
                    _measure(table, options, work, way, engine, storage, uri, environment)
                except CommandError as error:
                    table.add(engine, storage, f"not measured: {str(error)[-300:]}", *[""] * 7)
                    failed = True
                shutil.rmtree(work / "storage", ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table.markdown(), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": facts, "table": vars(table)}, indent=2))
    return int(failed)


def _rows(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    engines = options.engines.split(",")
    ours = [("ours", engine, storage) for engine in engines for storage in options.storages.split(",")]
    return [("none", "ddp", "none"), ("trainer", "ddp", "Trainer's own, folder"), *ours]


def _measure(
    table: Table,
    options: argparse.Namespace,
    work: Path,
    way: str,
    engine: str,
    storage: str,
    uri: str,
    environment: dict[str, str],
) -> None:
    def run(steps: int) -> Usage:
        launch = ["-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        local = ["--local-addr=127.0.0.1", f"--nproc-per-node={options.ranks}", "-m", "benchmarks.checkpoints.process"]
        settings = {"--way": way, "--engine": json.dumps(_ENGINES[engine]), "--storage": uri, "--work": work}
        counts = {"--steps": steps, "--every": options.every}
        named = [str(part) for pair in {**settings, **counts}.items() for part in pair]
        paths = {"PYTHONPATH": str(Path(__file__).parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
        return measure(
            [sys.executable, *launch, *local, *named], work=work / "run", environment={**environment, **paths}
        )

    usage = run(options.steps)
    ranks: list[dict[str, Any]] = usage.output["ranks"]
    table.measurements.append({"engine": engine, "storage": storage, "ranks": ranks, "peak_bytes": usage.peak_bytes})
    # All processes wait for the slowest.
    stalls = [max(found) for found in zip(*(rank.get("stall_seconds", []) for rank in ranks), strict=True)]
    busy = [rank["busy"] for rank in ranks if rank["busy"]]
    taking_up = ["", ""]
    if way == "ours":
        again = run(options.steps + 1).output["ranks"]
        assert all(rank["resumed"] for rank in again)
        taking_up = [f"{max(rank[name] for rank in again):.2f}" for name in ("verify_seconds", "fill_seconds")]
        table.measurements[-1]["taking_up"] = again
    table.add(
        engine,
        storage,
        middle(stalls) if stalls else "",
        f"{statistics.median(stalls) / _INTERVAL_SECONDS:.2%}" if stalls else "",
        middle(ranks[0]["commits"], 1) if ranks[0]["commits"] else "",
        f"{statistics.median(rank['quiet'] for rank in ranks):.2f}",
        f"{max(busy):.2f}" if busy else "",
        f"{usage.peak_bytes / 1e9:.2f}",
        *taking_up,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--engines", default="ddp,zero1,zero3,fsdp", help=f"of {', '.join(_ENGINES)}")
    parser.add_argument("--storages", default="folder,S3", help="of folder, S3 (a server on this machine)")
    parser.add_argument("--ranks", type=int, default=2, help="processes (2)")
    parser.add_argument("--steps", type=int, default=16, help="steps of each run (16)")
    parser.add_argument("--every", type=int, default=5, help="steps between two checkpoints (5)")
    parser.add_argument("--work", default=None, help="folder to make temporary files in")
    parser.add_argument("--json", default=None, metavar="PATH", help="file for every single measurement")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
