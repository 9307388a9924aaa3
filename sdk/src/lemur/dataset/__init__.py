"""The token dataset: the index that mixing writes over stored documents, and the readers that training uses."""

from lemur.dataset.layout import (
    BLOCK_BYTES,
    INDEX_NAME,
    PARTITIONS_NAME,
    PIECE,
    DatasetIndex,
    SourceIndex,
    firsts_name,
    pieces_name,
    token_dtype,
)
from lemur.dataset.opening import CACHE_BYTES, open_dataset, storage_root
from lemur.dataset.partitions import PartitionRow, PartitionTable, write_partitions
from lemur.dataset.provenance import PieceOrigin, Provenance
from lemur.dataset.sequences import PackedPartition, write_sequences
from lemur.dataset.token_dataset import Sample, StoredPiece, TokenDataset
from lemur.dataset.tokens import MappedTokens, Span, TokenFiles

__all__ = [
    "BLOCK_BYTES",
    "CACHE_BYTES",
    "INDEX_NAME",
    "PARTITIONS_NAME",
    "PIECE",
    "DatasetIndex",
    "MappedTokens",
    "PackedPartition",
    "PartitionRow",
    "PartitionTable",
    "PieceOrigin",
    "Provenance",
    "Sample",
    "SourceIndex",
    "Span",
    "StoredPiece",
    "TokenDataset",
    "TokenFiles",
    "firsts_name",
    "open_dataset",
    "pieces_name",
    "storage_root",
    "token_dtype",
    "write_partitions",
    "write_sequences",
]
