"""Which documents the mixture holds: what the whole corpus decides, once every partition is tokenized.

In this order: the first copy of each text stays; of what stays, some is held out for measuring, and its copies are left
out everywhere; then what is almost the same as something held out or kept earlier is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.data.cleaning.exact_duplicates import first_occurrences, is_member
from lemur.data.cleaning.near_duplicates import later_near_duplicates
from lemur.data.mixing.heldout import Candidate, candidate_rows, choose
from lemur.data.mixing.stored_documents import MappedColumns, StoredDocuments
from lemur.recipe import DataSection

Flags = npt.NDArray[np.bool_]


@dataclass
class Left:
    """How many documents of a partition are not trained on, and why."""

    duplicates: int = 0
    """Their text stands earlier."""
    near_duplicates: int = 0
    """Something almost the same stands earlier, or is held out."""
    heldout_copies: int = 0
    """Their text is held out elsewhere."""


class Selection(NamedTuple):
    """What is trained on, and what is measured on."""

    kept: list[Flags]
    """For each partition, [n]: true for a document that is trained on."""
    left: list[Left]
    """For each partition, how many are not."""
    heldout: dict[str, list[Candidate]]
    """Documents that are held out, by the name of their source; each source of the partitions is there."""


def select(partitions: Sequence[StoredDocuments], data: DataSection) -> Selection:
    """Decides on every document.

    Args:
        partitions: All partitions, source by source in the recipe's order; earlier ones win over later ones.
        data: The recipe's section.
    """
    left = [Left() for _ in partitions]
    digests = MappedColumns([partial(getattr, partition, "digests") for partition in partitions])
    kept = [np.ones(len(partition), dtype=np.bool_) for partition in partitions]
    if data.cleaning.exact_duplicates:
        kept = first_occurrences(digests)
        for count, flags in zip(left, kept, strict=True):
            count.duplicates = int(np.count_nonzero(~flags))
    heldout = _held_out(partitions, kept, data)
    chosen = [candidate for candidates in heldout.values() for candidate in candidates]
    if chosen:
        everywhere = np.frombuffer(b"".join(candidate.digest for candidate in chosen), np.uint8).reshape(-1, 16)
        for number, flags in enumerate(kept):
            copies = is_member(digests[number], everywhere) & flags
            flags &= ~copies
            left[number].heldout_copies = int(copies.sum()) - sum(one.partition == number for one in chosen)
    if data.cleaning.near_duplicates:
        # Held-out documents come first, so that nothing like them is trained on.
        first = np.array([partitions[one.partition].signatures[one.row] for one in chosen], dtype=np.uint32)
        first = first.reshape(-1, data.cleaning.near_duplicates.num_permutations)
        found = later_near_duplicates(
            MappedColumns([lambda: first, *(partial(getattr, partition, "signatures") for partition in partitions)]),
            [np.ones(len(first), dtype=np.bool_), *kept],
            data.cleaning.near_duplicates,
            num_fixed=len(first),
        )
        for count, flags, near in zip(left, kept, found.left_out[1:], strict=True):
            count.near_duplicates = int(np.count_nonzero(near & flags))
            flags &= ~near
    return Selection(kept, left, heldout)


def _held_out(
    partitions: Sequence[StoredDocuments], kept: Sequence[Flags], data: DataSection
) -> dict[str, list[Candidate]]:
    candidates: dict[str, list[Candidate]] = {partition.source: [] for partition in partitions}
    for number, (partition, flags) in enumerate(zip(partitions, kept, strict=True)):
        rows = candidate_rows(partition.digests, data.heldout_fraction)
        rows = rows[flags[rows]]
        if len(rows):
            digests, sizes = partition.digests[rows], partition.num_bytes[rows]
            candidates[partition.source] += [
                Candidate(digest.tobytes(), int(size), number, int(row))
                for digest, size, row in zip(digests, sizes, rows, strict=True)
            ]
    return {source: choose(found, data.heldout_max_bytes) for source, found in candidates.items()}
