"""From text files to packed tokens: Lemur beside other tools, other formats, more text, and cleaning."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.data.bench import Bench, OurUsage
from benchmarks.data.corpus import Corpus, make_parquet, make_zst
from benchmarks.data.other_tools import Peer, Run, find_peers, measure_peer
from benchmarks.data.ours import STEPS
from benchmarks.data.processes import CommandError, Usage, measure
from benchmarks.data.tables import Table, middle

_MEGABYTE = 1e6
_SHARE = 1.15
"""So many times its start a run must take for what is left to mean something."""


def end_to_end(bench: Bench) -> list[Table]:
    """Compares whole runs on JSONL, and says where Lemur's time goes."""
    peers, missing = find_peers(bench)
    runs: dict[tuple[str, str], list[Run]] = {}
    ours: list[OurUsage] = []
    sizes: dict[str, Corpus] = {"all": bench.corpus, "part": bench.slice, "start": bench.crumb}
    for repeat in range(bench.repeats):
        for size, corpus in sizes.items():
            usage = bench.ours(corpus)
            ours += [usage] if size == "all" else []
            runs.setdefault(("lemur", size), []).append(
                Run(usage.seconds, usage.tokens, usage.peak_bytes, usage.cpu_seconds)
            )
        for name, peer in list(peers.items()):
            # A start takes much the same time each time.
            for size in ("part", "start") if repeat == 0 else ("part",):
                try:
                    found = measure_peer(bench, name, peer, sizes[size])
                except CommandError as error:
                    missing[name] = f"failed: {error}"
                    del peers[name]
                    break
                runs.setdefault((name, size), []).append(found)
    table = _comparison(bench, runs, peers, missing)
    return [table, _steps(bench, ours, runs["lemur", "start"])]


def formats(bench: Bench) -> list[Table]:
    """Reads the same corpus from several formats, and beside it the bare cost of reading them."""
    corpora = {
        "JSONL": bench.corpus,
        "JSONL, Zstandard": make_zst(bench.corpus, bench.work / f"zst-{bench.corpus.num_bytes}"),
        "Parquet, Zstandard": make_parquet(bench.corpus, bench.work / f"parquet-{bench.corpus.num_bytes}"),
    }
    ours: dict[str, list[OurUsage]] = {name: [] for name in corpora}
    bare: dict[str, list[Usage]] = {name: [] for name in corpora}
    for _ in range(bench.repeats):
        for name, corpus in corpora.items():
            ours[name].append(bench.ours(corpus, partition_bytes=bench.partition_bytes(bench.corpus)))
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "benchmarks.data.bare",
                str(bench.processes),
                *corpus.files,
            ]
            bare[name].append(measure(command, work=bench.new_folder("bare")))
    table = Table(
        f"Formats: {bench.corpus.num_bytes / _MEGABYTE:,.0f} MB of text, {bench.processes} processes",
        ["read from", "stored MB", "M tokens/s, whole run", "tokenize step s", "bare reading s", "peak MB"],
    )
    for name, corpus in corpora.items():
        stored = sum(path.stat().st_size for path in corpus.files)
        table.add(
            name,
            f"{stored / _MEGABYTE:,.0f}",
            middle([usage.tokens / usage.seconds / 1e6 for usage in ours[name]]),
            middle([usage.steps["tokenize"].seconds for usage in ours[name]]),
            middle([usage.seconds for usage in bare[name]]),
            f"{max(usage.peak_bytes for usage in ours[name]) / _MEGABYTE:,.0f}",
        )
        table.measurements += [{"from": name, **_json(usage)} for usage in ours[name]]
        table.measurements += [{"bare": name, "seconds": usage.seconds} for usage in bare[name]]
    table.notes.append(
        "Bare reading is a process pool that parses each line (orjson), decompresses (not parsing), or decodes the "
        "column `text`, and does nothing with it; Python's start is in it."
    )
    return [table]


def memory(bench: Bench) -> list[Table]:
    """Looks at the peak memory of Lemur at a quarter of the corpus and at all of it."""
    corpora = [bench.corpus.first(len(bench.corpus.files) // 4), bench.corpus]
    runs = {f"{c.num_bytes / _MEGABYTE:,.0f} MB": [bench.ours(c)] for c in corpora}
    table = Table("Memory against input size", ["text", "M tokens", *(f"{step} peak MB" for step in STEPS)])
    for name, usages in runs.items():
        peaks = [max(usage.steps[step].peak_bytes for usage in usages) / _MEGABYTE for step in STEPS]
        table.add(name, f"{usages[0].tokens / 1e6:,.1f}", *(f"{peak:,.0f}" for peak in peaks))
        table.measurements += [{"text": name, **_json(usage)} for usage in usages]
    table.notes.append("Goal: the peaks do not grow with the text, and stay below 500 MB with two processes.")
    return [table]


def cleaning(bench: Bench) -> list[Table]:
    """Measures what looking for benchmarks and for near-duplicates costs."""
    corpus = bench.corpus.first(max(1, len(bench.corpus.files) // 4))
    variants: dict[str, dict[str, Any]] = {"nothing more": {}, "near-duplicates": {"near_duplicates": {}}}
    notes = []
    if bench.benchmark_data:
        folders = sorted(path for path in bench.benchmark_data.iterdir() if path.is_dir())
        benchmarks = {"benchmarks": {path.name: str(path) for path in folders}}
        variants["benchmarks"] = {"decontamination": benchmarks}
        variants["both"] = {"near_duplicates": {}, "decontamination": benchmarks}
        notes.append(f"Benchmarks: {', '.join(path.name for path in folders)}.")
    else:
        notes.append("No benchmarks were looked for: name a folder with their problems in LEMUR_BENCHMARK_DATA.")
    runs = _repeated(bench, {name: (corpus, {"cleaning": fields}) for name, fields in variants.items()})
    table = Table(
        f"Cleaning: {corpus.num_bytes / _MEGABYTE:,.0f} MB of text, {bench.processes} processes",
        ["looked for", "M tokens/s, whole run", *(f"{step} s" for step in STEPS), "left out", "peak MB"],
        notes=notes,
    )
    for name, usages in runs.items():
        counts = usages[0].receipt["metadata"]["sources"]["corpus"]
        table.add(
            name,
            middle([usage.tokens / usage.seconds / 1e6 for usage in usages]),
            *(middle([usage.steps[step].seconds for usage in usages]) for step in STEPS),
            f"{counts['contaminated']:,} contaminated, {counts['near_duplicates']:,} near-duplicates",
            f"{max(usage.peak_bytes for usage in usages) / _MEGABYTE:,.0f}",
        )
        table.measurements += [{"looked for": name, **_json(usage)} for usage in usages]
    return [table]


def _repeated(bench: Bench, variants: Mapping[str, tuple[Corpus, Mapping[str, Any]]]) -> dict[str, list[OurUsage]]:
    """Measures variants of Lemur's run in turn."""
    runs: dict[str, list[OurUsage]] = {name: [] for name in variants}
    for _ in range(bench.repeats):
        for name, (corpus, data) in variants.items():
            runs[name].append(bench.ours(corpus, **data))
    return runs


def _comparison(
    bench: Bench,
    runs: Mapping[tuple[str, str], list[Run]],
    peers: Mapping[str, Peer],
    missing: Mapping[str, str],
) -> Table:
    table = Table(
        f"End to end: JSONL in, tokens out, {bench.processes} processes",
        [
            *("tool", "text MB", "M tokens", "seconds", "CPU s", "M tokens/s", "to datatrove"),
            *("M tokens/s but for the start", "to datatrove", "peak MB"),
        ],
    )
    texts = {"all": bench.corpus.num_bytes, "part": bench.slice.num_bytes}
    reference = _rates(runs, "datatrove", "part") if "datatrove" in peers else None
    for name, size in [("lemur", "all"), ("lemur", "part"), *((name, "part") for name in peers)]:
        measured, rates = runs[name, size], _rates(runs, name, size)
        table.add(
            f"{name} {peers[name].version}" if name in peers else name,
            f"{texts[size] / _MEGABYTE:,.0f}",
            f"{measured[0].tokens / 1e6:,.2f}",
            middle([run.seconds for run in measured]),
            middle([run.cpu_seconds for run in measured], 1),
            f"{rates[0] / 1e6:,.2f}",
            f"{rates[0] / reference[0]:,.1f}" if reference else "-",
            f"{rates[1] / 1e6:,.2f}" if rates[1] else "-",
            f"{rates[1] / reference[1]:,.1f}" if rates[1] and reference and reference[1] else "-",
            f"{max(run.peak_bytes for run in measured) / _MEGABYTE:,.0f}",
        )
    for name, reason in missing.items():
        table.add(name, *["-"] * 8, _brief(reason))
    table.measurements = [{"tool": name, "size": size, **run._asdict()} for (name, size), each in runs.items()
                          for run in each]  # fmt: skip
    table.notes += [
        "Whole processes by the wall clock, from the command to its end. Lemur's time is three processes one after "
        "another, and holds what the others do not do: documents are compared by their digests, packed by best fit, "
        "checksummed, and every file is flushed to the disk.",
        f"M tokens/s but for the start: what is left of the time when that of {bench.crumb.num_bytes / 1000:,.0f} KB "
        "of text is taken off; - where hardly anything is left.",
    ]
    return table


def _rates(runs: Mapping[tuple[str, str], list[Run]], name: str, size: str) -> tuple[float, float | None]:
    """Returns tokens per second with the start, and without it where the start is not nearly all of the time."""
    seconds = statistics.median(run.seconds for run in runs[name, size])
    start = statistics.median(run.seconds for run in runs[name, "start"])
    tokens = runs[name, size][0].tokens
    rest = (tokens - runs[name, "start"][0].tokens) / (seconds - start) if seconds > _SHARE * start else None
    return tokens / seconds, rest


def _steps(bench: Bench, ours: list[OurUsage], starts: list[Run]) -> Table:
    table = Table(
        f"Where Lemur's time goes: {bench.corpus.num_bytes / _MEGABYTE:,.0f} MB of text",
        ["step", "seconds", "CPU s", "M tokens/s", "peak MB"],
    )
    for step in STEPS:
        usages = [usage.steps[step] for usage in ours]
        rate = middle([usage.tokens / usage.steps[step].seconds / 1e6 for usage in ours])
        peak = max(usage.peak_bytes for usage in usages) / _MEGABYTE
        processor = middle([usage.cpu_seconds for usage in usages], 1)
        table.add(step, middle([usage.seconds for usage in usages]), processor, rate, f"{peak:,.0f}")
    processor = middle([run.cpu_seconds for run in starts], 1)
    table.add("all three, on hardly any text", middle([run.seconds for run in starts]), processor, "-", "-")
    return table


def _brief(reason: str) -> str:
    """Returns why a tool is not measured, short enough for a cell: of an error, its last line."""
    return reason.strip().splitlines()[-1][:120].replace("|", "/")


def _json(usage: OurUsage) -> dict[str, Any]:
    steps = {
        step: {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds, "peak_bytes": one.peak_bytes}
        for step, one in usage.steps.items()
    }
    return {"seconds": usage.seconds, "tokens": usage.tokens, "peak_bytes": usage.peak_bytes, "steps": steps}


PARTS: dict[str, Callable[[Bench], list[Table]]] = {
    "end-to-end": end_to_end,
    "formats": formats,
    "memory": memory,
    "cleaning": cleaning,
}
"""The parts of this module by their names."""
