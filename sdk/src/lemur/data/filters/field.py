"""Documents whose record says the right thing: licence, language, origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from lemur.data.filter import Filter


class FieldFilter(Filter):
    """Keeps documents that have one of certain values in a field of their record."""

    kind: Literal["field"]
    field: Annotated[str, Field(min_length=1)]
    """Field of the record, such as `max_stars_repo_licenses`; a dot leads into an object, as in `meta.language`."""
    values: Annotated[tuple[str, ...], Field(min_length=1)]
    """Values that are right, written as in the record; numbers and truth values as JSON writes them."""
    match: Literal["all", "any"] = "all"
    """How many values of a field that is a list must be right: `all` of them or `any` one."""
    missing: Literal["drop", "keep"] = "drop"
    """What becomes of documents where the field is not there, null or an empty list."""

    def keeps(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Says whether the field's value is one of the right ones."""
        value = self._value(fields)
        values = value if isinstance(value, list) else [value]
        found = [_as_text(each) for each in values if each is not None]
        if not found:
            return self.missing == "keep"
        right = (each in self.values for each in found)
        return all(right) if self.match == "all" else any(right)

    def fields(self) -> tuple[str, ...]:
        """Returns the field, and the object it may be in."""
        return (self.field, self.field.partition(".")[0])

    def _value(self, fields: Mapping[str, Any]) -> Any:
        if self.field in fields:
            return fields[self.field]
        value: Any = fields
        for name in self.field.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
