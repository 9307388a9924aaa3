"""Where a document of the sources went: into which sequences, or why it is in none.

What is stored of the decisions is their outcome: which documents are in sequences, held out, or contaminated. The
rest is derived from the digests of all texts, in the order in which `selection` decides.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc

from lemur.data.inspection.figures import Figures
from lemur.data.inspection.standing import Standing, document_standings
from lemur.data.inspection.stored import StoredPartitions
from lemur.dataset import TokenDataset
from lemur.dataset.layout import CONTAMINATED_NAME
from lemur.errors import RecipeError
from lemur.progress import task
from lemur.storage.base import in_parallel

_READS_AT_ONCE = 16
_PROGRESS_FROM_PARTITIONS = 64

State = Literal["kept", "heldout", "duplicate", "heldout_copy", "near_duplicate", "contaminated", "unreadable"]


class DocumentFate(Figures):
    """What became of one document."""

    origin: str
    """Where it stands in its source."""
    source: str
    """Name of the source."""
    state: State
    """Whether it is trained on, held out, or why it is neither."""
    reason: str
    """The same as a sentence."""
    documents: str | None
    """Prefix of the documents result that holds it, below the storage root; `None` where it was left out before."""
    row: int | None
    """Its row there."""
    tokens: int | None
    """Its length, its end-of-text token included."""
    standings: list[Standing]
    """Where its pieces are."""


class _Found(NamedTuple):
    partition: int
    row: int
    origin: str


class DocumentSearch:
    """Finds documents of a mixture by where they stand in their source.

    Args:
        dataset: The mixture.
        stored: Its partitions.
        folder: Folder with its held-out documents and the list of contaminated ones.
        metadata: Of its receipt.
    """

    def __init__(
        self, dataset: TokenDataset, stored: StoredPartitions, folder: Path, metadata: Mapping[str, Any]
    ) -> None:
        self._dataset, self._stored, self._folder, self._metadata = dataset, stored, folder, metadata
        self._heldout = {
            source.name: _json_lines(folder / "heldout" / f"{source.name}.jsonl") for source in dataset.index.sources
        }

    def find(self, origin: str) -> list[DocumentFate]:
        """Returns what became of the documents at an origin: more than one where several sources have it.

        Args:
            origin: `path`, `path:line` or `dataset#row`, whole or from some folder on.

        Raises:
            RecipeError: No source has a document there, or it was left out without being listed.
            IntegrityError: An object is missing or altered, named by its URI.
        """
        with _counter("search origins", len(self._stored.partitions)) as count:

            def look(number: int) -> list[_Found]:
                origins = self._stored.origins(number)
                matches = pc.or_(pc.equal(origins, origin), pc.ends_with(origins, f"/{origin}"))
                rows = np.flatnonzero(matches.to_numpy())
                count()
                return [_Found(number, int(row), origins[int(row)].as_py()) for row in rows]

            looked = in_parallel(look, range(len(self._stored.partitions)), _READS_AT_ONCE)
        found = [one for some in looked for one in some]
        exact = [one for one in found if one.origin == origin]
        fates = [self._fate(one) for one in exact or found] + self._contaminated(origin) + self._unreadable(origin)
        if not fates:
            raise RecipeError(self._not_found(origin))
        return fates

    def _fate(self, found: _Found) -> DocumentFate:
        partition = self._stored.partitions
        source = partition.source(found.partition)
        ends = self._stored.ends(found.partition)
        start = int(ends[found.row - 1]) if found.row else 0
        standings = document_standings(self._dataset, found.partition, found.row, start)
        state, reason = self._decision(found, source, standings)
        return DocumentFate(
            origin=found.origin,
            source=source,
            state=state,
            reason=reason,
            documents=partition.documents(found.partition),
            row=found.row,
            tokens=int(ends[found.row]) - start,
            standings=standings,
        )

    def _decision(self, found: _Found, source: str, standings: Sequence[Standing]) -> tuple[State, str]:
        if standings:
            number = f"{len(standings):,} sequence{'s' if len(standings) > 1 else ''}"
            return "kept", f"it is trained on, and stands in {number}"
        digest = self._stored.digests(found.partition)[found.row]
        copies = self._heldout_copies(digest.tobytes())
        if (source, found.origin) in copies:
            return "heldout", f"it is kept from training, to measure on: heldout/{source}.jsonl"
        if self._metadata["sources"][source]["duplicates"]:
            first = self._first_copy(digest, found)
            if first:
                held = ", which is held out" if first in copies else ""
                return "duplicate", f"its text stands earlier, at {first[1]} of {first[0]}{held}"
        if copies:
            return "heldout_copy", f"its text is held out, from {copies[0][1]} of {copies[0][0]}"
        # Every other reason is known by now.
        return "near_duplicate", "something almost the same stands earlier, or is held out"

    def _heldout_copies(self, digest: bytes) -> list[tuple[str, str]]:
        """Returns source and origin of each held-out document with the same text."""
        return [
            (source, document["origin"])
            for source, documents in self._heldout.items()
            for document in documents
            if hashlib.sha256(document["text"].encode()).digest().startswith(digest)
        ]

    def _first_copy(self, digest: Any, found: _Found) -> tuple[str, str] | None:
        """Returns source and origin of the first document with the same text, where that is another one."""
        with _counter("search earlier copies", found.partition + 1) as count:
            for number in range(found.partition + 1):
                rows = np.flatnonzero((self._stored.digests(number) == digest).all(axis=1))
                count()
                if len(rows) and (number, rows[0]) != (found.partition, found.row):
                    (origin,) = self._stored.origins_of(number, [int(rows[0])])
                    return self._stored.partitions.source(number), origin
        return None

    def _contaminated(self, origin: str) -> list[DocumentFate]:
        return [
            _listed(entry, "contaminated", f"it shares with {entry['benchmark']} the words: {entry['words']}")
            for entry in _json_lines(self._folder / CONTAMINATED_NAME)
            if _matches(entry["origin"], origin)
        ]

    def _unreadable(self, origin: str) -> list[DocumentFate]:
        """Returns what the receipt says of records that cannot be read; it lists the first of each source."""
        fates = []
        for name, source in self._metadata["sources"].items():
            for text in source.get("unreadable_first", []):
                place, _, reason = text.partition(": ")
                if _matches(place, origin):
                    fates.append(_listed({"origin": place, "source": name}, "unreadable", f"it is no text: {reason}"))
        return fates

    def _not_found(self, origin: str) -> str:
        sources = self._metadata["sources"].values()
        unlisted = {
            "empty": sum(source["empty_documents"] for source in sources),
            "unreadable": sum(source["unreadable"] for source in sources),
            "left out by filters": sum(
                dropped["documents"] for source in sources for dropped in source.get("dropped", {}).values()
            ),
        }
        counted = ", ".join(f"{number:,} {what}" for what, number in unlisted.items())
        (example,) = self._stored.origins_of(0, [0]) if self._stored.partitions.num_documents[0] else ("file.jsonl:7",)
        return (
            f"no document at {origin!r} among {int(self._stored.partitions.num_documents.sum()):,}; origins look like "
            f"{example!r}. Of the records that are not listed one by one there are {counted}"
        )


@contextmanager
def _counter(name: str, num_partitions: int) -> Iterator[Callable[[], None]]:
    """Shows the progress of a search that is long enough to wait for; threads may share the counter."""
    if num_partitions < _PROGRESS_FROM_PARTITIONS:
        yield lambda: None
        return
    lock = threading.Lock()
    with task(name, total=num_partitions, unit="partitions") as bar:

        def count() -> None:
            with lock:
                bar.advance()

        yield count


def _matches(origin: str, asked: str) -> bool:
    return origin == asked or origin.endswith(f"/{asked}")


def _listed(entry: Mapping[str, str], state: State, reason: str) -> DocumentFate:
    return DocumentFate(
        origin=entry["origin"],
        source=entry["source"],
        state=state,
        reason=reason,
        documents=None,
        row=None,
        tokens=None,
        standings=[],
    )


def _json_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
