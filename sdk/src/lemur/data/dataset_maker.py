"""Turning documents into a token dataset: tokens in shards, held-out documents, index and counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import filterfalse
from pathlib import Path
from typing import Any

from lemur.data.heldout import Heldout
from lemur.data.reading import Document, Tally, read_documents
from lemur.data.shards import ShardWriter
from lemur.data.source import Source
from lemur.data.tokenizing import Encoder
from lemur.dataset import INDEX_NAME, DatasetIndex, SourceIndex, token_dtype
from lemur.mixture import mixture_shares
from lemur.progress import emit, task
from lemur.recipe import DataSection

_BATCH_BYTES = 2**20
"""Text that is tokenized at a time: enough to keep all cores busy, little enough to hold."""


@dataclass
class _Count:
    """What became of one source's documents."""

    source: Source
    writer: ShardWriter
    tally: Tally
    documents: int = 0
    num_bytes: int = 0
    heldout_documents: int = 0
    heldout_bytes: int = 0
    heldout_copies: int = 0
    """Documents left out because they equal a held-out one."""
    num_sequences: int = 0
    dropped_tokens: int = 0


class DatasetMaker:
    """Makes one token dataset: `add` each source, then `finish`.

    Args:
        data: The recipe's section.
        encoder: The tokenizer.
        folder: Where the dataset's files go.
        scratch: Folder for what is needed only meanwhile.
    """

    def __init__(self, data: DataSection, encoder: Encoder, *, folder: Path, scratch: Path) -> None:
        self._data, self._encoder, self._folder = data, encoder, folder
        self._shares = mixture_shares(data)
        self._dtype = token_dtype(encoder.vocab_size)
        self._shard_sequences = max(1, data.shard_tokens // data.sequence_length)
        candidates = scratch / "candidates"
        candidates.mkdir()
        self._heldout = Heldout(candidates, fraction=data.heldout_fraction, max_bytes=data.heldout_max_bytes)
        self._counts: list[_Count] = []
        self._seconds = 0.0

    def add(self, source: Source) -> None:
        """Reads a source and writes its tokens, but for the candidates of the held-out set.

        Raises:
            RecipeError: The source cannot be read, or too many of its records.
        """
        started = time.monotonic()
        writer = ShardWriter(
            self._folder,
            source.name,
            dtype=self._dtype,
            sequence_length=self._data.sequence_length,
            shard_sequences=self._shard_sequences,
        )
        count = _Count(source, writer, Tally(source.name))
        self._counts.append(count)
        with task(f"tokenize {source.name}", total=source.estimated_bytes(), unit="bytes") as bar:
            for batch in _batches(read_documents(source, count.tally)):
                self._heldout.set_aside(source.name, filter(self._heldout.is_candidate, batch))
                self._train_on(filterfalse(self._heldout.is_candidate, batch), count)
                bar.advance(sum(document.num_bytes for document in batch))
        self._seconds += time.monotonic() - started

    def finish(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Places the candidates and writes the index.

        Returns:
            Metrics and metadata of the receipt.

        Raises:
            PlanError: A source holds less than one sequence, or its weight is too small.
        """
        started = time.monotonic()
        self._place_candidates()
        for count in self._counts:
            count.num_sequences, count.dropped_tokens = count.writer.finish()
        self._seconds += time.monotonic() - started
        index = self._index()
        index.mixture()  # Refuses sources that cannot be mixed, before anything is stored.
        (self._folder / INDEX_NAME).write_text(index.model_dump_json(indent=2), encoding="utf-8")
        return self._metrics(), self._metadata()

    def _train_on(self, documents: Iterable[Document], count: _Count) -> None:
        kept = list(documents)
        if kept:
            count.writer.append(self._encoder.encode([document.text for document in kept]))
            count.documents += len(kept)
            count.num_bytes += sum(document.num_bytes for document in kept)

    def _place_candidates(self) -> None:
        """Writes held-out documents where they are measured, and gives the other candidates back to training."""
        chosen = self._heldout.decide()
        everywhere = frozenset[bytes]().union(*chosen.values())
        (self._folder / "heldout").mkdir(parents=True)
        for count in self._counts:
            name = count.source.name
            unseen = set(chosen.get(name, ()))
            with (self._folder / "heldout" / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for batch in _batches(self._heldout.candidates(name)):
                    self._train_on((document for document in batch if document.digest not in everywhere), count)
                    for document in batch:
                        if document.digest in unseen:
                            unseen.remove(document.digest)
                            file.write(_heldout_line(document, count.source.group))
                            count.heldout_documents += 1
                            count.heldout_bytes += document.num_bytes
                        elif document.digest in everywhere:
                            count.heldout_copies += 1
            if self._data.heldout_fraction and not count.heldout_documents:
                emit("note", text=f"mix: no document of {name} is held out; raise heldout_fraction to measure on it")

    def _index(self) -> DatasetIndex:
        return DatasetIndex(
            dtype=self._dtype,
            sequence_length=self._data.sequence_length,
            shard_sequences=self._shard_sequences,
            vocab_size=self._encoder.vocab_size,
            end_of_text_id=self._encoder.end_of_text_id,
            seed=self._data.seed,
            sources=[
                SourceIndex(
                    name=count.source.name,
                    group=count.source.group,
                    weight=self._shares[count.source.name],
                    max_epochs=count.source.max_epochs,
                    num_sequences=count.num_sequences,
                )
                for count in self._counts
            ],
        )

    def _metrics(self) -> dict[str, float]:
        tokens = sum(count.num_sequences for count in self._counts) * self._data.sequence_length
        return {
            "tokens": tokens,
            "documents": sum(count.documents for count in self._counts),
            "bytes": sum(count.num_bytes for count in self._counts),
            "tokens_per_second": round(tokens / self._seconds),
        }

    def _metadata(self) -> dict[str, Any]:
        return {
            "sources": {count.source.name: self._source_metadata(count) for count in self._counts},
            "vocab_size": self._encoder.vocab_size,
            "sequence_length": self._data.sequence_length,
            "seed": self._data.seed,
            "versions": {name: version(name) for name in ("lemur", "tokenizers")},
        }

    def _source_metadata(self, count: _Count) -> dict[str, Any]:
        return {
            "group": count.source.group,
            "weight": self._shares[count.source.name],
            "documents": count.documents,
            "tokens": count.num_sequences * self._data.sequence_length,
            "bytes": count.num_bytes,
            "dropped_tokens": count.dropped_tokens,
            "heldout_documents": count.heldout_documents,
            "heldout_bytes": count.heldout_bytes,
            "heldout_copies": count.heldout_copies,
            "empty_documents": count.tally.num_empty,
            **count.tally.metadata(),
        }


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yields the documents in groups of about `_BATCH_BYTES`."""
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += document.num_bytes
        if num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _heldout_line(document: Document, group: str | None) -> str:
    return json.dumps({"text": document.text, "group": group, "origin": document.origin}, ensure_ascii=False) + "\n"
