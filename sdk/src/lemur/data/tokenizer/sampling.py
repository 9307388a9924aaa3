"""A sample of the sources: what a tokenizer learns from, and what the encoders are compared on.

Of a small source all files are read. Of a large one some are, in an order that their names' digests decide, and of each
only the beginning, so that a sample of megabytes costs about as much on a hundred gigabytes as on one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lemur.data.mixing.heldout import uniform
from lemur.data.reading.documents import Document, Tally, read_documents
from lemur.data.source import Partition, Source

_NUM_PARTS = 16
"""Large files, or groups of small ones, over which the sample of a large source is spread."""
_SMALLEST_RATE, _LARGEST_RATE = 1 / 8, 1 / 2
"""Share of the documents met that is taken of a large source, at first: the larger its files, the smaller, so that the
beginning of a file does not stand for all of it."""
_DIGEST_OFFSET = 8
"""Bytes of a document's digest that decide on the sample, other than the ones that decide on the held-out set."""


def sample_documents(
    sources: Iterable[Source],
    partitions: Mapping[str, Sequence[Partition]],
    shares: Mapping[str, float],
    *,
    sample_bytes: int,
    first_uniform: float = 0.0,
) -> Iterator[Document]:
    """Yields documents of each source, as many bytes of text as its share of the sample; the same ones each time.

    A source with less text gives what it has. Records that cannot be read are passed over here: the ones of the whole
    source are judged when it is tokenized.

    Args:
        sources: The sources.
        partitions: All partitions of each source, by its name.
        shares: Part of the sample by source name.
        sample_bytes: Bytes of all texts.
        first_uniform: Documents whose digest is below it as a number may be held out, and are passed over.
    """
    for source in sources:
        yield from _of_source(source, partitions[source.name], shares[source.name] * sample_bytes, first_uniform)


def _of_source(
    source: Source, partitions: Sequence[Partition], wanted_bytes: float, first_uniform: float
) -> Iterator[Document]:
    held_bytes = sum(partition.estimated_bytes or 0 for partition in partitions)
    parts = _parts(partitions, wanted_bytes / _NUM_PARTS)
    # A tenth more than needed, since the size is an estimate and the choice has some chance in it.
    low, high = 0.0, 1.1 * wanted_bytes / max(held_bytes, 1.1 * wanted_bytes)
    quota_bytes = math.inf
    if high < _LARGEST_RATE:
        quota_bytes = wanted_bytes / min(_NUM_PARTS, len(parts))
        high = max(high, _SMALLEST_RATE, min(_LARGEST_RATE, quota_bytes * len(parts) / held_bytes))
    # Each round takes documents that the one before left out, of ever more of each part, until the source is used up.
    while wanted_bytes > 0 and low < 1:
        for part in parts:
            left_bytes = min(quota_bytes, wanted_bytes)
            for document in _documents(source, part, first_uniform):
                if low <= uniform(document.digest, _DIGEST_OFFSET) < high:
                    left_bytes -= document.num_bytes
                    wanted_bytes -= document.num_bytes
                    yield document
                if left_bytes <= 0:
                    break
            if wanted_bytes <= 0:
                return
        low, high = high, min(1.0, 4 * high)
        quota_bytes = 4 * quota_bytes if high < 1 else math.inf


def _parts(partitions: Sequence[Partition], part_bytes: float) -> list[Partition]:
    """Returns the files in parts of at least so much, in an order that follows from the names but not the alphabet."""
    parts = [partition for partition in partitions if not partition.files]
    files = [file for partition in partitions for file in partition.files]
    files.sort(key=lambda file: hashlib.sha256(file.name.encode()).digest())
    start = num_bytes = 0
    for end, file in enumerate(files, start=1):
        num_bytes += file.size_bytes
        if num_bytes >= part_bytes or end == len(files):
            parts.append(Partition(tuple(files[start:end]), "", num_bytes))
            start, num_bytes = end, 0
    return parts


def _documents(source: Source, file: Partition, first_uniform: float) -> Iterator[Document]:
    """Yields the documents of a file that may be trained on."""
    for document in read_documents(source, Tally(), file, max_share=1.0):
        if uniform(document.digest) >= first_uniform:
            yield document
