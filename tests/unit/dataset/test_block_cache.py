"""The cache of blocks on the local disk."""

from __future__ import annotations

import contextlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from lemur.dataset.block_cache import Block, BlockCache
from lemur.errors import StorageError

DIGEST = "ab" * 32


def _taken(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*-*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _write_and_read(folder: Path, max_bytes: int, seed: int) -> int:
    """Writes blocks that say their number, and returns how many of those it finds are not what they should be."""
    cache, chosen, wrong = BlockCache(folder, max_bytes), random.Random(seed), 0
    for _ in range(300):
        number = chosen.randrange(60)
        found = cache.read(Block(DIGEST, number), 500, 500)
        if found is None:
            cache.write(Block(DIGEST, number), bytes([number]) * 1000)
        else:
            wrong += found != bytes([number]) * 500
    return wrong


def test_a_part_of_a_block_comes_back(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", 10_000)
    cache.write(Block(DIGEST, 7), b"0123456789")

    assert cache.read(Block(DIGEST, 7), 2, 5) == b"23456"
    assert cache.read(Block(DIGEST, 7), 8, 3) is None
    assert cache.read(Block(DIGEST, 8), 0, 1) is None
    assert cache.read(Block("cd" * 32, 7), 0, 1) is None


def test_blocks_that_were_not_used_for_longest_go_first(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10_000)
    for number in range(10):
        cache.write(Block(DIGEST, number), bytes(1000))
        path = next(tmp_path.rglob(f"*-{number}"))
        os.utime(path, (path.stat().st_atime, time.time() - 1000 + number))
    assert cache.read(Block(DIGEST, 0), 0, 1)

    cache.write(Block(DIGEST, 10), bytes(1000))

    here = [number for number in range(11) if cache.read(Block(DIGEST, number), 0, 1)]
    assert here == [0, *range(3, 11)]


def test_processes_and_threads_share_one_bound_and_read_only_whole_blocks(tmp_path: Path) -> None:
    context, most = get_context("fork"), 0
    with context.Pool(3) as pool, ThreadPoolExecutor(2) as threads:
        work = pool.starmap_async(_write_and_read, [(tmp_path, 20_000, seed) for seed in range(3)])
        more = [threads.submit(_write_and_read, tmp_path, 20_000, seed) for seed in (3, 4)]
        while not work.ready():
            most = max(most, _taken(tmp_path))
            time.sleep(0.01)
        assert work.get() == [0, 0, 0]
        assert [future.result() for future in more] == [0, 0]
    assert 10_000 < most <= 20_000
    assert _taken(tmp_path) <= 20_000


def _write_many(folder: Path, first: int) -> None:
    cache = BlockCache(folder, 2**40)
    for number in range(first, first + 300):
        cache.write(Block(DIGEST, number), bytes(10))


def test_no_block_is_forgotten_in_the_count_when_processes_write_at_the_same_time(tmp_path: Path) -> None:
    with get_context("fork").Pool(3) as pool:
        pool.starmap(_write_many, [(tmp_path, first) for first in (0, 300, 600)])

    assert int.from_bytes((tmp_path / "size").read_bytes(), "little") == _taken(tmp_path) == 9000


def test_what_a_killed_writer_counted_wrongly_is_put_right_and_what_it_left_goes_first(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10_000)
    cache.write(Block(DIGEST, 0), bytes(1000))
    left = next(tmp_path.rglob("*-0")).parent / ".lemur-partial-1"
    left.write_bytes(bytes(3000))
    os.utime(left, (0, 0))
    (tmp_path / "size").write_bytes((9_500).to_bytes(8, "little"))

    for number in range(1, 6):
        cache.write(Block(DIGEST, number), bytes(1000))
    assert left.exists()
    for number in range(6, 9):
        cache.write(Block(DIGEST, number), bytes(1000))

    assert not left.exists()
    assert all(cache.read(Block(DIGEST, number), 0, 1) for number in range(9))


def test_a_bound_below_one_block_keeps_one_at_most(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1)
    for number in range(3):
        cache.write(Block(DIGEST, number), bytes(1000))

    assert _taken(tmp_path) == 1000


def test_a_disk_that_is_full_is_named(small_disk: Path) -> None:
    with pytest.raises(StorageError, match="does not fit"):
        BlockCache(small_disk, 2**30).write(Block(DIGEST, 0), bytes(3 * 2**20))
