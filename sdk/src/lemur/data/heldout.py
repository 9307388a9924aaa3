"""Which documents are kept from training.

A document is a candidate when its digest, read as a number in [0, 1), is below the fraction. Of each source's
candidates the ones with the smallest digests are held out, as many as fit the limit in bytes. Since digests alone
decide, a document stays on its side when others come or go, and copies of a held-out document, in whichever source,
are never trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lemur.data.reading import Document


def uniform(digest: bytes, offset: int = 0) -> float:
    """Returns eight bytes of a digest as a number in [0, 1)."""
    return int.from_bytes(digest[offset : offset + 8], "big") / 2**64


class Heldout:
    """Sets candidates aside until all sources are read, then says where each belongs.

    Args:
        folder: Scratch folder for the candidates' texts.
        fraction: Share of the documents that are candidates.
        max_bytes: Most that is held out of one source, in bytes of text.
    """

    def __init__(self, folder: Path, *, fraction: float, max_bytes: int) -> None:
        self.fraction = fraction
        self._folder, self._max_bytes = folder, max_bytes
        self._candidates: dict[str, list[Document]] = {}

    def is_candidate(self, document: Document) -> bool:
        """Says whether a document might be held out."""
        return uniform(document.digest) < self.fraction

    def set_aside(self, source: str, documents: Iterable[Document]) -> None:
        """Keeps candidates of a source, in their order."""
        known = self._candidates.setdefault(source, [])
        with self._path(source).open("a", encoding="utf-8") as file:
            for document in documents:
                file.write(json.dumps(document.text) + "\n")
                known.append(document._replace(text=""))

    def decide(self) -> dict[str, set[bytes]]:
        """Returns the digests that are held out of each source, once all candidates are known."""
        return {source: self._smallest(candidates) for source, candidates in self._candidates.items()}

    def candidates(self, source: str) -> Iterator[Document]:
        """Yields a source's candidates in their order."""
        known = self._candidates.get(source)
        if known:
            with self._path(source).open(encoding="utf-8") as file:
                for document, line in zip(known, file, strict=True):
                    yield document._replace(text=json.loads(line))

    def _smallest(self, candidates: list[Document]) -> set[bytes]:
        chosen, total = set(), 0
        for digest, num_bytes in sorted({(document.digest, document.num_bytes) for document in candidates}):
            if total + num_bytes <= self._max_bytes:
                chosen.add(digest)
                total += num_bytes
        return chosen

    def _path(self, source: str) -> Path:
        return self._folder / f"{source}.jsonl"
