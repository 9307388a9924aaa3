"""Which documents are kept from training.

A document is a candidate when its digest, read as a number in [0, 1), is below the fraction. Of each source's
candidates the ones with the smallest digests are held out, as many as fit the limit in bytes. Since digests alone
decide, a document stays on its side when others come or go, and copies of a held-out document, in whichever source,
are never trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Candidate(NamedTuple):
    """A document that may be held out."""

    digest: bytes
    """First half of the SHA-256 of its text."""
    num_bytes: int
    """Its text in UTF-8."""
    partition: int
    """Number of its partition."""
    row: int
    """Its row there."""


def uniform(digest: bytes, offset: int = 0) -> float:
    """Returns eight bytes of a digest as a number in [0, 1)."""
    return int.from_bytes(digest[offset : offset + 8], "big") / 2**64


def candidate_rows(digests: npt.NDArray[np.uint8], fraction: float) -> npt.NDArray[np.int64]:
    """Returns the rows of documents that may be held out.

    Args:
        digests: uint8 [n, 16].
        fraction: Share of all documents.
    """
    leading = np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0]
    return np.flatnonzero(leading / 2**64 < fraction)


def choose(candidates: Iterable[Candidate], max_bytes: int) -> list[Candidate]:
    """Returns the candidates with the smallest digests that fit together, each text once.

    Args:
        candidates: Those of one source.
        max_bytes: Most that is held out, in bytes of text.
    """
    chosen: list[Candidate] = []
    total, previous = 0, b""
    for candidate in sorted(candidates):
        if candidate.digest != previous and total + candidate.num_bytes <= max_bytes:
            chosen.append(candidate)
            total += candidate.num_bytes
        previous = candidate.digest
    return chosen
