"""What every filter of documents has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lemur.plugins import Plugin


class Filter(Plugin, abstract=True):
    """A condition that a document must meet; what does not is left out and counted under the filter's kind."""

    @abstractmethod
    def keeps(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Says whether a document is kept.

        Args:
            text: The document, not empty.
            fields: All values of its record, the text among them under `text`.
        """

    def fields(self) -> tuple[str, ...]:
        """Returns the record's fields that are looked at, other than the text; a source need not read more."""
        return ()
