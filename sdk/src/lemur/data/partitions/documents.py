"""One partition of a source as a stored result: its documents' tokens, and what later decisions need of each.

Nothing here grows with the partition but files: text is read, tokenized and written a megabyte at a time.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lemur.data.cleaning.contamination import ContaminationIndex
from lemur.data.mixing.heldout import uniform
from lemur.data.partitions.columns import Column
from lemur.data.reading.documents import Document, Tally, read_documents
from lemur.data.source import Partition, Source
from lemur.data.tokenizer.encoder import Encoder
from lemur.dataset.layout import (
    BLOCK_BYTES,
    BLOCKS_NAME,
    CANDIDATES_NAME,
    CONTAMINATED_NAME,
    DIGESTS_NAME,
    ENDS_NAME,
    MINHASH_NAME,
    ORIGINS_NAME,
    TOKENS_NAME,
)
from lemur.recipe import DataSection

_BATCH_BYTES = 2**20
"""Text that is tokenized at a time: enough to make calls cheap, little enough to hold."""
_WRITE_BYTES = 2**20
_ORIGINS = pa.schema({"origin": pa.string(), "num_bytes": pa.uint32()})


class Tokenized(NamedTuple):
    """What became of a partition."""

    metrics: dict[str, float]
    """Figures of its receipt."""
    metadata: dict[str, Any]
    """Counts by what happened to records, for the receipt of the mixture."""


class DocumentsMaker:
    """Makes documents results, one partition after another.

    Args:
        data: The recipe's section.
        encoder: The tokenizer.
        contamination: What documents must not share with benchmarks; `None` looks for nothing.
    """

    def __init__(self, data: DataSection, encoder: Encoder, contamination: ContaminationIndex | None) -> None:
        self._data, self._encoder, self._contamination = data, encoder, contamination

    def make(self, source: Source, partition: Partition, folder: Path, on_bytes: Callable[[int], None]) -> Tokenized:
        """Writes the files of a documents result.

        Args:
            source: The source.
            partition: The part of it.
            folder: Where the files go.
            on_bytes: Called with the size of each piece of text that is done.

        Raises:
            RecipeError: The partition cannot be read, or surely too many of its records.
        """
        started = time.monotonic()
        tally = Tally()
        documents = read_documents(source, tally, partition, max_share=self._data.cleaning.max_unreadable)
        with ExitStack() as stack:
            files = _Files(folder, self._encoder, self._data, stack)
            for batch in _batches(documents):
                files.append(self._clean(batch, files), self._encoder)
                on_bytes(sum(document.num_bytes for document in batch))
        metrics: dict[str, float] = {
            "documents": files.ends.num_rows,
            "tokens": files.num_tokens,
            "bytes": files.num_bytes,
            "tokens_per_second": round(files.num_tokens / max(time.monotonic() - started, 1e-9)),
        }
        metadata = {"source": source.name, "contaminated": files.num_contaminated, "tally": tally.to_json()}
        return Tokenized(metrics, metadata)

    def _clean(self, batch: list[Document], files: _Files) -> list[Document]:
        if self._contamination is None:
            return batch
        kept = []
        matches = self._contamination.find_many([document.text for document in batch])
        for document, match in zip(batch, matches, strict=True):
            if match is None:
                kept.append(document)
            else:
                files.leave_out({"origin": document.origin, "benchmark": match.benchmark, "words": match.words})
        return kept


class _Files:
    """The files of one documents result, open for appending."""

    def __init__(self, folder: Path, encoder: Encoder, data: DataSection, stack: ExitStack) -> None:
        self.num_tokens = self.num_bytes = self.num_contaminated = 0
        self._heldout_fraction, self._near = data.heldout_fraction, data.cleaning.near_duplicates
        self._tokens = stack.enter_context(_TokenFile(folder, stack))
        self.ends = stack.enter_context(Column(folder / ENDS_NAME, np.uint64))
        self._digests = stack.enter_context(Column(folder / DIGESTS_NAME, np.uint8, 16))
        self._origins = stack.enter_context(pq.ParquetWriter(folder / ORIGINS_NAME, _ORIGINS, compression="zstd"))
        self._waiting: list[Document] = []
        stack.callback(self._write_origins)
        self._candidates = stack.enter_context((folder / CANDIDATES_NAME).open("w", encoding="utf-8"))
        self._contaminated = stack.enter_context((folder / CONTAMINATED_NAME).open("w", encoding="utf-8"))
        self._signatures: Column | None = None
        if self._near:
            width = self._near.num_permutations
            self._signatures = stack.enter_context(Column(folder / MINHASH_NAME, np.uint32, width))

    def append(self, documents: list[Document], encoder: Encoder) -> None:
        if not documents:
            return
        texts = [document.text for document in documents]
        encoded = encoder.encode(texts)
        self._tokens.write(encoded.tokens.data.cast("B"))
        first_row = self.ends.num_rows
        self.ends.append(encoded.ends.astype(np.uint64) + np.uint64(self.num_tokens))
        digests = b"".join([document.digest[:16] for document in documents])
        self._digests.append(np.frombuffer(digests, np.uint8).reshape(-1, 16))
        if self._signatures and self._near:
            from lemur.data.cleaning.minhash import signatures

            self._signatures.append(signatures(texts, self._near))
        for row, document in enumerate(documents, start=first_row):
            if uniform(document.digest) < self._heldout_fraction:
                self._candidates.write(json.dumps({"row": row, "text": document.text}) + "\n")
        self._waiting += [document._replace(text="") for document in documents]
        if len(self._waiting) >= 2**16:
            self._write_origins()
        self.num_tokens += len(encoded.tokens)
        self.num_bytes += sum(document.num_bytes for document in documents)

    def leave_out(self, entry: dict[str, str]) -> None:
        self._contaminated.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.num_contaminated += 1

    def _write_origins(self) -> None:
        columns = [
            pa.array([document.origin for document in self._waiting], pa.string()),
            pa.array([document.num_bytes for document in self._waiting], pa.uint32()),
        ]
        self._origins.write_batch(pa.record_batch(columns, schema=_ORIGINS))
        self._waiting = []


class _TokenFile:
    """`tokens.bin`, and a checksum of each of its blocks for readers of ranges."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._file: IO[bytes] = stack.enter_context((folder / TOKENS_NAME).open("wb", buffering=_WRITE_BYTES))
        self._checksums = stack.enter_context(Column(folder / BLOCKS_NAME, np.uint32))
        self._checksum = self._filled = 0

    def write(self, data: memoryview) -> None:
        self._file.write(data)
        while data:
            part, data = data[: BLOCK_BYTES - self._filled], data[BLOCK_BYTES - self._filled :]
            self._checksum = zlib.crc32(part, self._checksum)
            self._filled += len(part)
            if self._filled == BLOCK_BYTES:
                self._end_block()

    def __enter__(self) -> _TokenFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._filled:
            self._end_block()

    def _end_block(self) -> None:
        self._checksums.append(np.array([self._checksum], np.uint32))
        self._checksum = self._filled = 0


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yields the documents in groups of about `_BATCH_BYTES`."""
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += document.num_bytes
        if num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
