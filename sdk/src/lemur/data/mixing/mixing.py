"""The last step of mixing: which documents stay, how they fill sequences, and the index that says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemur.data.mixing.mixture_maker import MixtureMaker
from lemur.data.mixing.stored_documents import StoredDocuments
from lemur.data.partitions.listing import read_partitions
from lemur.data.scratch import scratch_folder
from lemur.mixture import mixture_shares
from lemur.receipt import Receipt, result_key
from lemur.recipe import DataSection
from lemur.results import write_result
from lemur.reuse import reuse
from lemur.storage.base import in_parallel

_FETCHES_AT_ONCE = 16


def mix_tokens(*, data: DataSection, partitions: Receipt, documents: Sequence[Receipt], storage: str) -> Receipt:
    """Makes the token mixture, or finds the one made before from the same documents and settings.

    No token is read or written: the mixture is an index over the documents results.

    Args:
        data: Shares, cleaning, packing and held-out documents.
        partitions: From `list_partitions`.
        documents: The documents result of every partition, in any order.
        storage: Root URI of the recipe's storage.

    Returns:
        Receipt of kind `tokens`: the tokenizer, the index, the held-out documents, and what was contaminated.

    Raises:
        RecipeError: Too many records of a source were unreadable.
        PlanError: A source holds no sequence, or its weight is too small.
        StorageError: The storage or the scratch disk is full, cannot be reached or refuses.
    """
    with scratch_folder() as scratch:
        listed, listed_folder = read_partitions(partitions, scratch / "partitions")
        made = {receipt.key: receipt for receipt in documents}
        ordered = [made[partition.key] for partition in listed.partitions]
        shares = mixture_shares(data)
        section = {
            "data": data.model_dump(
                mode="json", include={"sequence_length", "packing", "heldout_fraction", "heldout_max_bytes", "seed"}
            ),
            "cleaning": data.cleaning.model_dump(mode="json"),
            "sources": [[source.name, source.group, shares[source.name], source.max_epochs] for source in data.sources],
        }
        # What was unreadable or left out is judged and counted here, and shows in no document's content.
        contents = [[receipt.digest, receipt.metadata] for receipt in ordered]
        key = result_key("mix/tokens", section, {}, documents=contents, tokenizer=listed.tokenizer)
        prefix = f"tokens/{key[:16]}"
        found = reuse(storage, prefix, stage="mix")
        if found:
            return found
        stored = _opened(ordered, scratch)
        index = MixtureMaker(data, stored, scratch / "result").make(listed.vocab_size, listed.end_of_text_id)
        writer = write_result(storage, prefix=prefix, kind="tokens", stage="mix", key=key, parents={})
        writer.add_folder(listed_folder / "tokenizer", "tokenizer")
        writer.add_folder(scratch / "result", move=True)
        return writer.commit(metrics=index.metrics(), metadata=index.metadata())


def _opened(receipts: Sequence[Receipt], scratch: Path) -> list[StoredDocuments]:
    numbered = list(enumerate(receipts))
    return in_parallel(
        lambda item: StoredDocuments(item[1], scratch / "documents" / f"{item[0]:06d}"), numbered, _FETCHES_AT_ONCE
    )
