"""Small token mixtures, stored as `tokenize` and `mix` store them."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lemur.dataset import (
    BLOCK_BYTES,
    INDEX_NAME,
    PIECE,
    DatasetIndex,
    PartitionRow,
    SourceIndex,
    token_dtype,
    write_partitions,
    write_sequences,
)
from lemur.dataset.layout import BLOCKS_NAME, ENDS_NAME, ORIGINS_NAME, TOKENS_NAME
from lemur.receipt import Receipt, digest_of
from lemur.results import write_result

END_OF_TEXT = 0
Documents = Sequence[Sequence[int]]


class Packed(NamedTuple):
    """Sequences of a partition."""

    pieces: npt.NDArray[np.void]
    firsts: npt.NDArray[np.uint64]


def numbered(lengths: Sequence[int], first: int = 1) -> list[list[int]]:
    """Returns documents of such lengths, their ends included, in which no token but the last comes twice."""
    starts = first + np.cumsum([0, *lengths])
    return [[*range(start, start + length - 1), END_OF_TEXT] for start, length in zip(starts, lengths, strict=False)]


def store_documents(storage: str, documents: Documents, *, name: str, vocab_size: int) -> Receipt:
    """Stores one partition's documents."""
    key = digest_of([name, vocab_size])
    writer = write_result(
        storage, prefix=f"documents/{key[:16]}", kind="documents", stage="tokenize", key=key, parents={}
    )
    data = np.array([token for document in documents for token in document], token_dtype(vocab_size)).tobytes()
    blocks = [zlib.crc32(data[start : start + BLOCK_BYTES]) for start in range(0, len(data), BLOCK_BYTES)]
    origins = {"origin": [f"{name}.jsonl:{row + 1}" for row in range(len(documents))]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(origins), buffer)
    writer.add_bytes(TOKENS_NAME, data)
    writer.add_bytes(BLOCKS_NAME, _npy(np.array(blocks, np.uint32)))
    writer.add_bytes(ENDS_NAME, _npy(np.cumsum([len(document) for document in documents], dtype=np.uint64)))
    writer.add_bytes(ORIGINS_NAME, buffer.getvalue())
    return writer.commit()


def pack_in_order(documents: Documents, sequence_length: int, *, pad: bool) -> Packed:
    """Puts documents one after another into sequences; with `pad`, one that does not fit begins a new sequence."""
    pieces: list[tuple[int, int, int]] = []
    firsts, room, start = list[int](), 0, 0
    for row, document in enumerate(documents):
        rest = len(document)
        if pad and rest > room:
            room = 0
        while rest:
            if not room:
                firsts.append(len(pieces))
                room = sequence_length
            length = min(rest, room)
            pieces.append((start, length, row))
            start, rest, room = start + length, rest - length, room - length
    return Packed(np.array(pieces, PIECE), np.array([*firsts, len(pieces)], np.uint64))


def store_mixture(
    storage: str,
    sources: Mapping[str, Sequence[Documents]],
    *,
    sequence_length: int,
    vocab_size: int = 4096,
    pad: bool = True,
    weights: dict[str, float] | None = None,
    max_epochs: float | None = None,
) -> Receipt:
    """Stores a mixture of sources, each a list of partitions."""
    rows, indices, dtype = list[PartitionRow](), list[SourceIndex](), token_dtype(vocab_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for source, partitions in sources.items():
            packed = [pack_in_order(documents, sequence_length, pad=pad) for documents in partitions]
            counts = write_sequences(folder, source, packed)
            for number, (documents, num_sequences) in enumerate(zip(partitions, counts, strict=True)):
                stored = store_documents(storage, documents, name=f"{source}-{number}", vocab_size=vocab_size)
                num_tokens = sum(map(len, documents))
                prefix = stored.uri.removeprefix(f"{storage}/")
                rows.append(PartitionRow(source, prefix, stored.digest, num_sequences, num_tokens, len(documents)))
            indices.append(
                SourceIndex(
                    name=source,
                    group=None,
                    weight=(weights or {}).get(source, 1.0),
                    max_epochs=max_epochs,
                    num_sequences=sum(counts),
                    num_tokens=sum(len(document) for documents in partitions for document in documents),
                    num_documents=sum(map(len, partitions)),
                )
            )
        index = DatasetIndex(
            dtype=dtype,
            sequence_length=sequence_length,
            packing="best_fit" if pad else "concatenate",
            vocab_size=vocab_size,
            end_of_text_id=END_OF_TEXT,
            seed=3,
            sources=indices,
        )
        (folder / INDEX_NAME).write_text(index.model_dump_json())
        write_partitions(folder, rows)
        key = hashlib.sha256(repr((sorted(sources), sequence_length)).encode()).hexdigest()
        writer = write_result(storage, prefix=f"tokens/{key[:16]}", kind="tokens", stage="mix", key=key, parents={})
        writer.add_folder(folder)
        return writer.commit()


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
