"""How many tokens a second a training process can get: from files and from object storage."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.bench import Bench
from benchmarks.data.processes import measure
from benchmarks.data.tables import Table, middle
from benchmarks.s3_server import find_server, s3_server

APPETITE_TOKENS_PER_SECOND = 16_000
"""What the quickstart's trainer takes, as it says itself (`tokens_per_second` of its receipt): `lemur run
recipes/quickstart.yaml` in bfloat16 on two cores of an AMD EPYC with AVX-512, without a device."""
_LENGTHS = (256, 4096)
_BATCH_TOKENS = 16_384
_NUM_WORKERS = 2
_SECONDS = 3.0


class _Place(NamedTuple):
    """Where a mixture is stored."""

    name: str
    storage: str
    environment: Mapping[str, str]


def reader(bench: Bench) -> list[Table]:
    """Reads mixtures through a data loader with two workers."""
    corpus = bench.corpus.first(max(1, len(bench.corpus.files) // 4))
    table = Table(
        f"Reader: data loader with {_NUM_WORKERS} workers, batches of {_BATCH_TOKENS:,} tokens",
        [
            *("from", "sequence length", "cache", "M tokens/s", "times the quickstart's appetite"),
            *("first batch s", "peak MB"),
        ],
    )
    with ExitStack() as stack:
        places = [_Place("files", str(bench.work / "reader"), {})]
        program = find_server()
        if program:
            server = stack.enter_context(s3_server(program))
            places.append(_Place("S3 on loopback", server.new_bucket(), server.environment))
        else:
            table.notes.append("S3 is not measured: SeaweedFS is missing, which the `dev` extra brings.")
        receipts = {
            (number, length): bench.ours(
                corpus, storage=place.storage, environment=place.environment, sequence_length=length
            ).receipt
            for number, place in enumerate(places)
            for length in _LENGTHS
        }
        runs: dict[tuple[str, int, str], list[dict[str, float]]] = {}
        for _ in range(bench.repeats):
            for (number, length), receipt in receipts.items():
                for cache, run in _cold_and_warm(bench, places[number], receipt):
                    runs.setdefault((places[number].name, length, cache), []).append(run)
    for (place, length, cache), found in runs.items():
        rates = [run["tokens"] / run["seconds"] for run in found]
        table.add(
            place,
            length,
            cache,
            middle([rate / 1e6 for rate in rates]),
            middle([rate / APPETITE_TOKENS_PER_SECOND for rate in rates], 0),
            middle([run["first_batch_seconds"] for run in found]),
            f"{max(run['peak_bytes'] for run in found) / 1e6:,.0f}",
        )
        table.measurements += [{"from": place, "length": length, "cache": cache, **run} for run in found]
    table.notes += [
        f"{corpus.num_bytes / 1e6:,.0f} MB of text, each for {_SECONDS:g} s or one pass. The quickstart's trainer "
        f"takes {APPETITE_TOKENS_PER_SECOND:,} tokens a second on two cores.",
        "Cold: files are dropped from the page cache; for S3, the cache of blocks is empty (the server's own files "
        "are warm). Warm: the same process reads the same again. The peak is the whole training "
        "process's, PyTorch and transformers included.",
    ]
    return [table]


def _cold_and_warm(
    bench: Bench, place: _Place, receipt: Mapping[str, object]
) -> Iterator[tuple[str, dict[str, float]]]:
    folder = bench.new_folder("loading")
    (folder / "receipt.json").write_text(json.dumps(receipt))
    arguments: list[str | Path] = [
        folder / "receipt.json",
        folder / "cache",
        str(_BATCH_TOKENS),
        str(_NUM_WORKERS),
        str(_SECONDS),
    ]
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.data.loading", *arguments]
    if not place.storage.startswith("s3://"):
        _drop_from_page_cache(Path(place.storage))
    usage = measure(command, work=folder, environment=place.environment)
    for cache, run in zip(("cold", "warm"), usage.output["passes"], strict=True):
        yield cache, {**run, "peak_bytes": usage.peak_bytes}
    bench.delete(folder)


def _drop_from_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
