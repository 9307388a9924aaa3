"""A process that tokenizes partitions: `python -m lemur.data.partitions.worker PARENT_PID DESCRIPTION`.

It reads the number of a partition from each line of standard input, makes that partition's documents result, and says
on standard output, in lines of JSON, how far it is and what became of it. It is a process of its own, and a small one:
no library that trains is imported, and it uses one thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lemur.data.cleaning.contamination import ContaminationIndex
from lemur.data.partitions.documents import DocumentsMaker
from lemur.data.partitions.listing import CONTAMINATION_NAME, LIST_NAME, ListedPartition, PartitionList
from lemur.data.scratch import scratch_folder
from lemur.data.tokenizer.encoder import EngineName, limit_threads, open_encoder
from lemur.errors import LemurError
from lemur.lifeline import end_with_parent
from lemur.receipt import Receipt
from lemur.recipe import DataSection
from lemur.results import write_result

_REPORT_SECONDS = 0.2


class WorkDescription(BaseModel):
    """What every worker of a step is told."""

    storage: str
    """Root URI of the recipe's storage."""
    folder: Path
    """Folder with the files of the partitions result."""
    engine: EngineName = "tokenizers"
    """Library that encodes, as the check chose it."""
    data: dict[str, Any]
    """The data section, as JSON."""


class Worker:
    """Makes documents results of listed partitions.

    Args:
        description: What to make, and where.
        say: Takes messages for the parent.
    """

    def __init__(self, description: WorkDescription, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._storage = description.storage
        folder = description.folder
        self._list = PartitionList.model_validate_json((folder / LIST_NAME).read_bytes())
        data = DataSection.model_validate(description.data)
        self._sources = {source.name: source for source in data.sources}
        encoder = open_encoder(
            folder / "tokenizer",
            description.engine,
            end_of_text_id=self._list.end_of_text_id,
            vocab_size=self._list.vocab_size,
        )
        has_benchmarks = data.cleaning.decontamination is not None
        contamination = ContaminationIndex.load(folder / CONTAMINATION_NAME) if has_benchmarks else None
        self._maker = DocumentsMaker(data, encoder, contamination)

    def make(self, number: int) -> Receipt:
        """Tokenizes a partition and stores the result."""
        listed: ListedPartition = self._list.partitions[number]
        reporter = _Reporter(self._say)
        with scratch_folder() as folder:
            source = self._sources[listed.source]
            tokenized = self._maker.make(source, listed.partition, folder, reporter.count)
            reporter.report()
            writer = write_result(
                self._storage, prefix=listed.prefix, kind="documents", stage="tokenize", key=listed.key, parents={}
            )
            writer.add_folder(folder, move=True)
            return writer.commit(metrics=tokenized.metrics, metadata=tokenized.metadata)


class _Reporter:
    """Tells the parent how many bytes are done, a few times a second."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._num_bytes = 0
        self._last = time.monotonic()

    def count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if time.monotonic() - self._last >= _REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        self._say({"bytes": self._num_bytes})
        self._num_bytes, self._last = 0, time.monotonic()


def main() -> int:
    """Makes what is asked for until standard input ends; returns 1 where something failed, having said what."""
    end_with_parent(int(sys.argv[1]))
    limit_threads(1)
    # What a library prints must not stand among the messages.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=messages, flush=True)

    try:
        worker = Worker(WorkDescription.model_validate_json(Path(sys.argv[2]).read_bytes()), say)
        for line in sys.stdin:
            say({"receipt": worker.make(int(line)).model_dump(mode="json")})
    except LemurError as error:
        say({"error": type(error).__name__, "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
