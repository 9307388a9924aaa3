"""How fast training sequences are located and read: from files, and from object storage through the cache.

    python benchmarks/reading.py --folder FOLDER [--storage s3://BUCKET]

The time of one sample is taken in a mixture of a million partitions; tokens a second with two loading processes. For
`--storage`, the server and its keys stand in the environment, as always.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from lemur.dataset import (
    BLOCK_BYTES,
    INDEX_NAME,
    PIECE,
    DatasetIndex,
    MappedTokens,
    PartitionRow,
    PartitionTable,
    SourceIndex,
    TokenDataset,
    open_dataset,
    write_partitions,
    write_sequences,
)
from lemur.dataset.layout import BLOCKS_NAME, TOKENS_NAME
from lemur.receipt import Receipt, digest_of
from lemur.results import write_result
from lemur.training.pretraining import Sequences

_NUM_SOURCES = 20
_DOCUMENT_TOKENS = 300
_END_OF_TEXT = 0


class _Packed(NamedTuple):
    pieces: npt.NDArray[np.void]
    firsts: npt.NDArray[np.uint64]


def make_many_partitions(
    folder: Path, *, num_partitions: int = 10**6, num_files: int = 20_000, sequence_length: int = 4096
) -> TokenDataset:
    """Makes a mixture of so many partitions of eight sequences, behind which the same files stand again and again."""
    tokens = _random_tokens(8 * sequence_length).tobytes()
    for number in range(num_files):
        path = folder / f"documents/{number:016x}" / TOKENS_NAME
        path.parent.mkdir(parents=True)
        path.write_bytes(tokens)
    packed = _packed(8, sequence_length)
    rows, indices = list[PartitionRow](), list[SourceIndex]()
    for source in range(_NUM_SOURCES):
        counts = write_sequences(folder, f"source{source}", (packed for _ in range(num_partitions // _NUM_SOURCES)))
        for number, count in enumerate(counts, start=len(rows)):
            documents = f"documents/{number % num_files:016x}"
            rows.append(PartitionRow(f"source{source}", documents, f"{number:064x}", count, 8 * sequence_length, 9))
        indices.append(_source(f"source{source}", sum(counts), sequence_length))
    write_partitions(folder, rows)
    index = _index(indices, sequence_length)
    (folder / INDEX_NAME).write_text(index.model_dump_json(), encoding="utf-8")
    return TokenDataset(folder, MappedTokens(folder, PartitionTable(folder), index.dtype))


def sample_microseconds(dataset: TokenDataset, num_samples: int = 4000) -> dict[str, float]:
    """Returns how long it takes to locate a sequence, and to locate and read it, where the pages are in memory.

    Places follow one another, as in training; the sequences that stand there lie all over the partitions.
    """
    places, few = range(10**5, 10**5 + num_samples), range(10**5, 10**5 + 100)
    _microseconds(dataset.sample, places)  # Brings the pages into memory.
    anew = pickle.loads(pickle.dumps(dataset))
    anew.mixture.locate(places[0])
    figures = {
        "sample, its file opened anew": _microseconds(anew.sample, places),
        "locate alone": _microseconds(anew.mixture.locate, places),
    }
    _microseconds(anew.sample, few)
    figures["sample, its file open already"] = _microseconds(anew.sample, [*few] * (num_samples // 100))
    return figures


def _microseconds(function: Callable[[int], object], places: Sequence[int]) -> float:
    started = time.perf_counter()
    for place in places:
        function(place)
    return (time.perf_counter() - started) / len(places) * 1e6


def store_mixture(storage: str, *, num_tokens: int, sequence_length: int, folder: Path) -> Receipt:
    """Stores a mixture of one source in four partitions, of random tokens."""
    key = digest_of(["reading", num_tokens, sequence_length])
    num_sequences = num_tokens // 4 // sequence_length
    packed, rows = _packed(num_sequences, sequence_length), list[PartitionRow]()
    for number in range(4):
        documents_key = digest_of([key, number])
        prefix = f"documents/{documents_key[:16]}"
        writer = write_result(storage, prefix=prefix, kind="documents", stage="tokenize", key=documents_key, parents={})
        tokens = _random_tokens(num_sequences * sequence_length, seed=number).tobytes()
        blocks = [zlib.crc32(tokens[start : start + BLOCK_BYTES]) for start in range(0, len(tokens), BLOCK_BYTES)]
        buffer = io.BytesIO()
        np.save(buffer, np.array(blocks, np.uint32))
        writer.add_bytes(TOKENS_NAME, tokens)
        writer.add_bytes(BLOCKS_NAME, buffer.getvalue())
        counts = (num_sequences, num_sequences * sequence_length, len(packed.pieces))
        rows.append(PartitionRow("source0", prefix, writer.commit().digest, *counts))
    made = folder / key[:16]
    write_sequences(made, "source0", [packed] * 4)
    write_partitions(made, rows)
    index = _index([_source("source0", 4 * num_sequences, sequence_length)], sequence_length)
    (made / INDEX_NAME).write_text(index.model_dump_json(), encoding="utf-8")
    writer = write_result(storage, prefix=f"tokens/{key[:16]}", kind="tokens", stage="mix", key=key, parents={})
    writer.add_folder(made)
    return writer.commit()


def tokens_per_second(
    receipt: Receipt, work: Path, *, num_workers: int = 2, batch_sequences: int = 16, seconds: float = 10.0
) -> float:
    """Returns how fast the training stream is read, by processes that load and nothing that computes."""
    dataset = open_dataset(receipt, work)
    sequences = Sequences(dataset, first=0, num_sequences=len(dataset))
    loader = iter(DataLoader(sequences, batch_size=batch_sequences, num_workers=num_workers))
    next(loader)
    num_tokens, started = 0, time.perf_counter()
    for batch in loader:
        num_tokens += batch["input_ids"].numel()
        if time.perf_counter() - started > seconds:
            break
    return num_tokens / (time.perf_counter() - started)


def _random_tokens(count: int, seed: int = 0) -> npt.NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(1, 32_000, count, dtype=np.uint16)


def _packed(num_sequences: int, sequence_length: int) -> _Packed:
    """Returns sequences of documents of equal length, with nothing left over."""
    per_sequence = -(-sequence_length // _DOCUMENT_TOKENS)
    pieces = np.zeros((num_sequences, per_sequence), PIECE)
    offsets = np.arange(per_sequence) * _DOCUMENT_TOKENS
    pieces["start"] = np.arange(num_sequences)[:, None] * sequence_length + offsets
    pieces["length"] = np.minimum(_DOCUMENT_TOKENS, sequence_length - offsets)
    pieces["document"] = np.arange(pieces.size).reshape(pieces.shape)
    return _Packed(pieces.reshape(-1), np.arange(num_sequences + 1, dtype=np.uint64) * per_sequence)


def _source(name: str, num_sequences: int, sequence_length: int) -> SourceIndex:
    counts = {"num_sequences": num_sequences, "num_tokens": num_sequences * sequence_length, "num_documents": 1}
    return SourceIndex(name=name, group=None, weight=1 / _NUM_SOURCES, max_epochs=None, **counts)


def _index(sources: list[SourceIndex], sequence_length: int) -> DatasetIndex:
    return DatasetIndex(
        dtype="<u2",
        sequence_length=sequence_length,
        packing="best_fit",
        vocab_size=32_000,
        end_of_text_id=_END_OF_TEXT,
        seed=0,
        sources=sources,
    )


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="folder for some two gigabytes; must be empty")
    parser.add_argument("--storage", help="s3:// URI to measure reading from object storage too")
    parser.add_argument("--partitions", type=int, default=10**6)
    settings = parser.parse_args()
    figures: dict[str, Any] = {}
    many = make_many_partitions(settings.folder / "many", num_partitions=settings.partitions)
    figures["microseconds"] = sample_microseconds(many)
    del many
    for sequence_length in (256, 4096):
        for storage in filter(None, ((settings.folder / "files").resolve().as_uri(), settings.storage)):
            receipt = store_mixture(
                storage, num_tokens=100_000_000, sequence_length=sequence_length, folder=settings.folder
            )
            work = settings.folder / f"work-{sequence_length}-{storage[:2]}"
            for state in ("cold", "warm"):
                name = f"tokens/s, {storage.partition(':')[0]}, {sequence_length} tokens, {state}"
                figures[name] = round(tokens_per_second(receipt, work))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
