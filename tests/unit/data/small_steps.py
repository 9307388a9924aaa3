"""The three steps with real processes, and the processes they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_corpus import section

from lemur.data.mixing.mixing import mix_tokens
from lemur.data.partitions.listing import list_partitions
from lemur.data.partitions.workers import tokenize_partitions
from lemur.receipt import Receipt
from lemur.recipe import ModelSection

CHANGES: dict[str, Any] = {"heldout_fraction": 0.2, "cleaning": {"near_duplicates": {"num_permutations": 16}}}
"""Settings with which a partition has every kind of file."""


class Steps:
    """The three steps on a corpus, with real processes."""

    def __init__(self, tokenizer: ModelSection, corpus: Path | str, storage: str) -> None:
        self.tokenizer, self.corpus, self.storage = tokenizer, corpus, storage

    def partition(self, **changes: Any) -> Receipt:
        data = section(self.corpus, **{**CHANGES, **changes})
        return list_partitions(model=self.tokenizer, data=data, storage=self.storage)

    def tokenize(self, worker: int = 0, **changes: Any) -> list[Receipt]:
        data = section(self.corpus, **{**CHANGES, **changes})
        partitions = self.partition(**changes)
        return tokenize_partitions(data=data, partitions=partitions, storage=self.storage, worker=worker)

    def mix(self, documents: list[Receipt], **changes: Any) -> Receipt:
        data = section(self.corpus, **{**CHANGES, **changes})
        return mix_tokens(
            data=data, partitions=self.partition(**changes), documents=documents, storage=self.storage
        )  # fmt: skip


def children() -> list[int]:
    """Returns the worker processes of this one."""
    listed = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    found = [int(pid) for pids in listed for pid in pids]
    return [pid for pid in found if b"lemur.data.partitions.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
