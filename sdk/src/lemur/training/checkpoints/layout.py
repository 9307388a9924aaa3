"""The objects of a resumable checkpoint, and what each process says of the ones it wrote.

```
state-00003-of-00008-0.safetensors   float32 numbers that process 3 of 8 wrote: its first file
index-00003-of-00008.json            which numbers they are
run.json                             step, engine, number of processes, seed, state of callbacks
metrics.jsonl curve.json             the loss curve
manifest.json                        last
```
"""

from __future__ import annotations

import json
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lemur.errors import IntegrityError
from lemur.receipt import StoredObject
from lemur.training.state import Part, Runs, Stretch
from lemur.training.state.stretches import cut

RUN_NAME = "run.json"
FILE_BYTES = 512 * 10**6
"""Largest file of numbers; a process with more writes several, each while the one before it is uploaded."""
ELEMENT_BYTES = 4

_Model = TypeVar("_Model", bound=BaseModel)

_STATE_NAME = re.compile(r"state-(?P<rank>\d+)-of-(?P<num_ranks>\d+)-\d+\.safetensors")


class Place(NamedTuple):
    """Where numbers of a parameter are in a file, and which ones they are."""

    file: int
    """Which of the index's files."""
    offset_bytes: int
    """Their first byte in it."""
    start: int
    length: int
    num_runs: int
    stride: int

    @property
    def runs(self) -> Runs:
        """Which numbers of the flattened parameter they are."""
        return Runs(self.start, self.length, self.num_runs, self.stride)


class Indexed(BaseModel):
    """What a process wrote of one parameter."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    parts: dict[Part, list[Place]]
    """Numbers of each part."""


class Index(BaseModel):
    """What one process wrote."""

    model_config = ConfigDict(frozen=True)

    format: Literal["lemur/state/v1"] = "lemur/state/v1"
    """Version of this file's layout."""
    attempt: str
    """Attempt of the job that wrote it; indexes of several attempts do not make a checkpoint."""
    files: list[StoredObject]
    """The files of numbers."""
    parameters: dict[str, Indexed]
    """What is in them, by the parameter's name."""


class RunRecord(BaseModel):
    """What a resumed run needs besides numbers, and how they came about."""

    model_config = ConfigDict(frozen=True)

    format: Literal["lemur/run/v1"] = "lemur/run/v1"
    """Version of this file's layout."""
    step: int
    """Steps that are done."""
    num_updates: int
    """Updates that the optimizer has made in them."""
    engine: dict[str, Any]
    """The engine that wrote the state; any other can read it."""
    num_ranks: int
    """Processes that wrote it; any other number can read it."""
    seed: int
    """Seed of the run; with the step, all that is random follows from it."""
    extra: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """State of callbacks, by their class."""


class StateFile(NamedTuple):
    """A file of numbers in the making."""

    header: bytes
    """What stands before the numbers: a safetensors header."""
    stretches: Sequence[Stretch]
    """The numbers, in their order in the file."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(map(_num_bytes, self.stretches))


def state_name(rank: int, num_ranks: int, number: int) -> str:
    """Returns the name of a file of numbers."""
    return f"state-{rank:05d}-of-{num_ranks:05d}-{number}.safetensors"


def index_name(rank: int, num_ranks: int) -> str:
    """Returns the name of what a process says of its files."""
    return f"index-{rank:05d}-of-{num_ranks:05d}.json"


def writer_of(name: str) -> tuple[int, int] | None:
    """Returns the process that wrote a file of numbers, and how many there were; `None` for other objects."""
    found = _STATE_NAME.fullmatch(name)
    return (int(found["rank"]), int(found["num_ranks"])) if found else None


def state_files(stretches: Sequence[Stretch], file_bytes: int = FILE_BYTES) -> list[StateFile]:
    """Deals stretches to files of bounded size.

    Args:
        stretches: Float32 numbers on the CPU, one after another in memory.
        file_bytes: Most bytes of numbers in a file.
    """
    files: list[list[Stretch]] = []
    room, most = 0, max(1, file_bytes // ELEMENT_BYTES)
    for stretch in stretches:
        first, last = 0, stretch.runs.num_elements
        while first < last:
            if not room:
                files.append([])
                room = most
            taken = min(room, last - first)
            files[-1].extend(cut(stretch, first, first + taken))
            first, room = first + taken, room - taken
    return [StateFile(_header(part), part) for part in files]


def index_of(files: Sequence[StateFile], stored: Sequence[StoredObject], attempt: str) -> Index:
    """Returns what a process says of its files."""
    parts: dict[str, dict[Part, list[Place]]] = defaultdict(lambda: defaultdict(list))
    shapes = {}
    for number, file in enumerate(files):
        offset = len(file.header)
        for stretch in file.stretches:
            parts[stretch.parameter][stretch.part].append(Place(number, offset, *stretch.runs))
            shapes[stretch.parameter] = stretch.shape
            offset += _num_bytes(stretch)
    parameters = {name: Indexed(shape=shapes[name], parts=dict(parts[name])) for name in parts}
    return Index(attempt=attempt, files=list(stored), parameters=parameters)


def parse(model: type[_Model], uri: str, text: bytes) -> _Model:
    """Reads one of the JSON objects.

    Raises:
        IntegrityError: It is not one, or of another version.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the text"
        raise IntegrityError(f"{uri} cannot be read as {model.__name__} ({place}: {first['msg']})") from error


def places(index: Index) -> Iterator[tuple[str, Part, Place]]:
    """Yields all that a process wrote, with the parameter's name and the part."""
    for name, indexed in index.parameters.items():
        for part, found in indexed.parts.items():
            for place in found:
                yield name, part, place


def _header(stretches: Sequence[Stretch]) -> bytes:
    """Returns the header of a safetensors file: its length in 8 bytes, and JSON padded to a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "lemur/state/v1"}}
    offset = 0
    for stretch in stretches:
        end = offset + _num_bytes(stretch)
        name = f"{stretch.part}/{stretch.parameter}/{stretch.start}"
        entries[name] = {"dtype": "F32", "shape": [stretch.runs.num_elements], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _num_bytes(stretch: Stretch) -> int:
    return stretch.runs.num_elements * ELEMENT_BYTES
