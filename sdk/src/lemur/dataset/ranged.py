"""Tokens in object storage, read block by block through a cache on the local disk."""

from __future__ import annotations

import functools
import io
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.dataset.block_cache import Block, BlockCache
from lemur.dataset.layout import BLOCK_BYTES, BLOCKS_NAME, TOKENS_NAME, Dtype
from lemur.dataset.partitions import PartitionTable
from lemur.dataset.tokens import Span, TokenFiles, Tokens
from lemur.errors import IntegrityError
from lemur.receipt import canonical_json
from lemur.results import DAMAGED_NAME, manifest_of
from lemur.storage import open_storage
from lemur.storage.integrity import check_content, describe

_NUM_THREADS = 8
_MAX_PENDING = 64
"""Blocks that are fetched ahead of what is being read, and in advance: 8 MiB."""
_MAX_CHECKSUMS = 1024
"""Partitions whose checksums are held: for partitions of usual size, a few kilobytes each."""
_MAX_VERIFIED = 2**18
"""Blocks in the cache that are known to be right: 32 GiB of them, in some 30 MB."""

_Key = tuple[int, int]
"""Number of a partition, and of a block of its tokens."""


class _Part(NamedTuple):
    """What a span needs of one block."""

    key: _Key
    start: int
    length: int


class RangedTokens(TokenFiles):
    """Tokens in objects, of which whole blocks are fetched, verified, and kept in a bounded cache on disk.

    A block is verified against the partition's checksums, and these against the manifest whose digest the mixture
    knows. Memory stays small: at most `_MAX_PENDING` blocks are held at a time.

    Args:
        root: Root URI of the storage that holds the documents results.
        partitions: The partitions.
        dtype: NumPy's name of the stored integers.
        cache: Where blocks are kept; processes may share its folder.
    """

    def __init__(self, root: str, partitions: PartitionTable, dtype: Dtype, cache: BlockCache) -> None:
        self.partitions = partitions
        self._root, self._dtype, self._cache = root, dtype, cache
        self._item_bytes = np.dtype(dtype).itemsize
        self._storage = open_storage(root)
        self._fetching = _Fetching(self._read_checksums)

    def __reduce__(self) -> tuple[type[RangedTokens], tuple[str, PartitionTable, Dtype, BlockCache]]:
        return type(self), (self._root, self.partitions, self._dtype, self._cache)

    def read(self, partition: int, start: int, length: int) -> Tokens:
        """Returns tokens of a partition.

        Raises:
            IntegrityError: A block is missing, or not what was stored even when it is read again; the message names
                the object and the bytes, and the documents result is marked, so that the next run makes it anew.
            StorageError: The storage cannot be reached or refuses, or the disk of the cache is full.
        """
        return self.read_many([Span(partition, start, length)])[0]

    def read_many(self, spans: Sequence[Span]) -> list[Tokens]:
        """Returns the tokens of several spans; blocks that are not in the cache are fetched side by side."""
        parts = [self._parts(span) for span in spans]
        found = {part: data for span_parts in parts for part in span_parts if (data := self._cached(part)) is not None}
        absent: dict[_Key, list[_Part]] = {}
        for part in (part for span_parts in parts for part in span_parts if part not in found):
            absent.setdefault(part.key, []).append(part)
        for key, block in self._blocks(absent):
            for part in absent[key]:
                found[part] = block[part.start : part.start + part.length]
        return [np.frombuffer(b"".join([found[part] for part in span_parts]), self._dtype) for span_parts in parts]

    def prefetch(self, spans: Iterable[Span]) -> None:
        """Begins to fetch blocks; those beyond `_MAX_PENDING` are left for when they are read."""
        fetching = self._here()
        for part in (part for span in spans for part in self._parts(span)):
            if len(fetching.pending) >= _MAX_PENDING:
                return
            if part.key not in fetching.verified:
                # One that fails is asked for again by whoever needs it, and raises there.
                self._begin(part.key)

    def _parts(self, span: Span) -> list[_Part]:
        """Cuts a span where blocks end."""
        position, end = span.start * self._item_bytes, (span.start + span.length) * self._item_bytes
        parts = []
        while position < end:
            number, start = divmod(position, BLOCK_BYTES)
            length = min(end - position, BLOCK_BYTES - start)
            parts.append(_Part((span.partition, number), start, length))
            position += length
        return parts

    def _cached(self, part: _Part) -> bytes | None:
        """Returns a part of a block that this process has seen to be right, where the cache still has it."""
        if part.key not in self._here().verified:
            return None
        return self._cache.read(self._block(part.key), part.start, part.length)

    def _blocks(self, keys: Iterable[_Key]) -> Iterator[tuple[_Key, bytes]]:
        """Yields blocks in order, fetching as many ahead as may be held."""
        remaining = iter(keys)
        waiting = deque((key, self._begin(key)) for key in islice(remaining, _MAX_PENDING))
        while waiting:
            key, fetched = waiting.popleft()
            yield key, fetched.result()
            waiting.extend((key, self._begin(key)) for key in islice(remaining, 1))

    def _begin(self, key: _Key) -> Future[bytes]:
        """Fetches a block in another thread, once for all who wait for it."""
        fetching = self._here()
        with fetching.lock:
            known = fetching.pending.get(key)
            if known:
                return known
            begun = fetching.pool.submit(self._fetch, key)
            fetching.pending[key] = begun
        begun.add_done_callback(lambda _: fetching.pending.pop(key))
        return begun

    def _fetch(self, key: _Key) -> bytes:
        """Returns a block, from the cache or from storage, that is what it should be."""
        partition, number = key
        checksum = self._checksum(partition, number)
        block, length = self._block(key), self._block_bytes(partition, number)
        cached = self._cache.read(block, 0, length)
        if cached is not None and zlib.crc32(cached) == checksum:
            self._here().note_verified(key)
            return cached
        storage = self._storage.at(self.partitions.documents(partition))
        for _ in range(2):
            data = storage.read_range(TOKENS_NAME, number * BLOCK_BYTES, length)
            if zlib.crc32(data) == checksum:
                self._cache.write(block, data)
                self._here().note_verified(key)
                return data
        storage.write(DAMAGED_NAME, canonical_json([TOKENS_NAME]).encode())
        first = number * BLOCK_BYTES
        raise IntegrityError(
            f"{storage.uri_of(TOKENS_NAME)} was altered: its bytes {first:,} to {first + length:,} have another "
            f"checksum than when they were stored; run again: the next run makes {storage.uri} anew"
        )

    def _checksum(self, partition: int, number: int) -> int:
        fetching = self._here()
        # Threads that fetch blocks of one partition wait for its checksums together; others go on.
        with fetching.locks[partition % len(fetching.locks)]:
            return int(fetching.checksums(partition)[number])

    def _read_checksums(self, partition: int) -> npt.NDArray[np.uint32]:
        storage = self._storage.at(self.partitions.documents(partition))
        manifest = manifest_of(storage.uri, self.partitions.digest(partition))
        (expected,) = (stored for stored in manifest.objects if stored.name == BLOCKS_NAME)
        data = storage.read(BLOCKS_NAME)
        check_content(storage.uri_of(BLOCKS_NAME), describe(BLOCKS_NAME, data), expected)
        checksums: npt.NDArray[np.uint32] = np.load(io.BytesIO(data))
        return checksums

    def _block(self, key: _Key) -> Block:
        return Block(self.partitions.digest(key[0]), key[1])

    def _block_bytes(self, partition: int, number: int) -> int:
        """Returns the size of a block; the last one of an object may be shorter."""
        size_bytes = int(self.partitions.num_tokens[partition]) * self._item_bytes
        return min(BLOCK_BYTES, size_bytes - number * BLOCK_BYTES)

    def _here(self) -> _Fetching:
        """Returns the state of this process: threads and locks must not be shared with a forked one."""
        if self._fetching.process != os.getpid():
            self._fetching = _Fetching(self._read_checksums)
        return self._fetching


class _Fetching:
    """What one process fetches and knows."""

    def __init__(self, read_checksums: Callable[[int], npt.NDArray[np.uint32]]) -> None:
        self.process = os.getpid()
        self.pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="lemur-blocks")
        self.lock = threading.Lock()
        self.locks = [threading.Lock() for _ in range(_NUM_THREADS)]
        self.pending: dict[_Key, Future[bytes]] = {}
        self.verified: set[_Key] = set()
        self.checksums = functools.lru_cache(_MAX_CHECKSUMS)(read_checksums)

    def note_verified(self, key: _Key) -> None:
        """Notes that a block in the cache is what it should be."""
        if len(self.verified) >= _MAX_VERIFIED:
            self.verified.clear()
        self.verified.add(key)
