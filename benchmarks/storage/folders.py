"""Storage in a folder, beside plain copies."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.data.tables import Table, middle
from benchmarks.storage.bench import Bench

_GIGABYTE = 10**9


def folders(bench: Bench) -> list[Table]:
    """Stores a file in a folder on disk, from memory, and copies it back to memory."""
    from lemur.receipt import StoredObject
    from lemur.storage import open_storage

    payload = bench.payload(bench.megabytes)
    size = payload.size_bytes
    storage = open_storage(str(bench.work / "stored"))
    stored = StoredObject(name="object", size_bytes=size, sha256=payload.sha256)

    def count(_: int) -> None:
        """Shows no progress."""

    copy, back = bench.work / "copy", bench.memory / "back"
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "lemur, with SHA-256": (
            lambda: storage.upload("object", payload.path, on_bytes=count),
            lambda: storage.download("object", back, stored, on_bytes=count),
        ),
        "shutil.copyfile, fsync, then SHA-256": (
            lambda: (_copy(payload.path, copy, durable=True), _digest(copy)),
            lambda: (_copy(copy, back, durable=False), _digest(back)),
        ),
        "shutil.copyfile": (
            lambda: _copy(payload.path, copy, durable=False),
            lambda: _copy(copy, back, durable=False),
        ),
    }
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(bench.repeats):
        for name, both in ways.items():
            for direction, way in enumerate(both):
                began, before = time.perf_counter(), time.process_time()
                way()
                taken = (time.perf_counter() - began, time.process_time() - before)
                times.setdefault((name, direction), []).append(taken)
            back.unlink()
            copy.unlink(missing_ok=True)
            storage.delete()
    table = Table(
        f"A folder on disk: {bench.megabytes:,} MB", ["way", "up MB/s", "down MB/s", "CPU s/GB up", "CPU s/GB down"]
    )
    for name in ways:
        found = [times[name, direction] for direction in (0, 1)]
        table.add(
            name,
            *(middle([size / 1e6 / seconds for seconds, _ in each], 0) for each in found),
            *(middle([cpu / (size / _GIGABYTE) for _, cpu in each]) for each in found),
        )
        table.measurements.append({"way": name, "up": found[0], "down": found[1]})
    table.notes.append(
        "Lemur's upload, and the second way's, end when the copy is on the disk; the last way's does not."
    )
    return [table]


def _copy(source: Path, target: Path, *, durable: bool) -> None:
    shutil.copyfile(source, target)
    if durable:
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
