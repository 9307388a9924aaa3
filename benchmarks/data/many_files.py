"""What many small partitions cost."""

from __future__ import annotations

from benchmarks.data.bench import Bench
from benchmarks.data.corpus import make_corpus
from benchmarks.data.ours import STEPS
from benchmarks.data.tables import Table, middle

_FILE_BYTES = 20_000


def many_files(bench: Bench) -> list[Table]:
    """Runs the steps over many small files, each a partition of its own."""
    count = bench.num_small_files
    corpus = make_corpus(bench.work / f"small-{count}", count * _FILE_BYTES, count)
    runs = [bench.ours(corpus, partition_bytes=1) for _ in range(bench.repeats)]
    table = Table(
        f"{count:,} partitions of about {corpus.num_bytes / count / 1000:,.0f} KB",
        ["step", "seconds", "milliseconds a partition", "peak MB"],
    )
    for step in STEPS:
        seconds = [run.steps[step].seconds for run in runs]
        peak = max(run.steps[step].peak_bytes for run in runs) / 1e6
        table.add(step, middle(seconds), middle([1000 * each / count for each in seconds]), f"{peak:,.0f}")
        table.measurements.append({"step": step, "seconds": seconds})
    table.notes.append("Goal: partition and mix take seconds. Tokenize writes and flushes some ten files a partition.")
    return [table]
