"""Measures training: `python -m benchmarks.train --help`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data.processes import CommandError, measure
from benchmarks.data.tables import Table, machine
from benchmarks.train.bench import Bench
from benchmarks.train.report import checkpoints, comparison
from benchmarks.train.rows import Device, Steps, pretraining_rows, tuning_rows
from benchmarks.train.sizes import SIZES

_PARTS = ("finetune", "pretrain", "checkpoint")


def main() -> int:
    """Measures what was asked for, prints the tables, and returns 1 where a row of ours could not be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that what is running is ended on the way out.
    options = _options()
    # Compiling every import anew would be measured otherwise.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    work = Path(options.work or tempfile.mkdtemp(prefix="lemur-benchmark-")).absolute()
    failed = False
    try:
        device = Device(**measure([sys.executable, "-m", "benchmarks.train.peak"], work=work / "peak").output)
        if options.rehearse:
            device = device._replace(num_devices=options.rehearse)
        facts = {**machine(), "device": device._asdict()}
        print(f"## Training\n\n{_facts(facts)}\n", flush=True)
        report: dict[str, Any] = {"machine": facts, "options": vars(options), "tables": []}
        on_gpu = device.num_devices > 0 and not options.rehearse
        steps = Steps(options.warmup_steps or (5 if on_gpu else 1), options.steps or (20 if on_gpu else 4))
        for name in options.sizes or (["1b", "3b"] if on_gpu else ["20m"]):
            bench = Bench(work, SIZES[name], device, steps, options.repeats, options.seed)
            for part in options.only:
                table, whole = _table(part, bench, options)
                failed = failed or not whole
                print(table.markdown(), flush=True)
                report["tables"].append(vars(table))
                if options.json:
                    Path(options.json).write_text(json.dumps(report, indent=2))
    except CommandError as error:
        print(f"not measured: {error}", flush=True)
        return 1
    finally:
        shutil.rmtree(work if options.work is None else work / "runs", ignore_errors=True)
    return int(failed)


def _table(part: str, bench: Bench, options: argparse.Namespace) -> tuple[Table, bool]:
    on_gpu = bench.device.num_devices > 0 and not options.rehearse
    compiled = on_gpu if options.compile is None else options.compile
    if part == "checkpoint":
        return checkpoints(bench, compiled=compiled)
    if part == "pretrain":
        rows = pretraining_rows(bench.size, bench.steps, bench.device, compiled=compiled)
    else:
        mean = float(bench.dialogue_lengths.mean())
        rows = tuning_rows(bench.size, bench.steps, bench.device, compiled=compiled, mean_dialogue=mean)
    return comparison(part, bench, [row for row in rows if re.search(options.rows, row.name)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--only", default=",".join(_PARTS), help=f"parts, separated by commas; of {', '.join(_PARTS)}")
    parser.add_argument(
        "--sizes", default="", help=f"models, of {', '.join(SIZES)} (20m on a processor, 1b,3b on a GPU)"
    )
    parser.add_argument("--rows", default="", metavar="REGEX", help="only rows whose name this is found in")
    parser.add_argument("--steps", type=int, help="optimizer steps that are measured (4; on a GPU 20)")
    parser.add_argument("--warmup-steps", type=int, help="steps before the clock starts (1; on a GPU 5)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each row is run (3)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile models (on a GPU)")
    parser.add_argument(
        "--rehearse",
        type=int,
        default=0,
        metavar="N",
        help="run the rows of N GPUs on processors, to see that they run",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the dialogues (0)")
    parser.add_argument("--work", default=None, help="folder to keep model and data in; without it a temporary one")
    parser.add_argument("--json", default=None, metavar="PATH", help="file for every single measurement")
    options = parser.parse_args()
    for name, valid in (("only", _PARTS), ("sizes", tuple(SIZES))):
        chosen = [value for value in getattr(options, name).split(",") if value]
        unknown = sorted(set(chosen) - set(valid))
        if unknown:
            parser.error(f"--{name}: {unknown[0]!r} is unknown; there are {', '.join(valid)}")
        setattr(options, name, chosen)
    return options


def _facts(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    device = facts["device"]
    return (
        f"{facts['processor']}, {facts['cores_used']} of {facts['cores']} cores used, {facts['memory_gib']} GiB; load "
        f"before the start {facts['load_before']}; Python {facts['python']}; {versions}. Rows run on "
        f"{device['num_devices'] or 'no'} GPU ({device['device']}) in {device['precision']}, whose peak is "
        f"{device['peak_flops'] / 1e12:,.3g} TFLOP/s ({device['peak_is']}).\n\nWhere a figure is followed by a range, "
        "it is the median of several, and the range is from the smallest to the largest. Rows take turns."
    )


if __name__ == "__main__":
    sys.exit(main())
