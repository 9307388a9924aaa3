"""What every stage does besides its work: it names itself, keeps its receipts, and fails in one sentence."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from lemur import progress
from lemur.errors import LemurError
from lemur.receipt import Receipt
from lemur.reuse import reuse
from lemur.run_record import RunRecord

RUNNER_VARIABLE = "LEMUR_RUNNER_PID"
"""Process id of the local runner: a stage whose runner is gone ends itself."""

STOP_VARIABLE = "LEMUR_STOP_FILE"
"""File that the local runner makes when it was asked to stop: a stage then gets SIGTERM, and the time it needs."""

_RECEIPTS = TypeAdapter(list[Receipt])


class Artifact(Protocol):
    """The part of a Kubeflow artifact that stages use: a file for the receipt, and metadata for the UI."""

    path: str
    metadata: dict[str, Any]


def take(artifact: Artifact) -> Receipt:
    """Returns the receipt that an earlier step handed over."""
    return Receipt.load(artifact.path)


def hand_over(receipt: Receipt, artifact: Artifact) -> None:
    """Writes a receipt as a step's output; its figures become the artifact's metadata."""
    receipt.save(artifact.path)
    artifact.metadata.update({"uri": receipt.uri, "digest": receipt.digest, **receipt.metrics})


def take_all(artifacts: Iterable[Artifact]) -> list[Receipt]:
    """Returns the receipts that several earlier steps handed over, each of them a list."""
    lists = (Path(artifact.path).read_text(encoding="utf-8") for artifact in artifacts)
    return [receipt for text in lists for receipt in _RECEIPTS.validate_json(text)]


def hand_over_all(receipts: Sequence[Receipt], artifact: Artifact) -> None:
    """Writes a list of receipts as a step's output; the sums of their figures become the artifact's metadata."""
    Path(artifact.path).parent.mkdir(parents=True, exist_ok=True)
    Path(artifact.path).write_bytes(_RECEIPTS.dump_json(list(receipts), indent=2))
    totals = {name: sum(receipt.metrics[name] for receipt in receipts) for name in ("documents", "tokens", "bytes")}
    artifact.metadata.update({"results": len(receipts), **totals})


class StageRun:
    """A stage at work, on behalf of a run."""

    def __init__(self, stage: str, record: RunRecord) -> None:
        self._stage = stage
        self._record = record

    @property
    def record_uri(self) -> str:
        """Where the run's record stands."""
        return self._record.uri

    def keep(self, task: str, receipt: Receipt) -> Receipt:
        """Puts a result into the run's record and tells whoever watches."""
        self._record.keep(task, receipt)
        progress.emit("receipt", task=task, receipt=receipt.model_dump(mode="json"))
        return receipt

    def reuse(self, storage: str, prefix: str) -> Receipt | None:
        """Returns the result that already stands at a prefix, or `None` where it must be made."""
        return reuse(storage, prefix, stage=self._stage)


@contextmanager
def stage(name: str, *, storage: str, run: str, role: str = "") -> Iterator[StageRun]:
    """Surrounds the work of one stage.

    Args:
        name: Name of the stage.
        storage: Root URI of the recipe's storage.
        run: Name of the run.
        role: Which of several like it this is, for example the model that is evaluated.
    """
    _end_with_runner()
    label = f"{name} {role}".strip()
    progress.emit("stage", name=label, state="started")
    try:
        yield StageRun(label, RunRecord(storage, run))
    except LemurError as error:
        progress.emit("error", stage=label, type=type(error).__name__, message=str(error))
        raise
    progress.emit("stage", name=label, state="finished")


def _end_with_runner() -> None:
    """Ends this process soon after the local runner has gone, however it went: no stage outlives its run."""
    runner = int(os.environ.get(RUNNER_VARIABLE, "0"))
    if not runner:
        return

    stop = os.environ.get(STOP_VARIABLE)

    def watch() -> None:
        told = False
        while _runs(runner):
            if stop and not told and Path(stop).exists():
                told = True
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        # SIGKILL, because the work may be deep inside a library; children carry a parent-death signal.
        os.kill(os.getpid(), 9)

    threading.Thread(target=watch, daemon=True).start()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
