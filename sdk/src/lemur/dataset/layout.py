"""What documents and token mixtures look like in storage: names of objects, records, and the index.

Text is tokenized once, partition by partition, into `documents` results that never change. A `tokens` result is an
index over them: for each source the pieces of documents that make up its sequences, the partitions they are cut
from, and in `dataset.json` how the sources are mixed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lemur.mixture import Mixture

DOCUMENTS_FOLDER = "documents"
"""Folder of documents results below the storage root."""
TOKENS_NAME = "tokens.bin"
"""Documents result: ids of all documents one after another, each document ended by the end-of-text id."""
ENDS_NAME = "ends.npy"
"""Documents result: uint64 [num_documents], where each document ends in the tokens, its end-of-text id included."""
DIGESTS_NAME = "digests.npy"
"""Documents result: uint8 [num_documents, 16], first half of the SHA-256 of each document's UTF-8 text."""
ORIGINS_NAME = "origins.parquet"
"""Documents result: `origin` (string) and `num_bytes` (uint32), one row a document."""
BLOCKS_NAME = "blocks.npy"
"""Documents result: uint32, zlib.crc32 of each `BLOCK_BYTES` of the tokens; the last block may be shorter."""
MINHASH_NAME = "minhash.npy"
"""Documents result: signatures, [num_documents, num_permutations], where near-duplicates are looked for."""
CANDIDATES_NAME = "candidates.jsonl"
"""Documents result: row and text of each document that may be held out."""
CONTAMINATED_NAME = "contaminated.jsonl"
"""Documents and tokens result: documents that were left out because they hold parts of a benchmark."""

INDEX_NAME = "dataset.json"
"""Tokens result: the `DatasetIndex`."""
PARTITIONS_NAME = "partitions.parquet"
"""Tokens result: the `PartitionTable`."""
SEQUENCES_FOLDER = "sequences"
"""Tokens result: folder of each source's pieces and firsts."""

BLOCK_BYTES = 131_072
"""Bytes of tokens that one checksum covers, and that a ranged read fetches at once."""

PIECE = np.dtype([("start", "<u8"), ("length", "<u4"), ("document", "<u4")])
"""A part of a sequence: `length` tokens of the partition from `start`, out of the document in row `document`."""

FIRST = np.dtype("<u8")
"""Index of a sequence's first piece; one more at the end counts all pieces."""

Dtype = Literal["<u2", "<u4"]
"""NumPy's name of the stored integers."""


class SourceIndex(BaseModel):
    """What the dataset holds of one source."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the source, and of the folder of its sequences."""
    group: str | None
    """Its group, where the recipe has groups."""
    weight: float
    """Its share of the stream, 0 to 1."""
    max_epochs: float | None
    """How often its tokens may be read at most; `None` sets no limit."""
    num_sequences: int
    """Sequences."""
    num_tokens: int
    """Tokens in them, padding not counted."""
    num_documents: int
    """Documents in them."""


class DatasetIndex(BaseModel):
    """Contents of `dataset.json`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    format: Literal["lemur/tokens/v2"] = "lemur/tokens/v2"
    """Version of this layout."""
    dtype: Dtype
    """NumPy's name of the stored integers."""
    sequence_length: int
    """Tokens in a sequence, padding included."""
    packing: Literal["best_fit", "concatenate"]
    """How documents fill sequences."""
    vocab_size: int
    """Entries of the tokenizer; every id is below."""
    end_of_text_id: int
    """Token that ends a document, and that padding is made of."""
    seed: int
    """Seed of the order in each epoch."""
    sources: list[SourceIndex]
    """The sources, in the order of the recipe."""

    def mixture(self) -> Mixture:
        """Returns the interleave of the sources."""
        return Mixture([(source.name, source.weight, source.num_sequences) for source in self.sources], self.seed)


def pieces_name(source: str) -> str:
    """Returns the object of the tokens result with a source's pieces: `PIECE` records in order of the sequences."""
    return f"{SEQUENCES_FOLDER}/{source}/pieces.bin"


def firsts_name(source: str) -> str:
    """Returns the object of the tokens result with the first piece of each sequence: `FIRST` [num_sequences + 1]."""
    return f"{SEQUENCES_FOLDER}/{source}/firsts.bin"


def token_dtype(vocab_size: int) -> Dtype:
    """Returns the smallest stored integer that holds every token id."""
    return "<u2" if vocab_size <= 2**16 else "<u4"
