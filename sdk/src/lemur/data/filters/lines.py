"""Documents whose lines look written by people."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from lemur.data.filter import Filter

_ASCII_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


class LinesFilter(Filter):
    """Keeps documents that are neither data nor generated, to judge by their lines: meant for code.

    Codex left out files by mean and longest line and by the share of letters and digits (Chen et al. 2021, arXiv
    2107.03374, section 3.1, which gives the first two thresholds); The Stack's authors did the same with the
    thresholds that are the defaults here (bigcode-dataset, `preprocessing`, "basic" filter). As there, lines end where
    Python's `splitlines` ends them, and are counted in characters.
    """

    kind: Literal["lines"]
    maximum_mean_length: PositiveFloat = 100.0
    """Longest mean line, in characters."""
    maximum_length: PositiveInt = 1000
    """Longest line, in characters."""
    minimum_alphanumeric: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Smallest share of letters and digits among all characters."""
    minimum_lines: PositiveInt = 1
    """Fewest lines."""

    def keeps(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Says whether lines and characters are within the limits."""
        lengths = list(map(len, text.splitlines()))
        return (
            len(lengths) >= self.minimum_lines
            and max(lengths) <= self.maximum_length
            and sum(lengths) <= self.maximum_mean_length * len(lengths)
            and _num_alphanumeric(text) >= self.minimum_alphanumeric * len(text)
        )


def _num_alphanumeric(text: str) -> int:
    """Counts as `str.isalnum` does, but ASCII all at once."""
    plain = text.encode("ascii", "ignore")
    others = 0 if text.isascii() else sum(map(str.isalnum, "".join(_BEYOND_ASCII.findall(text))))
    return len(plain) - len(plain.translate(None, _ASCII_ALPHANUMERIC)) + others
