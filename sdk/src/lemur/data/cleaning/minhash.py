"""MinHash signatures: a few hundred bytes from which the likeness of two documents can be told.

The share of places in which two signatures agree estimates the Jaccard similarity J of the documents' n-grams, without
bias and with a standard error of at most the square root of J (1 - J) / num_permutations. They are rensa's R-MinHash,
after Dahlgaard, Knudsen and Thorup, "Fast similarity sketching" (arXiv 1704.04370): the same in every process and on
any number of threads, and for a document the same whatever stands beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from lemur.data.cleaning.ngrams import Hashes, Positions, Words, blocks
from lemur.recipe.data import NearDuplicates

Signatures = npt.NDArray[np.uint32]

SIGNATURE_VERSION: int = RMinHash.ALGORITHM_VERSION
"""Signatures of different versions cannot be compared: a part of the key of what holds them."""
_SEED = 1


def signatures(texts: Sequence[str], section: NearDuplicates) -> Signatures:
    """Computes the signatures of documents; each depends on its text and the section alone.

    A document of fewer words than an n-gram has is one n-gram. One without any word is like none but itself.

    Args:
        texts: The documents, not empty.
        section: What an n-gram is, and how long a signature.

    Returns:
        [num_texts, num_permutations].
    """
    found = np.empty((len(texts), section.num_permutations), dtype=np.uint32)
    begun: dict[int, list[Hashes]] = {}
    for first, words in blocks(texts, overlap_words=section.ngram_words - 1):
        hashes, offsets = _ngrams(words, texts[first : first + words.num_texts], section.ngram_words)
        if words.num_texts == 1:
            # The text may go on in the next block.
            begun.setdefault(first, []).append(hashes)
        else:
            found[first : first + words.num_texts] = _minhash(hashes, offsets, section)
    for number, parts in begun.items():
        hashes = np.concatenate(parts)
        found[number] = _minhash(hashes, np.array([0, len(hashes)]), section)[0]
    return found


def _ngrams(words: Words, texts: Sequence[str], ngram_words: int) -> tuple[Hashes, Positions]:
    """Returns the hashes of the n-grams of each text, one text's after another's, and where each begins."""
    num_words = np.diff(words.offsets)
    counts = np.maximum(num_words - ngram_words + 1, 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    found = np.empty(offsets[-1], dtype=np.uint64)
    is_long = num_words >= ngram_words
    found[np.repeat(is_long, counts)] = words.hashes(ngram_words)[words.is_within(ngram_words)]
    short = np.flatnonzero(~is_long & (num_words > 0))
    found[offsets[short]] = words.stretch_hashes(words.offsets[short], words.offsets[short + 1] - 1)
    for wordless in np.flatnonzero(num_words == 0).tolist():
        found[offsets[wordless]] = int.from_bytes(hashlib.sha256(texts[wordless].encode()).digest()[:8], "big")
    return found, offsets


def _minhash(hashes: Hashes, offsets: Positions, section: NearDuplicates) -> Signatures:
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), section.num_permutations, _SEED
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)
