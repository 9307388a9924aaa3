"""The tables: what the rows took, side by side."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.data.processes import CommandError
from benchmarks.data.tables import Table, middle
from benchmarks.train.bench import Bench
from benchmarks.train.rows import Row, checkpoint_row, num_checkpoints
from lemur import units

_MINUTES_BETWEEN_CHECKPOINTS = 5
_MESSAGE_CHARACTERS = 300


def comparison(part: str, bench: Bench, rows: Sequence[Row]) -> tuple[Table, bool]:
    """Runs the rows in turn and returns their table, and whether every row of ours was measured.

    Args:
        part: `pretrain` or `finetune`.
        bench: The model and the data.
        rows: What is compared; the first one that runs is what speeds are related to.
    """
    runs, problems = _take_turns(bench, rows)
    size = bench.size
    columns = [
        *("", "useful tokens/s", "times the first", "MFU", "padding", "waiting for data", "peak memory", "mean loss"),
    ]
    table = Table(f"{_TITLES[part]}: Llama of {units.count(size.num_parameters, 'parameters')}", columns)
    flops, first = bench.flops_per_token(part), None
    for row in rows:
        found = runs[row.name]
        if not found:
            table.add(row.name, f"not measured: {problems[row.name]}", *[""] * (len(columns) - 2))
            continue
        rates = [run["tokens"] / run["seconds"] for run in found]
        first = first or statistics.median(rates)
        peak = bench.device.peak_flops * row.num_processes
        table.add(
            row.name,
            middle(rates, 0),
            f"{statistics.median(rates) / first:.2f}",
            units.percent(flops * statistics.median(rates) / peak),
            units.percent(statistics.median(1 - run["tokens"] / run["padded_tokens"] for run in found), 2),
            units.percent(statistics.median(run["wait_seconds"] / run["seconds"] for run in found), 2),
            units.size(max(run["peak_memory_bytes"] for run in found)),
            f"{found[-1]['loss']:.3f}",
        )
        table.measurements += [{"row": row.name, **run} for run in found]
    table.notes += _notes(part, bench, flops)
    if not bench.device.num_devices:
        table.notes.append("Rows of GPUs are not measured: there is none. On a machine with one, `make bench-train`.")
    return table, all(runs[row.name] for row in rows if row.program == "ours")


def checkpoints(bench: Bench, *, compiled: bool) -> tuple[Table, bool]:
    """Measures how long training stands still for a checkpoint, and what that is at one every five minutes."""
    row = checkpoint_row(bench.size, bench.steps, bench.device, compiled=compiled)
    runs, problems = _take_turns(bench, [row])
    table = Table(
        f"Checkpoints: Llama of {units.count(bench.size.num_parameters, 'parameters')}",
        ["", "stall of one, s", f"share of the time at one every {_MINUTES_BETWEEN_CHECKPOINTS} minutes"],
    )
    if runs[row.name]:
        number = num_checkpoints(bench.steps)
        stalls = [run["extra"]["checkpoint_stall_seconds"] / number for run in runs[row.name]]
        share = statistics.median(stalls) / (60 * _MINUTES_BETWEEN_CHECKPOINTS)
        table.add("Lemur", middle(stalls, 3), units.percent(share, 2))
        table.notes.append(
            f"{number} checkpoints of a run, one every other step, so that one has to wait for the one before it: "
            "an upper bound. What is not measured is how much slower steps are while a checkpoint is stored."
        )
        table.measurements += [{"row": row.name, **run} for run in runs[row.name]]
    else:
        table.add("Lemur", f"not measured: {problems[row.name]}", "")
    return table, bool(runs[row.name])


_TITLES = {"pretrain": "Pretraining", "finetune": "Tuning on dialogues"}


def _take_turns(bench: Bench, rows: Sequence[Row]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Returns what was measured of each row, and why one could not be."""
    runs: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    problems: dict[str, str] = {}
    for _ in range(bench.repeats):
        for row in rows:
            if row.name in problems:
                continue
            print(f"{row.name} …", file=sys.stderr, flush=True)
            try:
                runs[row.name].append(bench.run(row))
            except CommandError as error:
                problems[row.name] = " ".join(str(error)[-_MESSAGE_CHARACTERS:].split()).replace("|", "/")
                runs[row.name] = []
    return runs, problems


def _notes(part: str, bench: Bench, flops: float) -> list[str]:
    size, steps = bench.size, bench.steps
    counted = f"{steps.num_measured} steps after {steps.num_warmup} that are not measured"
    operations = f"{flops / 1e6:,.0f} million operations a token, the causal half of attention counted in full"
    if part == "pretrain":
        batch = f"{size.batch_sequences} sequences of {size.sequence_length:,} tokens"
        return [f"{batch} in a step, {size.micro_batch_sequences} at a time; {counted}; {operations}."]
    lengths = bench.dialogue_lengths
    spread = f"median {statistics.median(lengths):,.0f}, longest {lengths.max():,}"
    rows = f"a row each, {size.micro_batch_dialogues} at a time, or packs of {size.sequence_length:,} tokens"
    drawn = f"{len(lengths):,} dialogues of {lengths.mean():,.0f} tokens on average ({spread})"
    return [
        f"{drawn}, {size.batch_dialogues} in a step; {rows}; {counted}; {operations}.",
        "Padding is the share of what the model was given that is no token; useful tokens are the others, the user's "
        "too. Lemur's is what its packs have room for; they are filled up only where models are compiled.",
    ]
