"""The index that is a token mixture: sequences of each source, partitions, held-out documents, and all counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lemur.data.mixing.packing import Packed, pack
from lemur.data.mixing.selection import Left, Selection, select
from lemur.data.mixing.stored_documents import StoredDocuments
from lemur.data.reading.documents import Tally
from lemur.dataset.layout import CONTAMINATED_NAME, INDEX_NAME, DatasetIndex, SourceIndex, token_dtype
from lemur.dataset.partitions import PartitionRow, write_partitions
from lemur.dataset.sequences import write_sequences
from lemur.mixture import mixture_shares
from lemur.progress import emit, task
from lemur.recipe import DataSection

_MUCH_PADDING = 0.01
_NUM_LENGTHS = 32


@dataclass
class _Count:
    """What becomes of one source's documents."""

    partitions: list[int] = field(default_factory=list)
    """Numbers of its partitions."""
    num_sequences: list[int] = field(default_factory=list)
    """Sequences of each partition."""
    documents: int = 0
    tokens: int = 0
    num_bytes: int = 0
    padding_tokens: int = 0
    cut_documents: int = 0
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_NUM_LENGTHS, dtype=np.int64))
    """Entry k: documents of 2**k up to 2**(k + 1) tokens."""
    left: Left = field(default_factory=Left)
    contaminated: int = 0
    tally: Tally = field(default_factory=Tally)
    heldout_documents: int = 0
    heldout_bytes: int = 0


class MixtureMaker:
    """One mixture in the making: `make` it, then ask for its figures.

    Args:
        data: The recipe's section.
        stored: All partitions, source by source in the recipe's order.
        folder: Where the mixture's files go.

    Raises:
        RecipeError: Too many records of a source were unreadable.
    """

    def __init__(self, data: DataSection, stored: list[StoredDocuments], folder: Path) -> None:
        self._data, self._stored, self._folder = data, stored, folder
        self._shares = mixture_shares(data)
        self._counts = {source.name: _Count() for source in data.sources}
        for number, partition in enumerate(stored):
            count = self._counts[partition.source]
            count.partitions.append(number)
            count.contaminated += partition.num_contaminated
            count.tally.merge(partition.tally)
        for name, count in self._counts.items():
            count.tally.check(name, data.cleaning.max_unreadable)
        folder.mkdir()

    def make(self, vocab_size: int, end_of_text_id: int) -> MixtureMaker:
        """Writes the mixture's files.

        Args:
            vocab_size: Entries of the tokenizer.
            end_of_text_id: Token that ends a document.

        Returns:
            This maker, which now knows the figures of the receipt.

        Raises:
            PlanError: A source holds no sequence, or its weight is too small.
        """
        with task("mix", total=len(self._stored), unit="partitions") as bar:
            selection = select(self._stored, self._data)
            for name, count in self._counts.items():
                packed = (self._packed(number, count, selection) for number in count.partitions)
                count.num_sequences = write_sequences(self._folder, name, packed)
                bar.advance(len(count.partitions))
        self._index = self._indexed(vocab_size, end_of_text_id)
        self._index.mixture()  # Refuses sources that cannot be mixed, before anything is stored.
        (self._folder / INDEX_NAME).write_text(self._index.model_dump_json(indent=2), encoding="utf-8")
        write_partitions(self._folder, self._rows())
        self._write_heldout(selection)
        self._write_contaminated()
        self._remark()
        return self

    def _packed(self, number: int, count: _Count, selection: Selection) -> Packed:
        """Packs what stays of a partition, and counts it."""
        partition, kept, left = self._stored[number], selection.kept[number], selection.left[number]
        ends = np.asarray(partition.ends)
        lengths = np.diff(ends, prepend=np.uint64(0))
        rows = np.flatnonzero(kept)
        packed = pack(
            (ends - lengths)[rows],
            lengths[rows].astype(np.int64),
            rows.astype(np.uint32),
            sequence_length=self._data.sequence_length,
            packing=self._data.packing,
        )
        count.documents += len(rows)
        count.tokens += packed.num_tokens
        count.num_bytes += int(partition.num_bytes[rows].sum())
        count.padding_tokens += packed.num_padding_tokens
        count.cut_documents += packed.num_cut_documents
        count.lengths += np.bincount(np.log2(lengths[rows]).astype(np.int64), minlength=_NUM_LENGTHS)
        count.left.duplicates += left.duplicates
        count.left.near_duplicates += left.near_duplicates
        count.left.heldout_copies += left.heldout_copies
        return packed

    def _rows(self) -> Iterator[PartitionRow]:
        for name, count in self._counts.items():
            for number, num_sequences in zip(count.partitions, count.num_sequences, strict=True):
                receipt = self._stored[number].receipt
                yield PartitionRow(
                    name,
                    "/".join(receipt.uri.split("/")[-2:]),
                    receipt.digest,
                    num_sequences,
                    int(receipt.metrics["tokens"]),
                    int(receipt.metrics["documents"]),
                )

    def _write_heldout(self, selection: Selection) -> None:
        (self._folder / "heldout").mkdir()
        for source in self._data.sources:
            count, chosen = self._counts[source.name], selection.heldout.get(source.name, [])
            count.heldout_documents = len(chosen)
            count.heldout_bytes = sum(candidate.num_bytes for candidate in chosen)
            with (self._folder / "heldout" / f"{source.name}.jsonl").open("w", encoding="utf-8") as file:
                for number in count.partitions:
                    rows = {candidate.row for candidate in chosen if candidate.partition == number}
                    if not rows:
                        continue
                    partition = self._stored[number]
                    texts = [(row, text) for row, text in partition.candidate_texts() if row in rows]
                    origins = partition.origins(np.array([row for row, _ in texts], dtype=np.int64))
                    for (_, text), origin in zip(texts, origins, strict=True):
                        line = {"text": text, "group": source.group, "origin": origin}
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _write_contaminated(self) -> None:
        with (self._folder / CONTAMINATED_NAME).open("w", encoding="utf-8") as file:
            for partition in self._stored:
                for entry in partition.contaminated():
                    file.write(json.dumps({"source": partition.source, **entry}, ensure_ascii=False) + "\n")

    def _remark(self) -> None:
        for name, count in self._counts.items():
            if self._data.heldout_fraction and not count.heldout_documents:
                emit("note", text=f"mix: no document of {name} is held out; raise heldout_fraction to measure on it")
            share = count.padding_tokens / (count.padding_tokens + count.tokens)
            # The last sequence of a partition is rarely full, whatever the packing.
            unavoidable = self._data.sequence_length * len(count.partitions)
            if share > _MUCH_PADDING and count.padding_tokens > unavoidable:
                emit(
                    "note",
                    text=f"mix: {share:.1%} of the sequences of {name} is padding, since its documents' lengths do not "
                    "fit together; set data.packing to concatenate, or raise data.partition_bytes",
                )

    def _indexed(self, vocab_size: int, end_of_text_id: int) -> DatasetIndex:
        return DatasetIndex(
            dtype=token_dtype(vocab_size),
            sequence_length=self._data.sequence_length,
            packing=self._data.packing,
            vocab_size=vocab_size,
            end_of_text_id=end_of_text_id,
            seed=self._data.seed,
            sources=[
                SourceIndex(
                    name=source.name,
                    group=source.group,
                    weight=self._shares[source.name],
                    max_epochs=source.max_epochs,
                    num_sequences=sum(self._counts[source.name].num_sequences),
                    num_tokens=self._counts[source.name].tokens,
                    num_documents=self._counts[source.name].documents,
                )
                for source in self._data.sources
            ],
        )

    def metrics(self) -> dict[str, float]:
        """Returns the figures of the receipt."""
        counts = self._counts.values()
        seconds = sum(
            receipt.metrics["tokens"] / max(receipt.metrics["tokens_per_second"], 1)
            for receipt in (partition.receipt for partition in self._stored)
        )
        return {
            "tokens": sum(count.tokens for count in counts),
            "documents": sum(count.documents for count in counts),
            "bytes": sum(count.num_bytes for count in counts),
            "tokens_per_second": round(sum(count.tokens for count in counts) / max(seconds, 1e-9)),
        }

    def metadata(self) -> dict[str, Any]:
        """Returns what else the receipt says."""
        return {
            "sources": {source.name: self._source_metadata(source.name, source.group) for source in self._data.sources},
            "vocab_size": self._index.vocab_size,
            "sequence_length": self._data.sequence_length,
            "packing": self._data.packing,
            "seed": self._data.seed,
            "versions": {name: version(name) for name in ("lemur", "tokenizers", "fastokens")},
        }

    def _source_metadata(self, name: str, group: str | None) -> dict[str, Any]:
        count = self._counts[name]
        return {
            "group": group,
            "weight": self._shares[name],
            "partitions": len(count.partitions),
            "documents": count.documents,
            "tokens": count.tokens,
            "bytes": count.num_bytes,
            "sequences": sum(count.num_sequences),
            "padding_tokens": count.padding_tokens,
            "cut_documents": count.cut_documents,
            "token_lengths": np.trim_zeros(count.lengths, "b").tolist(),
            "duplicates": count.left.duplicates,
            "near_duplicates": count.left.near_duplicates,
            "contaminated": count.contaminated,
            "heldout_documents": count.heldout_documents,
            "heldout_bytes": count.heldout_bytes,
            "heldout_copies": count.left.heldout_copies,
            "empty_documents": count.tally.num_empty,
            **count.tally.metadata(),
        }
