"""The first step of mixing: the tokenizer, and the list of partitions to apply it to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lemur.data.cleaning.benchmark_texts import benchmarks_fingerprint
from lemur.data.cleaning.contamination import ContaminationIndex
from lemur.data.scratch import scratch_folder
from lemur.data.source import Partition
from lemur.data.tokenizer.making import SavedTokenizer, load_tokenizer, tokenizer_fingerprint, train_tokenizer
from lemur.data.tokenizer.sampling import sample_documents
from lemur.mixture import mixture_shares
from lemur.progress import task
from lemur.receipt import Receipt, digest_of, result_key
from lemur.recipe import DataSection, ModelSection, TrainedTokenizer
from lemur.results import fetch, write_result
from lemur.reuse import reuse
from lemur.storage.integrity import describe

LIST_NAME = "partitions.json"
"""Partitions result: the `PartitionList`."""
CONTAMINATION_NAME = "contamination.npz"
"""Partitions result: what documents must not share with benchmarks, where that is asked for."""
_NOT_READ = {"group", "weight", "max_epochs", "available_tokens", "available_records"}
"""Fields of a source that say nothing about its text."""
_WHERE = {"root", "patterns", "exclude"}
"""Fields of a source that say which files are read; a partition's fingerprint knows them by what is in them."""


class ListedPartition(BaseModel):
    """One partition of one source."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    source: str
    """Name of the source."""
    number: int
    """Its place among the source's partitions."""
    partition: Partition
    """What is read."""
    key: str
    """Key of its documents result: SHA-256 over all that decides what is in it."""

    @property
    def prefix(self) -> str:
        """Prefix of the documents result below the storage's root."""
        return f"documents/{self.key[:16]}"


class PartitionList(BaseModel):
    """Contents of `partitions.json`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    vocab_size: int
    """Entries of the tokenizer; every id is below."""
    end_of_text_id: int
    """Token that ends a document."""
    tokenizer: str
    """Digest of the tokenizer's files."""
    partitions: list[ListedPartition]
    """All of them, source by source in the recipe's order."""


def list_partitions(*, model: ModelSection, data: DataSection, storage: str) -> Receipt:
    """Makes the tokenizer and lists the partitions, or finds what was made before from the same sources and settings.

    Args:
        model: Its tokenizer is used.
        data: Sources, and what of them is left out.
        storage: Root URI of the recipe's storage.

    Returns:
        Receipt of kind `partitions`: the tokenizer, the list, and what documents must not share with benchmarks.

    Raises:
        RecipeError: A source cannot be found or, for the tokenizer, read; a benchmark cannot be read; or the tokenizer
            does not fit.
        StorageError: The storage or the scratch disk is full, cannot be reached or refuses.
    """
    with task("list partitions", total=len(data.sources), unit="sources") as bar:
        found: dict[str, list[Partition]] = {}
        for source in data.sources:
            found[source.name] = source.partitions(data.partition_bytes)
            bar.advance()
    decontamination = data.cleaning.decontamination
    benchmarks = benchmarks_fingerprint(decontamination) if decontamination else ""
    section = {
        "tokenizer": model.tokenizer.model_dump(mode="json"),
        "shares": mixture_shares(data) if isinstance(model.tokenizer, TrainedTokenizer) else {},
        "sources": [source.model_dump(mode="json", exclude=_NOT_READ) for source in data.sources],
        "documents": _document_settings(data),
    }
    key = result_key(
        "partition",
        section,
        {},
        partitions={name: [_identity(partition) for partition in found[name]] for name in found},
        tokenizer=tokenizer_fingerprint(model.tokenizer),
        benchmarks=benchmarks,
    )
    prefix = f"partitions/{key[:16]}"
    reused = reuse(storage, prefix, stage="partition")
    if reused:
        return reused
    with scratch_folder() as scratch:
        folder = scratch / "result"
        folder.mkdir()
        tokenizer = _tokenizer(model, data, found, folder / "tokenizer")
        writer = write_result(storage, prefix=prefix, kind="partitions", stage="partition", key=key, parents={})
        if decontamination:
            index = ContaminationIndex.build(decontamination.benchmarks, ngram_words=decontamination.ngram_words)
            index.save(folder / CONTAMINATION_NAME)
        digest = _folder_digest(folder / "tokenizer")
        listed = [
            ListedPartition(
                source=source.name,
                number=number,
                partition=partition,
                key=result_key(
                    "tokenize",
                    {
                        "source": source.model_dump(mode="json", exclude=_NOT_READ | _WHERE),
                        "documents": _document_settings(data),
                    },
                    {},
                    partition=partition.fingerprint,
                    tokenizer=digest,
                    benchmarks=benchmarks,
                ),
            )
            for source in data.sources
            for number, partition in enumerate(found[source.name])
        ]
        entries = PartitionList(
            vocab_size=tokenizer.vocab_size,
            end_of_text_id=tokenizer.end_of_text_id,
            tokenizer=digest,
            partitions=listed,
        )
        writer.add_bytes(LIST_NAME, entries.model_dump_json().encode())
        writer.add_folder(folder)
        metadata = {"sources": {name: len(partitions) for name, partitions in found.items()}}
        return writer.commit(metrics={"partitions": len(listed)}, metadata=metadata)


def read_partitions(receipt: Receipt, work: Path) -> tuple[PartitionList, Path]:
    """Returns the list of a partitions result, and the folder with the result's files.

    Args:
        receipt: The result.
        work: Folder for files that are not on this machine.
    """
    folder = fetch(receipt, work)
    return PartitionList.model_validate_json((folder / LIST_NAME).read_bytes()), folder


def num_workers(data: DataSection, partitions: Receipt) -> int:
    """Returns how many steps tokenize the partitions side by side."""
    return max(1, min(data.num_workers, int(partitions.metrics["partitions"])))


def _identity(partition: Partition) -> list[Any]:
    """Returns what a list of partitions depends on: a list that is found again must name the files where they are."""
    return [partition.fingerprint, [file.location for file in partition.files]]


def _document_settings(data: DataSection) -> dict[str, Any]:
    """Returns the settings that decide what a documents result holds, beside source and tokenizer."""
    cleaning = data.cleaning
    near, decontamination = cleaning.near_duplicates, cleaning.decontamination
    return {
        "heldout_fraction": data.heldout_fraction,
        "signatures": {**near.model_dump(mode="json", exclude={"threshold"}), **_signature_version()} if near else None,
        "ngram_words": decontamination.ngram_words if decontamination else None,
    }


def _signature_version() -> dict[str, int]:
    from lemur.data.cleaning.minhash import SIGNATURE_VERSION

    return {"version": SIGNATURE_VERSION}


def _tokenizer(
    model: ModelSection, data: DataSection, found: Mapping[str, list[Partition]], folder: Path
) -> SavedTokenizer:
    section = model.tokenizer
    if not isinstance(section, TrainedTokenizer):
        return load_tokenizer(section, folder)
    documents = sample_documents(
        data.sources,
        found,
        mixture_shares(data),
        sample_bytes=section.sample_bytes,
        first_uniform=data.heldout_fraction,
    )
    return train_tokenizer(section, (document.text for document in documents), folder)


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of([describe(path.relative_to(folder).as_posix(), path).model_dump() for path in files])
