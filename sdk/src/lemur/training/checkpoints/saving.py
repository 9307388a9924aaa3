"""Writing checkpoints while training goes on: each process its own part, the first one the manifest."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lemur.errors import StorageError
from lemur.progress import emit, moved
from lemur.receipt import StoredObject
from lemur.storage.base import Storage
from lemur.storage.file import new_file
from lemur.storage.integrity import describe
from lemur.training.checkpoints.layout import (
    RUN_NAME,
    Index,
    RunRecord,
    StateFile,
    index_name,
    index_of,
    parse,
    state_files,
    state_name,
)
from lemur.training.checkpoints.patience import Patience
from lemur.training.checkpoints.snapshot import Snapshot
from lemur.training.checkpoints.steps import StepCheckpoints
from lemur.training.state import Stretch

_CHUNK_BYTES = 8 * 1024 * 1024
_NUM_UPLOADS = 2
"""Files that a process uploads at the same time; each goes in parallel parts as well."""
_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 2.0
_SILENCE_SECONDS = 900.0
"""How long the first process waits for another one's part without hearing of any."""
_NOTE_AFTER_SECONDS = 10.0


class Saver:
    """Stores one checkpoint at a time in the background.

    What is in the background never talks to other processes but through storage, so it cannot keep them from ending:
    each process stores its files and then its index, the first one waits for all indexes of its own attempt and
    then writes the manifest. A process that dies leaves no index, and so no checkpoint.

    Args:
        checkpoints: Where they are stored.
        rank: This process.
        num_ranks: All processes.
        attempt: Name of this attempt of the job, the same in all processes.
        folder: Local folder for files on their way to storage elsewhere.
        retry_seconds: How long storage may be away.
        on_whole: Called by the first process, in the background, with the step of a checkpoint that is whole.
    """

    def __init__(
        self,
        checkpoints: StepCheckpoints,
        *,
        rank: int,
        num_ranks: int,
        attempt: str,
        folder: Path,
        retry_seconds: float,
        on_whole: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._checkpoints, self._rank, self._num_ranks = checkpoints, rank, num_ranks
        self._attempt, self._folder, self._retry_seconds = attempt, folder, retry_seconds
        self._on_whole = on_whole
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._begun_step = -1
        self.stored_step: int | None = None
        """Newest step that this process has stored its part of; in the first one, that is committed."""
        self.stall_seconds = 0.0
        """Seconds for which training has stood still: for copies, and waiting for what is being stored."""
        self.copy_seconds: list[float] = []
        """Those of each copy alone."""

    @property
    def begun_step(self) -> int:
        """Newest step of which a copy was taken; -1 before the first."""
        return self._begun_step

    def save(self, run: RunRecord, stretches: Sequence[Stretch], documents: Mapping[str, bytes]) -> None:
        """Takes a copy of the state, once the checkpoint before is stored, and stores it in the background.

        Args:
            run: What the first process says of the run.
            stretches: What this process writes.
            documents: Other objects of the checkpoint, which the first process writes.

        Raises:
            StorageError: The checkpoint before could not be stored.
        """
        began = time.monotonic()
        self._wait_for_turn(run.step)
        turn = time.monotonic()
        copies = self._snapshot.take(stretches)
        self._begun_step = run.step
        work = threading.Thread(
            target=self._store, args=(run, copies, dict(documents)), name=f"checkpoint {run.step}", daemon=True
        )
        self._thread = work
        work.start()
        self.copy_seconds.append(time.monotonic() - turn)
        self.stall_seconds += time.monotonic() - began

    @property
    def buffer_bytes(self) -> int:
        """Host memory that the copy takes."""
        return self._snapshot.size_bytes

    def hold_changes(self) -> None:
        """Keeps a GPU from changing what is being copied."""
        self._snapshot.hold_changes()

    def check(self) -> None:
        """Raises what the background has failed with."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def finish(self, timeout_seconds: float | None = None) -> bool:
        """Waits until the checkpoint at hand is stored, and returns whether it is.

        Args:
            timeout_seconds: How long to wait at most; `None` as long as it takes.

        Raises:
            StorageError: It could not be stored.
        """
        began = time.monotonic()
        while self._thread is not None and self._thread.is_alive():
            left = None if timeout_seconds is None else began + timeout_seconds - time.monotonic()
            if left is not None and left <= 0:
                break
            # In short turns, because a thread that waits for another takes no signals.
            self._thread.join(0.2 if left is None else min(left, 0.2))
        self.stall_seconds += time.monotonic() - began
        self.check()
        return self._thread is None or not self._thread.is_alive()

    def stop(self) -> None:
        """Gives up: what is not stored soon will not be."""
        self._stopped.set()

    def _wait_for_turn(self, step: int) -> None:
        began, told = time.monotonic(), self._rank != 0
        before = self._begun_step
        stalled = self.stall_seconds
        if not self.finish(_NOTE_AFTER_SECONDS) and not told:
            emit("note", text=f"the checkpoint of step {step:,} waits for that of step {before:,} to be stored")
        self.finish()
        self.stall_seconds = stalled  # Whoever called counts the whole.
        waited = time.monotonic() - began
        if waited > 1 and not told:
            emit(
                "note",
                text=f"training waited {waited:,.1f} s for the checkpoint of step {before:,} to be stored before it "
                f"could copy step {step:,}; raise checkpoint_every_steps, or use faster storage",
            )

    def _store(self, run: RunRecord, copies: Sequence[Stretch], documents: Mapping[str, bytes]) -> None:
        try:
            self._snapshot.wait()
            storage = self._checkpoints.at(run.step)
            patience = Patience(self._retry_seconds, f"the checkpoint of step {run.step:,}", self._stopped)
            objects = self._write_own(storage, copies, patience)
            if self._rank == 0:
                for name, data in {RUN_NAME: run.model_dump_json(indent=2).encode(), **documents}.items():
                    objects.append(patience.call(partial(storage.write, name, data)))
                objects += self._wait_for_others(storage, patience)
                _check_all_there(storage, objects, patience)
                patience.call(partial(self._checkpoints.commit, run, objects))
                self._on_whole(run.step)
            self.stored_step = run.step
        except BaseException as failure:
            self._failure = failure

    def _write_own(self, storage: Storage, copies: Sequence[Stretch], patience: Patience) -> list[StoredObject]:
        """Stores this process's files, and the index of them last."""
        files = state_files(copies)
        with ThreadPoolExecutor(_NUM_UPLOADS, thread_name_prefix="upload") as pool:
            uploads: list[Future[StoredObject]] = []
            for number, file in enumerate(files):
                # Files wait on the local disk only while others are uploaded.
                for earlier in uploads[:-_NUM_UPLOADS]:
                    earlier.result()
                name = state_name(self._rank, self._num_ranks, number)
                path = storage.local_path(name)
                target = path or self._folder / name
                written = patience.call(partial(_write, name, file, target))
                if path:
                    uploads.append(_done(written))
                else:
                    uploads.append(pool.submit(_upload, storage, written, target, patience))
            stored = [upload.result() for upload in uploads]
        text = index_of(files, stored, self._attempt).model_dump_json().encode()
        name = index_name(self._rank, self._num_ranks)
        return [*stored, patience.call(partial(storage.write, name, text))]

    def _wait_for_others(self, storage: Storage, patience: Patience) -> list[StoredObject]:
        """Returns what the other processes have stored, once all of them have.

        Raises:
            StorageError: For long there was nothing new of those that are missing.
        """
        missing = {index_name(rank, self._num_ranks): rank for rank in range(1, self._num_ranks)}
        objects: list[StoredObject] = []
        heard, pause = time.monotonic(), _POLL_SECONDS
        while missing:
            there = {found.name for found in patience.call(storage.list)} & set(missing)
            for name in sorted(there):
                text = patience.call(partial(storage.read, name))
                index = parse(Index, storage.uri_of(name), text)
                if index.attempt == self._attempt:
                    objects += [*index.files, describe(name, text)]
                    del missing[name]
                    heard = time.monotonic()
            silent = time.monotonic() - heard > _SILENCE_SECONDS + self._retry_seconds
            if missing and (silent or self._stopped.is_set()):
                raise StorageError(
                    f"the parts of ranks {', '.join(map(str, missing.values()))} did not come to {storage.uri}; see "
                    "the log of those processes"
                )
            if missing:
                self._stopped.wait(pause)
                pause = min(1.5 * pause, _LONGEST_POLL_SECONDS)
        return objects


def _write(name: str, file: StateFile, path: Path) -> StoredObject:
    """Writes a file of numbers; its digest is taken on the way."""
    digest = hashlib.sha256()
    with new_file(path, file.size_bytes) as target:

        def put(data: memoryview) -> None:
            digest.update(data)
            moved()
            while data:
                data = data[target.write(data) :]

        put(memoryview(file.header))
        for stretch in file.stretches:
            data = stretch.values.numpy().data.cast("B")
            for first in range(0, len(data), _CHUNK_BYTES):
                put(data[first : first + _CHUNK_BYTES])
    return StoredObject(name=name, size_bytes=file.size_bytes, sha256=digest.hexdigest())


def _upload(storage: Storage, written: StoredObject, path: Path, patience: Patience) -> StoredObject:
    stored = patience.call(partial(storage.upload, written.name, path, on_bytes=_unseen))
    if stored != written:
        raise StorageError(
            f"{path} changed between writing and uploading it: SHA-256 {written.sha256} became {stored.sha256}; "
            "check that disk"
        )
    path.unlink()
    return stored


def _check_all_there(storage: Storage, objects: Sequence[StoredObject], patience: Patience) -> None:
    sizes = {found.name: found.size_bytes for found in patience.call(storage.list)}
    for stored in objects:
        if sizes.get(stored.name) != stored.size_bytes:
            raise StorageError(
                f"{storage.uri_of(stored.name)} should have {stored.size_bytes:,} bytes and has "
                f"{sizes.get(stored.name, 0):,}; is another process writing there?"
            )


def _unseen(count: int) -> None:
    """Shows no bar of a transfer, and tells whoever watches that it moves."""
    moved()


def _done(value: StoredObject) -> Future[StoredObject]:
    future: Future[StoredObject] = Future()
    future.set_result(value)
    return future
