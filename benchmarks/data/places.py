"""What finding a training sequence costs: in a mixture of many sources, and among a million partitions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.data.bench import Bench
from benchmarks.data.tables import Table

_RECIPE = Path(__file__).parents[2] / "recipes" / "lemur-70b.yaml"
_SEQUENCE_LENGTH = 4096
_USUAL_TOKENS = 10**10
_NUM_PLACES = 20_000
_WINDOW = 1_000_000
_SEQUENCES_EACH = 4
_NUM_FILES = 64


def places(bench: Bench) -> list[Table]:
    """Times single calls of the mixture and of the dataset."""
    generator = np.random.default_rng(bench.seed)
    return [_mixture(generator), _dataset(bench, generator)]


def _mixture(generator: np.random.Generator) -> Table:
    from lemur.mixture import Mixture, mixture_shares
    from lemur.recipe_file import load_recipe

    data = load_recipe(_RECIPE).data
    shares = mixture_shares(data)
    sources = [
        (source.name, shares[source.name], int(source.available_tokens or _USUAL_TOKENS) // _SEQUENCE_LENGTH)
        for source in data.sources
    ]
    table = _timings(f"Mixture of {len(sources)} sources, the shares of Lemur-70B: a place of the stream")
    mixture = Mixture(sources, 0)
    started = time.perf_counter()
    mixture.locate(0)
    _row(table, "first place of all", [time.perf_counter() - started])
    _row(table, "one after another", _each(mixture.locate, range(_NUM_PLACES)))
    chosen = generator.integers(0, _WINDOW, _NUM_PLACES)
    _row(table, f"chosen by chance among {_WINDOW:,}", _each(mixture.locate, chosen.tolist()))
    started = time.perf_counter()
    mixture.locate_many(np.arange(_WINDOW))
    _row(table, f"locate_many, {_WINDOW:,} at once", [(time.perf_counter() - started) / _WINDOW])
    return table


def _dataset(bench: Bench, generator: np.random.Generator) -> Table:
    from lemur.dataset import MappedTokens, PartitionTable, TokenDataset

    folder = bench.work / f"partitions-{bench.num_partitions}"
    if not folder.exists():
        _write_dataset(folder, bench.num_partitions)
    table = _timings(f"Dataset of {bench.num_partitions:,} partitions in files")
    started = time.perf_counter()
    partitions = PartitionTable(folder)
    _row(table, "open the table of partitions", [time.perf_counter() - started])
    dataset = TokenDataset(folder, MappedTokens(folder, partitions, "<u2"))
    dataset.sample(0)
    chosen = generator.integers(0, len(dataset), _NUM_PLACES).tolist()
    _row(table, "find a sequence's pieces, one place after another", _each(dataset.pieces_of, range(_NUM_PLACES)))
    _row(table, f"find them, places by chance among {len(dataset):,}", _each(dataset.pieces_of, chosen))
    _row(table, "read a sequence, partitions by chance", _each(dataset.sample, chosen))
    _row(table, "read the same again", _each(dataset.sample, chosen))
    few = chosen[: _NUM_PLACES // 20] * 20
    _row(table, "read from partitions that are open", _each(dataset.sample, few)[len(few) // 20 :])
    table.notes += [
        "Goal: less than 50 µs to find a sequence.",
        f"The partitions share {_NUM_FILES} files, so that none waits for the disk; each is opened and mapped as if it "
        "were its own, of which a reader keeps some open. To read is to copy 4,096 tokens and number their places.",
    ]
    return table


def _write_dataset(folder: Path, num_partitions: int) -> None:
    """Writes the index of a dataset of so many partitions, over few files."""
    from lemur.dataset import PIECE, DatasetIndex, PartitionRow, SourceIndex, write_partitions
    from lemur.dataset.layout import FIRST, INDEX_NAME, TOKENS_NAME, firsts_name, pieces_name

    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    num_tokens = _SEQUENCES_EACH * _SEQUENCE_LENGTH
    names = [f"documents/{number:016x}" for number in range(_NUM_FILES)]
    for name in names:
        (partial / name).mkdir(parents=True, exist_ok=True)
        (partial / name / TOKENS_NAME).write_bytes(np.arange(num_tokens, dtype="<u2").tobytes())
    num_sequences = num_partitions * _SEQUENCES_EACH
    pieces = np.zeros(num_sequences, PIECE)
    pieces["start"] = np.arange(num_sequences) % _SEQUENCES_EACH * _SEQUENCE_LENGTH
    pieces["length"] = _SEQUENCE_LENGTH
    (partial / pieces_name("all")).parent.mkdir(parents=True, exist_ok=True)
    pieces.tofile(partial / pieces_name("all"))
    np.arange(num_sequences + 1, dtype=FIRST).tofile(partial / firsts_name("all"))
    write_partitions(
        partial,
        (
            PartitionRow("all", names[number % _NUM_FILES], f"{number:064x}", _SEQUENCES_EACH, num_tokens, 1)
            for number in range(num_partitions)
        ),
    )
    source = SourceIndex(
        name="all",
        group=None,
        weight=1.0,
        max_epochs=None,
        num_sequences=num_sequences,
        num_tokens=num_partitions * num_tokens,
        num_documents=num_partitions,
    )
    index = DatasetIndex(
        dtype="<u2",
        sequence_length=_SEQUENCE_LENGTH,
        packing="best_fit",
        vocab_size=2**16,
        end_of_text_id=0,
        seed=0,
        sources=[source],
    )
    (partial / INDEX_NAME).write_text(index.model_dump_json())
    partial.rename(folder)


def _timings(title: str) -> Table:
    return Table(title, ["what", "calls", "mean µs", "median µs", "99th percentile µs"])


def _each(call: Callable[[int], object], arguments: Sequence[int]) -> list[float]:
    """Returns the seconds of each call."""
    seconds, clock = [], time.perf_counter
    for argument in arguments:
        started = clock()
        call(argument)
        seconds.append(clock() - started)
    return seconds


def _row(table: Table, name: str, seconds: list[float]) -> None:
    mean, median = statistics.fmean(seconds) * 1e6, statistics.median(seconds) * 1e6
    last = sorted(seconds)[int(0.99 * len(seconds))] * 1e6
    table.add(name, f"{len(seconds):,}", *(f"{value:,.2f}" for value in (mean, median, last)))
    table.measurements.append({"what": name, "calls": len(seconds), "mean_us": mean, "median_us": median, "p99": last})
