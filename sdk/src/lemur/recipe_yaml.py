"""The YAML of a recipe: read with positions, so that every message can name a line.

Scalars are what YAML 1.2 says they are, which is also what editors check: `4e-5` is a number, `no` is a string,
`1:30` is not sixty times something. Underscores may part the digits of a whole number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lemur.errors import RecipeError

Key = tuple[str | int, ...]
"""Place in a recipe: field names and positions in lists, from the outside in."""


class RecipeLoader(yaml.SafeLoader):
    """Safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    RecipeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


class Document(NamedTuple):
    """A recipe file as it was read."""

    name: str
    """The file, as the user named it."""
    root: yaml.MappingNode
    """Its node tree."""
    data: dict[str, Any]
    """Its values."""

    def line(self, key: Key) -> int:
        """Returns the line of a key, from 1; of the nearest thing around it where the file does not have it."""
        node: yaml.Node = self.root
        line = 1
        for part in key:
            found = _child(node, part)
            if found is None:
                break
            node, line = found.value, found.line
        return line

    def has(self, key: Key) -> bool:
        """Says whether the file has a key."""
        node: yaml.Node = self.root
        for part in key:
            found = _child(node, part)
            if found is None:
                return False
            node = found.value
        return True


class _Child(NamedTuple):
    value: yaml.Node
    line: int


def _child(node: yaml.Node, part: str | int) -> _Child | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return _Child(node.value[part], node.value[part].start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        # The last one counts: what a merge brings in stands before the mapping's own keys.
        for name, value in reversed(node.value):
            if name.value == str(part):
                return _Child(value, name.start_mark.line + 1)
    return None


def dotted(key: Sequence[str | int]) -> str:
    """Returns a key as it is written in messages and overrides: `data.sources[1].kind`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def shortened(text: str) -> str:
    """Returns a text that fits into a message."""
    return text if len(text) <= 60 else f"{text[:59]}…"


def read_document(path: Path) -> Document:
    """Reads a recipe file.

    Raises:
        RecipeError: There is no such file, it is not YAML, it names a key twice, or it is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file{_nearby(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a text file: {error}") from None
    try:
        loader = RecipeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(
                f"{path}:1: a recipe is a mapping of sections (`name: …`, `model: …`); this is {_what(root)}"
            )
        repeated = [f"{path}:{line}: {words}" for line, words in _repeated_keys(root)]
        if repeated:
            raise RecipeError("\n".join(repeated))
        data = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{path}:{line}: not valid YAML: the character {chr(error.character)!r}") from None
    return Document(str(path), root, data)


def read_value(text: str) -> Any:
    """Reads one value as a recipe file would.

    Raises:
        yaml.YAMLError: The text is not YAML.
    """
    return yaml.load(text, RecipeLoader)


def _what(node: yaml.Node | None) -> str:
    if node is None:
        return "an empty file"
    return "a list" if isinstance(node, yaml.SequenceNode) else f"a single value, {node.value!r}"


def _nearby(path: Path) -> str:
    """Names the recipes beside a file that does not exist."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = sorted(file.name for file in path.parent.glob("*.yaml"))
    if not names:
        return f"; {path.parent} has no recipes (*.yaml)"
    return f"{did_you_mean(path.name, names)}; in {path.parent}: {', '.join(names)}"


def _repeated_keys(root: yaml.Node) -> Iterator[tuple[int, str]]:
    """Yields line and message of each key that a mapping has already; PyYAML would let the last one win."""
    pending: list[tuple[yaml.Node, Key]] = [(root, ())]
    seen: set[int] = set()
    while pending:
        node, key = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending.extend((item, (*key, index)) for index, item in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for name, value in node.value:
                line, word = name.start_mark.line + 1, str(name.value)
                if word in first:
                    yield line, f"{dotted((*key, word))}: stands here a second time; the first is on line {first[word]}"
                first.setdefault(word, line)
                pending.append((value, (*key, word)))


def apply_overrides(data: dict[str, Any], overrides: Mapping[str, str]) -> dict[str, Key]:
    """Sets fields of a recipe's values in place.

    Args:
        data: Values of the recipe.
        overrides: Value, as YAML, by dotted key: `pretrain.tokens`, `data.sources[0].weight`.

    Returns:
        The key that each override stands for.

    Raises:
        RecipeError: A key that cannot be reached, or a value that is not YAML.
    """
    keys = {}
    for name, text in overrides.items():
        place = f"--set {name}={shortened(text)}"
        try:
            value = read_value(text)
        except yaml.YAMLError:
            raise RecipeError(f"{place}: {text!r} is not a YAML value; put quotes around a text") from None
        keys[name] = _parse_key(name, place)
        _set(data, keys[name], value, place)
    return keys


def _parse_key(name: str, place: str) -> Key:
    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", name)
    key = tuple(int(index or word) if index or word.isdecimal() else word for index, word in parts)
    if not key or re.sub(r"\.(\d+)(?=\.|\[|$)", r"[\1]", name) != dotted(key):
        raise RecipeError(f"{place}: {name!r} is not a key; write it like pretrain.tokens or data.sources[0].weight")
    return key


def _set(data: Any, key: Key, value: Any, place: str) -> None:
    for depth, part in enumerate(key):
        last = depth == len(key) - 1
        if isinstance(data, list) and isinstance(part, int):
            if part >= len(data):
                raise RecipeError(f"{place}: {dotted(key[:depth])} has {len(data)} entries, [0] and so on")
        elif not (isinstance(data, dict) and isinstance(part, str)):
            kind = f"is {data!r} and has nothing inside"
            if isinstance(data, list | dict):
                kind = f"is a {'list, with entries [0], [1], …' if isinstance(data, list) else 'mapping of settings'}"
            raise RecipeError(f"{place}: {dotted(key[:depth]) or 'the recipe'} {kind}")
        elif not last and data.get(part) is None:
            data[part] = {}
        if last:
            data[part] = value
        else:
            data = data[part]
