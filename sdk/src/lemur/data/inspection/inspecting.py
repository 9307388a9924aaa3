"""What `lemur data inspect` finds out about a token mixture."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from lemur.data.inspection.figures import Figures, SourceFigures, source_figures, stored_sequences, total_figures
from lemur.data.inspection.samples import SampleText, read_sample
from lemur.data.inspection.search import DocumentFate, DocumentSearch
from lemur.data.inspection.stored import StoredPartitions
from lemur.dataset import Provenance, TokenDataset, open_dataset, storage_root
from lemur.dataset.layout import CONTAMINATED_NAME
from lemur.errors import RecipeError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.results import fetch, read_manifest
from lemur.storage import Storage, open_storage

_RECEIPT_NAME = "receipts/tokens.json"


class Inspection(Figures):
    """A token mixture, as far as was asked."""

    uri: str
    """Where it stands."""
    digest: str
    """Digest of its content."""
    sequence_length: int
    """Tokens in a sequence, padding included."""
    packing: str
    """How documents fill sequences."""
    vocab_size: int
    """Entries of the tokenizer."""
    end_of_text: str
    """Token that ends a document, and that padding is made of."""
    seed: int
    """Seed of the order in each epoch."""
    counted_sequences: int
    """Sequences that shares, read tokens and epochs are counted over."""
    counted_over: str
    """What so many sequences are, in words."""
    sources: list[SourceFigures]
    """Its sources, in the recipe's order."""
    total: SourceFigures
    """All of them together."""
    samples: list[SampleText]
    """Sequences of its stream."""
    documents: list[DocumentFate]
    """What became of the documents that were asked for."""


class _Counted(NamedTuple):
    num_sequences: int
    words: str


class _Named(NamedTuple):
    receipt: Receipt
    run: Storage | None
    """Record of the run that was named, where it was one."""


def inspect_dataset(
    dataset: str, *, places: Sequence[int] = (), documents: Sequence[str] = (), tokens: int | None = None
) -> Inspection:
    """Looks at a token mixture. Of the tokens themselves, only what is shown is read.

    Args:
        dataset: A tokens result, or a run's record (`<storage>/runs/<name>`), which stands for its mixture; path or
            URI.
        places: Places of the training stream to show, counted from 0.
        documents: Origins of documents to find.
        tokens: Training tokens that shares and epochs are counted over; without it, those of the run or, for want of
            one, as many as are stored.

    Raises:
        RecipeError: There is no token mixture, or no such document.
        IntegrityError: An object is missing or altered, named by its URI.
        StorageError: The storage cannot be reached or refuses.
    """
    named = _find(dataset)
    receipt = named.receipt
    with tempfile.TemporaryDirectory(prefix="lemur-inspect-") as work:
        opened = open_dataset(receipt, Path(work), verify=False)
        folder = fetch(receipt, Path(work) / "tokens", ["tokenizer", "heldout", CONTAMINATED_NAME])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        counted = _counted(named, opened, tokens)
        sources = source_figures(receipt.metadata, counted.num_sequences)
        return Inspection(
            uri=receipt.uri,
            digest=receipt.digest,
            **opened.index.model_dump(include={"sequence_length", "packing", "vocab_size", "seed"}),
            end_of_text=tokenizer.id_to_token(opened.index.end_of_text_id),
            counted_sequences=counted.num_sequences,
            counted_over=counted.words,
            sources=sources,
            total=total_figures(sources),
            samples=_samples(opened, receipt, tokenizer, places, Path(work)),
            documents=_documents(opened, receipt, folder, documents),
        )


def _find(text: str) -> _Named:
    """Returns the mixture that a path or URI names."""
    storage = open_storage(text)
    if storage.exists(MANIFEST_NAME):
        receipt, run = read_manifest(storage.uri).receipt(storage.uri), None
    elif storage.exists(_RECEIPT_NAME):
        receipt, run = Receipt.model_validate_json(storage.read(_RECEIPT_NAME)), storage
    else:
        raise RecipeError(
            f"{storage.uri} holds no token mixture: there is no {MANIFEST_NAME} or {_RECEIPT_NAME}. Give a tokens "
            "result (<storage>/tokens/<key>) or a run's record (<storage>/runs/<name>)"
        )
    if receipt.kind != "tokens":
        raise RecipeError(
            f"{receipt.uri} is a result of kind {receipt.kind!r}, not a token mixture; give a tokens result "
            "(<storage>/tokens/<key>) or a run's record (<storage>/runs/<name>)"
        )
    return _Named(receipt, run)


def _counted(named: _Named, dataset: TokenDataset, tokens: int | None) -> _Counted:
    if tokens is not None:
        num_sequences = -(-tokens // dataset.sequence_length)
        return _Counted(num_sequences, f"{num_sequences * dataset.sequence_length:,} tokens of training")
    if named.run and named.run.exists("plan.json"):
        # A run that went on to pretraining read just what its plan says.
        planned = json.loads(named.run.read("plan.json"))["pretrain"]["num_sequences"]
        if planned:
            return _Counted(planned, f"the run's {planned * dataset.sequence_length:,} tokens of training")
    return _Counted(stored_sequences(named.receipt.metadata), "as many sequences as are stored")


def _samples(
    dataset: TokenDataset, receipt: Receipt, tokenizer: Tokenizer, places: Sequence[int], work: Path
) -> list[SampleText]:
    provenance = Provenance(dataset, storage_root(receipt), work / "documents")
    return [read_sample(dataset, provenance, tokenizer, place) for place in places]


def _documents(dataset: TokenDataset, receipt: Receipt, folder: Path, origins: Sequence[str]) -> list[DocumentFate]:
    if not origins:
        return []
    stored = StoredPartitions(storage_root(receipt), dataset.partitions)
    search = DocumentSearch(dataset, stored, folder, receipt.metadata)
    return [fate for origin in origins for fate in search.find(origin)]
