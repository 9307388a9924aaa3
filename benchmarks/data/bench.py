"""What all parts of the benchmark share: its settings, its corpus, and the commands it measures."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.data.corpus import Corpus, make_corpus, make_tokenizer
from benchmarks.data.ours import STEPS, settings
from benchmarks.data.processes import Usage, measure

_USUAL_PARTITION_BYTES = 268_435_456
_LARGEST_FILE_BYTES = 64_000_000


class OurUsage(NamedTuple):
    """What Lemur's steps took."""

    steps: dict[str, Usage]
    """Each step by its name."""
    receipt: dict[str, Any]
    """The mixture's receipt, as JSON."""

    @property
    def seconds(self) -> float:
        """Wall time of all steps."""
        return sum(usage.seconds for usage in self.steps.values())

    @property
    def peak_bytes(self) -> int:
        """Memory of the largest step."""
        return max(usage.peak_bytes for usage in self.steps.values())

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all steps."""
        return sum(usage.cpu_seconds for usage in self.steps.values())

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.steps["tokenize"].output["tokens"])


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark."""

    work: Path
    """Folder for everything that is written."""
    megabytes: int
    """Size of the corpus."""
    peer_megabytes: int
    """Size of the part that is given to slower tools."""
    vocab_size: int
    """Entries of the tokenizer."""
    processes: int
    """Processes that each tool may use; the machine's other cores are left alone."""
    repeats: int
    """How often each figure is measured."""
    seed: int
    """Seed of all that is chosen by chance."""
    peers_python: tuple[str, ...]
    """Interpreters in which other tools are looked for."""
    num_partitions: int
    """Partitions of the dataset whose index is measured."""
    num_small_files: int
    """Files of the corpus that is all small files."""
    num_kills: int
    """How often a run is killed."""
    benchmark_data: Path | None
    """Folder with benchmarks' problems, a folder each, that documents are compared with."""

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The whole corpus, as JSONL."""
        num_bytes = self.megabytes * 10**6
        return make_corpus(self.work / "corpus", num_bytes, max(4 * self.processes, num_bytes // _LARGEST_FILE_BYTES))

    @functools.cached_property
    def slice(self) -> Corpus:
        """What slower tools get."""
        return make_corpus(self.work / "slice", self.peer_megabytes * 10**6, 2 * self.processes)

    @functools.cached_property
    def crumb(self) -> Corpus:
        """So little that the time it takes is the time of starting and ending."""
        return make_corpus(self.work / "crumb", 40_000, 2 * self.processes)

    @functools.cached_property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return make_tokenizer(self.work / f"tokenizer-{self.vocab_size}", self.vocab_size)

    def document_ends(self) -> list[npt.NDArray[np.uint64]]:
        """Returns where each document of the corpus ends, partition by partition."""
        storage = self.new_folder("tokenized")
        self.ours(self.corpus, storage=storage)
        return [np.load(path) for path in sorted(storage.glob("documents/*/ends.npy"))]

    def partition_bytes(self, corpus: Corpus) -> int:
        """Returns the usual size of a partition, or less where there would be too few for the processes."""
        largest_file = max(path.stat().st_size for path in corpus.files)
        return max(largest_file, min(_USUAL_PARTITION_BYTES, corpus.num_bytes // (4 * self.processes)))

    def ours(
        self,
        corpus: Corpus,
        *,
        storage: Path | str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        **data: Any,
    ) -> OurUsage:
        """Measures Lemur's three steps.

        Args:
            corpus: What is read.
            storage: Where the results go and stay; without it they are made anew and deleted.
            environment: Variables for the steps, beside this process's own.
            data: Fields of the data section that differ from what is usual here.
        """
        work = self.new_folder("ours")
        self.write_settings(corpus, storage or work / "storage", work, **data)
        steps = {step: measure(self.ours_command(step, work), work=work, environment=environment) for step in STEPS}
        receipt = json.loads((work / "tokens.json").read_text())
        self.delete(work)
        return OurUsage(steps, receipt)

    def ours_command(self, step: str, work: Path) -> list[str | Path]:
        """Returns the command of one of Lemur's steps, or of `all`."""
        return [sys.executable, "-m", "benchmarks.data.ours", step, work]

    def write_settings(self, corpus: Corpus, storage: Path | str, work: Path, **data: Any) -> None:
        """Writes what Lemur's steps are told."""
        data = {"partition_bytes": self.partition_bytes(corpus), **data}
        asked = settings(self.tokenizer, self.vocab_size, corpus.files, storage, data)
        (work / "settings.json").write_text(json.dumps(asked))

    def new_folder(self, name: str) -> Path:
        """Returns a folder that nothing else uses."""
        folder = self.work / "runs" / f"{name}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        return folder

    def delete(self, folder: Path) -> None:
        """Deletes what a measurement left."""
        shutil.rmtree(folder)

    def say(self, text: str) -> None:
        """Tells whoever waits what is under way."""
        print(text, file=sys.stderr, flush=True)
