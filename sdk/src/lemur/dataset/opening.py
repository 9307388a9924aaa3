"""From the receipt of a token mixture to a dataset that reads it, wherever its parts are stored."""

from __future__ import annotations

from pathlib import Path

from lemur.dataset.block_cache import BlockCache
from lemur.dataset.layout import INDEX_NAME, PARTITIONS_NAME, SEQUENCES_FOLDER, TOKENS_NAME
from lemur.dataset.partitions import PartitionTable
from lemur.dataset.ranged import RangedTokens
from lemur.dataset.token_dataset import TokenDataset, read_index
from lemur.dataset.tokens import MappedTokens, TokenFiles
from lemur.receipt import Receipt
from lemur.results import fetch, manifest_of
from lemur.storage import open_storage
from lemur.storage.base import in_parallel

CACHE_BYTES = 16 * 2**30
"""What blocks from object storage may take on the local disk."""


def open_dataset(
    receipt: Receipt,
    work: Path,
    *,
    num_sequences: int | None = None,
    verify: bool = True,
    cache_bytes: int = CACHE_BYTES,
) -> TokenDataset:
    """Opens a token mixture: its tokens are mapped where they are files, and otherwise read in ranges.

    Args:
        receipt: The mixture.
        work: Local folder for what is downloaded; processes of one machine may share it.
        num_sequences: As for `TokenDataset`.
        verify: Whether to read all tokens once and compare them with their digests, where they are files. One process
            of a run does it. Ranges are verified as they are read, in any case.
        cache_bytes: What may be kept below `work` of tokens that are read in ranges.

    Raises:
        IntegrityError: An object is missing or altered; it is named, and its result marked, so that the next run
            makes it anew.
        PlanError: The run would read a source more often than its `max_epochs` allows.
        StorageError: The storage cannot be reached or refuses.
    """
    folder = fetch(receipt, work / "tokens", [INDEX_NAME, PARTITIONS_NAME, SEQUENCES_FOLDER])
    dtype, partitions = read_index(folder).dtype, PartitionTable(folder)
    root = storage_root(receipt)
    local_root = open_storage(root).local_path()
    tokens: TokenFiles
    if local_root:
        if verify:
            _verify(root, partitions, work)
        tokens = MappedTokens(local_root, partitions, dtype)
    else:
        tokens = RangedTokens(root, partitions, dtype, BlockCache(work / "blocks", cache_bytes))
    return TokenDataset(folder, tokens, num_sequences)


def storage_root(receipt: Receipt) -> str:
    """Returns the root URI of the storage that a mixture stands in, below which its documents stand too."""
    return receipt.uri.rsplit("/", 2)[0]


def _verify(root: str, partitions: PartitionTable, work: Path) -> None:
    """Reads the tokens of every partition once and compares them with the manifests."""

    def verify(number: int) -> None:
        uri = f"{root}/{partitions.documents(number)}"
        fetch(manifest_of(uri, partitions.digest(number)).receipt(uri), work, [TOKENS_NAME])

    in_parallel(verify, range(len(partitions)))
