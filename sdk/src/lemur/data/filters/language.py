"""Documents in certain languages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, StringConstraints

from lemur.data.filter import Filter
from lemur.errors import RecipeError

LanguageCode = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]
"""ISO 639 code: two letters where there are two."""


class LanguageFilter(Filter):
    """Keeps documents in certain human languages, as py3langid detects them; its model comes with it."""

    kind: Literal["language"]
    languages: Annotated[tuple[LanguageCode, ...], Field(min_length=1)]
    """Languages that are kept, as ISO 639 codes: `en`, `de`, `zh`."""
    minimum_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How probable these languages must be together; a text of a few words is never very probably anything."""
    characters: PositiveInt = 1000
    """Characters at the beginning that are looked at: a thousand of them take about a fifth of a millisecond."""

    def keeps(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Says whether the beginning of the text is in one of the languages.

        Raises:
            RecipeError: py3langid does not know one of them.
        """
        probabilities: dict[str, float] = dict(_identifier().rank(text[: self.characters]))
        unknown = [code for code in self.languages if code not in probabilities]
        if unknown:
            raise RecipeError(
                f"the filter `language` does not know {unknown[0]!r}; it knows {', '.join(sorted(probabilities))}"
            )
        return sum(probabilities[code] for code in self.languages) >= self.minimum_probability


@functools.cache
def _identifier() -> Any:
    """Loads the model, once in a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
