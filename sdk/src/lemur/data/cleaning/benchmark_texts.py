"""The texts of benchmarks: every string in their files, as records.

A record is what stands together: an object of a JSON or JSONL file, a list of strings, a row of a CSV or TSV file, a
text file. Its strings are a problem's parts in order, such as a question and its choices.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from lemur.data.reading.compressed import lines
from lemur.errors import RecipeError
from lemur.receipt import digest_of
from lemur.recipe.data import Decontamination

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".md")
"""Files that are read, each plain or with `.gz` or `.zst` behind."""
_COMPRESSED = (".gz", ".zst")
_ABOUT = ("readme", "license", "licence", "copying", "notice", "citation", "changelog", "contributing")
"""Beginnings of names of files that are about a benchmark and hold none of it. What they say, a licence for example,
stands in many documents."""

_NO_SPACE = re.compile(r"\S")


class BenchmarkRecord(NamedTuple):
    """What stands together in a benchmark's file."""

    texts: tuple[str, ...]
    """Its strings in order."""
    lettered: str | None
    """The strings in the form in which choices are written, `question A. choice B. choice`; `None` where there are no
    choices."""


def benchmark_records(name: str, root: str) -> Iterator[BenchmarkRecord]:
    """Yields the records of a benchmark.

    Args:
        name: The benchmark, for errors.
        root: Its file, or the folder below which its files are.

    Raises:
        RecipeError: There is no file, or one cannot be read; names it and what to do.
    """
    empty = True
    for path in benchmark_files(name, root):
        for record in _file_records(name, path):
            empty = False
            yield record
    if empty:
        raise RecipeError(f"benchmark {name!r} holds no text: {root}; name its problems in decontamination.benchmarks")


def benchmark_files(name: str, root: str) -> list[Path]:
    """Returns a benchmark's files, sorted; below a folder those with the suffixes that are read.

    Raises:
        RecipeError: There is none.
    """
    path = Path(root).expanduser()
    if path.is_file():
        if _format(path) not in SUFFIXES:
            raise RecipeError(f"benchmark {name!r}: {path} is of no known format; it can be {_formats()}")
        return [path]
    if not path.is_dir():
        raise RecipeError(
            f"benchmark {name!r}: {path} does not exist; put the benchmark's file or folder there, or take it out of "
            "cleaning.decontamination.benchmarks"
        )
    found = [
        file
        for file in path.rglob("*")
        if file.is_file()
        and _format(file) in SUFFIXES
        and not file.name.lower().startswith(_ABOUT)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise RecipeError(f"benchmark {name!r}: no file below {path} is of a known format; they can be {_formats()}")
    return sorted(found)


def benchmarks_fingerprint(section: Decontamination) -> str:
    """Returns a digest over the benchmarks' names and the contents of their files, wherever those are.

    Raises:
        RecipeError: A benchmark has no file.
    """
    entries = {}
    for name, root in section.benchmarks.items():
        top = Path(root).expanduser()
        digests = []
        for file in benchmark_files(name, root):
            with file.open("rb") as opened:
                relative = file.relative_to(top if top.is_dir() else top.parent).as_posix()
                digests.append([relative, hashlib.file_digest(opened, "sha256").hexdigest()])
        entries[name] = digests
    return digest_of(entries)


def _file_records(name: str, path: Path) -> Iterator[BenchmarkRecord]:
    kind = _format(path)
    try:
        text = b"\n".join(lines(path)).decode("utf-8-sig")
        if kind in (".json", ".jsonl"):
            for value in _values(text):
                yield from _records(value)
        elif kind in (".csv", ".tsv"):
            for row in csv.reader(io.StringIO(text, newline=""), delimiter="," if kind == ".csv" else "\t"):
                yield from _record(row, choices_from=1)
        else:
            yield from _record([text])
    except (RecipeError, OSError, EOFError, ValueError, csv.Error) as error:
        raise RecipeError(
            f"benchmark {name!r}: {path} cannot be read as {kind[1:].upper()}: {error}; mend the file, or name the "
            "benchmark's other files one by one"
        ) from error


def _values(text: str) -> Iterator[Any]:
    """Yields the JSON values that stand one after another; many a file named `.json` holds lines of them."""
    decoder = json.JSONDecoder()
    place = 0
    while found := _NO_SPACE.search(text, place):
        value, place = decoder.raw_decode(text, found.start())
        yield value


def _records(value: Any) -> Iterator[BenchmarkRecord]:
    """Yields the records in a JSON value, the outer one of two first."""
    if isinstance(value, str):
        yield from _record([value])
    elif isinstance(value, list):
        yield from _record([item for item in value if isinstance(item, str)], choices_from=0)
        for item in value:
            if not isinstance(item, str):
                yield from _records(item)
    elif isinstance(value, Mapping):
        own: list[str] = []
        choices_from = None
        for item in value.values():
            if isinstance(item, str):
                own.append(item)
            elif isinstance(item, list) and item and all(isinstance(part, str) for part in item):
                choices_from = len(own) if choices_from is None else choices_from
                own.extend(item)
            else:
                yield from _records(item)
        yield from _record(own, choices_from=choices_from)


def _record(texts: list[str], *, choices_from: int | None = None) -> Iterator[BenchmarkRecord]:
    """Yields a record, unless it is empty; the strings from some place on may be choices."""
    # JSON can hold half of a surrogate pair, which no document does.
    texts = [text.encode(errors="replace").decode() for text in texts]
    if any(texts):
        lettered = None
        if choices_from is not None and len(texts) > max(1, choices_from):
            choices = zip(ascii_uppercase, texts[choices_from:], strict=False)
            lettered = " ".join([*texts[:choices_from], *(f"{letter}. {text}" for letter, text in choices)])
        yield BenchmarkRecord(tuple(texts), lettered)


def _format(path: Path) -> str:
    name = Path(path.stem) if path.suffix in _COMPRESSED else path
    return name.suffix.lower()


def _formats() -> str:
    return f"{', '.join(SUFFIXES)}, plain or with {' or '.join(_COMPRESSED)}"
