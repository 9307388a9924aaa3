"""What is wrong with a recipe, in the words of its author: file, line, key, the bad value and the valid ones."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lemur.plugins import OneOf, discover
from lemur.recipe import Recipe
from lemur.recipe_yaml import Document, Key, did_you_mean, dotted, shortened


class _Place(NamedTuple):
    """Where in a recipe pydantic's location points."""

    key: Key
    """The same without the names of union members that pydantic puts in between."""
    model: type[BaseModel] | None
    """Section that has the key's last part as a field."""
    choices: dict[str, type[BaseModel]]
    """Variants by kind, where the place is a choice among them."""


def explain(error: ValidationError, document: Document, overrides: Mapping[str, str], keys: Mapping[str, Key]) -> str:
    """Returns every error of a recipe, one a line, in the order of the file.

    Args:
        error: What pydantic found.
        document: The file.
        overrides: Overridden values by name.
        keys: The key of each override.
    """
    messages: dict[tuple[int, str], list[str]] = {}
    for details in error.errors(include_url=False):
        place = _place(details["loc"])
        key = _key(details, place)
        message = _message(details, place)
        line, where = _where(key, document, overrides, keys)
        named = key and key not in keys.values() and not message.startswith(dotted(key))
        messages.setdefault((line, f"{where}: {dotted(key)}: " if named else f"{where}: "), []).append(message)
    # One place has several messages where none of several types fits.
    return "\n".join(f"{start}{'; or '.join(dict.fromkeys(texts))}" for (_, start), texts in sorted(messages.items()))


def _where(key: Key, document: Document, overrides: Mapping[str, str], keys: Mapping[str, Key]) -> tuple[int, str]:
    """Returns the line (0 for an override) and the place in words."""
    for name, overridden in keys.items():
        inside = key[: len(overridden)] == overridden
        if key and (inside or (overridden[: len(key)] == key and not document.has(key))):
            return 0, f"--set {name}={shortened(overrides[name])}"
    line = document.line(key)
    return line, f"{document.name}:{line}"


def _key(details: ErrorDetails, place: _Place) -> Key:
    if details["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return (*place.key, "kind")
    if not place.key and (named := re.search(r"[a-z_]+(?:\.[a-z_]+)+", details["msg"])):
        # A rule between sections: the first key it names is where to look.
        return tuple(named.group().split("."))
    return place.key


def _message(details: ErrorDetails, place: _Place) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    name = str(place.key[-1]) if place.key else ""
    if kind == "extra_forbidden" and place.model:
        known = list(place.model.model_fields)
        return f"no such setting{did_you_mean(name, known)}; known: {', '.join(known)}"
    if kind == "missing":
        return f"missing{_sentence(_description(place, name))}"
    if kind == "union_tag_invalid":
        tag = str(context["tag"])
        return (
            f"{tag!r} is not a known kind{did_you_mean(tag, place.choices)}; known: {', '.join(sorted(place.choices))}"
        )
    if kind == "union_tag_not_found":
        return f"missing; known: {', '.join(sorted(place.choices))}"
    if kind == "value_error":
        return str(context["error"])
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"{_shown(value)} should be a mapping of settings"
    message = re.sub(r"^(Input|String|List|Dictionary|Tuple|Set|Value)\b", lambda _: _shown(value), details["msg"])
    if kind == "string_pattern_mismatch":
        return message + _sentence(_description(place, name))
    return message + ("; put quotes around it" if kind == "string_type" and isinstance(value, int | float) else "")


def _description(place: _Place, name: str) -> str | None:
    field = place.model.model_fields.get(name) if place.model else None
    return field.description if field else None


def _sentence(description: str | None) -> str:
    return f" ({' '.join(description.split()).rstrip('.')})" if description else ""


def _shown(value: Any) -> str:
    if value is None:
        return "an empty value"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return shortened(repr(value))


def _place(location: tuple[str | int, ...]) -> _Place:
    """Follows pydantic's location through the recipe's types."""
    model: type[BaseModel] | None = None
    annotation: Any = Recipe
    key: list[str | int] = []
    for part in location:
        annotation, choices = _unwrapped(annotation)
        if part in choices:
            annotation = choices[str(part)]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
            key.append(part)
            annotation = _field(annotation, str(part))
        elif get_origin(annotation) in {list, dict}:
            key.append(part)
            annotation = get_args(annotation)[-1]
        elif isinstance(part, int):
            key.append(part)
    return _Place(tuple(key), model, _unwrapped(annotation)[1])


def _field(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields.get(name)
    if field is None:
        return Any
    choice = next((item for item in field.metadata if isinstance(item, OneOf)), None)
    return Annotated[field.annotation, choice] if choice else field.annotation


def _unwrapped(annotation: Any) -> tuple[Any, dict[str, type[BaseModel]]]:
    """Returns a type without `Annotated` and `None`, and its variants by kind where it is a choice."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for item in metadata:
            if isinstance(item, OneOf):
                return inner, dict(discover(item.folder))
        return _unwrapped(inner)
    if get_origin(annotation) in {Union, types.UnionType}:
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _unwrapped(members[0])
        variants = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        return annotation, {get_args(variant.model_fields["kind"].annotation)[0]: variant for variant in variants}
    return annotation, {}
