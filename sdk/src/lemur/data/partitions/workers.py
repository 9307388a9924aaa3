"""The second step of mixing: every partition becomes a documents result, several at a time."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from lemur.data.partitions.checking import choose_engine
from lemur.data.partitions.listing import ListedPartition, PartitionList, num_workers, read_partitions
from lemur.data.partitions.worker import WorkDescription
from lemur.data.scratch import scratch_folder
from lemur.errors import LemurError, error_classes
from lemur.progress import Task, emit, task
from lemur.receipt import Receipt
from lemur.recipe import DataSection
from lemur.reuse import find_whole
from lemur.storage.base import in_parallel

_LOOKUPS_AT_ONCE = 16
_SAMPLED_PARTITIONS = 8
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""What Linux grants a container: microseconds of all cores together in a period, or `max`, and the period."""
_FRUGAL = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Has a worker give large buffers back at once, unless the environment says otherwise: pages of Parquet files can have
15 MB, of which Arrow's own allocator, and glibc's once it has seen some, keep a hundred."""


class _Line(NamedTuple):
    """What a worker said; nothing at its end."""

    worker: int
    message: dict[str, Any] | None


def tokenize_partitions(*, data: DataSection, partitions: Receipt, storage: str, worker: int) -> list[Receipt]:
    """Makes the documents results of this step's part of the partitions; those that stand already are found.

    The step takes every n-th partition, n being the number of steps, and hands them to as many processes as it has
    cores. A process that fails ends the step; what others finished stays, and is found by the next run.

    Args:
        data: The recipe's section.
        partitions: From `list_partitions`.
        storage: Root URI of the recipe's storage.
        worker: Which of the steps this is, from 0.

    Returns:
        Receipts of kind `documents`, in the order of the partitions.

    Raises:
        RecipeError: A partition cannot be read, or too many of its records.
        StorageError: The storage or the scratch disk is full, cannot be reached or refuses.
        LemurError: A process ended without a word.
    """
    with scratch_folder() as scratch:
        listed, folder = read_partitions(partitions, scratch / "partitions")
        mine = range(worker, len(listed.partitions), num_workers(data, partitions))
        found = dict(zip(mine, _standing([listed.partitions[number] for number in mine], storage), strict=True))
        missing = [number for number in mine if found[number] is None]
        if len(missing) < len(mine):
            emit("note", text=f"tokenize: unchanged, {len(mine) - len(missing):,} of {len(mine):,} partitions")
        if missing:
            found.update(_tokenize(data, listed, missing, storage=storage, folder=folder, scratch=scratch))
        return [receipt for number in mine if (receipt := found[number])]


def _standing(partitions: Sequence[ListedPartition], storage: str) -> list[Receipt | None]:
    """Returns the result of each partition that stands whole."""
    return in_parallel(
        lambda listed: find_whole(storage, listed.prefix, stage="tokenize"), partitions, _LOOKUPS_AT_ONCE
    )


def _tokenize(
    data: DataSection, listed: PartitionList, missing: list[int], *, storage: str, folder: Path, scratch: Path
) -> dict[int, Receipt]:
    chosen = [listed.partitions[number] for number in missing]
    path = scratch / "work.json"
    description = WorkDescription(storage=storage, folder=folder, data=data.model_dump(mode="json"))
    path.write_text(description.model_dump_json(), encoding="utf-8")
    # In a process of its own, whose memory is free again when the workers need theirs.
    engine = choose_engine(path, missing[:: -(-len(missing) // _SAMPLED_PARTITIONS)])
    path.write_text(description.model_copy(update={"engine": engine}).model_dump_json(), encoding="utf-8")
    sizes = [listed_partition.partition.estimated_bytes for listed_partition in chosen]
    total = sum(size for size in sizes if size is not None) if None not in sizes else None
    with task("tokenize", total=total, unit="bytes") as bar, _Processes(path, min(_cores(), len(missing))) as processes:
        return processes.run(missing, listed.partitions, bar)


def _cores() -> int:
    """Returns how many cores there are for this step: in a container as many as its limit grants, not the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _CPU_LIMIT.read_text().partition(" ") if _CPU_LIMIT.is_file() else ("max", "", "")
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


class _Processes:
    """Worker processes, each given one partition at a time.

    Args:
        description: File that says what all of them do.
        count: How many to start.
    """

    def __init__(self, description: Path, count: int) -> None:
        self._description, self._count = description, count
        self._lines: queue.Queue[_Line] = queue.Queue()

    def __enter__(self) -> _Processes:
        with ExitStack() as stack:
            self._processes = [stack.enter_context(self._started(number)) for number in range(self._count)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, missing: list[int], partitions: Sequence[ListedPartition], bar: Task) -> dict[int, Receipt]:
        """Has partitions tokenized, and returns their receipts by number."""
        waiting, busy = list(reversed(missing)), dict[int, int]()
        made: dict[int, Receipt] = {}
        for worker in range(self._count):
            busy[worker] = waiting.pop()
            self._give(worker, busy[worker])
        while busy:
            worker, message = self._lines.get()
            if message is None and worker not in busy:
                continue  # It had nothing left to do.
            if message is None:
                raise self._ended(worker, partitions[busy[worker]])
            if "error" in message:
                raise error_classes().get(message["error"], LemurError)(message["message"])
            if "bytes" in message:
                bar.advance(message["bytes"], partitions=f"{len(made):,} of {len(missing):,}")
                continue
            made[busy.pop(worker)] = Receipt.model_validate(message["receipt"])
            if waiting:
                busy[worker] = waiting.pop()
                self._give(worker, busy[worker])
        return made

    @contextmanager
    def _started(self, number: int) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "lemur.data.partitions.worker", str(os.getpid()), str(self._description)]
        # What a killed process leaves behind goes with the step's own scratch folder.
        environment = {**_FRUGAL, **os.environ, "TMPDIR": str(self._description.parent)}
        # A group of its own: Ctrl-C is for the step, which then ends its workers.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0
        ) as process:
            listener = threading.Thread(target=self._listen, args=(number, process), daemon=True)
            listener.start()
            try:
                yield process
            finally:
                process.kill()
                listener.join()

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        while (line := process.stdout.readline()).endswith(b"\n"):
            self._lines.put(_Line(number, json.loads(line)))
        # Nothing more, or a line that a killed process did not finish.
        self._lines.put(_Line(number, None))

    def _give(self, worker: int, partition: int) -> None:
        stdin = self._processes[worker].stdin
        assert stdin
        with suppress(BrokenPipeError):  # It has ended, and its listener says so.
            os.write(stdin.fileno(), f"{partition}\n".encode())

    def _ended(self, worker: int, listed: ListedPartition) -> LemurError:
        code = self._processes[worker].wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        files = listed.partition.files
        where = (
            f"{files[0].name} and {len(files) - 1:,} more files" if len(files) > 1 else "".join(f.name for f in files)
        )
        hint = "; most likely memory ran out: give the step more, or mix with fewer cores" if code == -9 else ""
        return LemurError(
            f"the process that tokenized partition {listed.number} of source {listed.source!r} ({where}) {how}"
            f"{hint}; run again: finished partitions are kept"
        )
