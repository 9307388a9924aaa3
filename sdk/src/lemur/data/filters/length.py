"""Documents of a certain length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from lemur.data.filter import Filter


class LengthFilter(Filter):
    """Keeps documents that are neither too short nor too long."""

    kind: Literal["length"]
    minimum_characters: NonNegativeInt = 0
    """Shortest document that is kept."""
    maximum_characters: PositiveInt | None = None
    """Longest document that is kept; `None` sets no limit."""

    def keeps(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Says whether the document's length is within the limits."""
        return self.minimum_characters <= len(text) <= (self.maximum_characters or len(text))
