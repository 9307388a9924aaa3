"""Weights in safetensors files, read and written without ever holding a whole model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lemur.errors import IntegrityError

MAX_SHARD_BYTES = 5_000_000_000
"""Bytes of one file; the library's own default is as much, and it bounds the memory that storing takes."""
_SINGLE_NAME, _INDEX_NAME = "model.safetensors", "model.safetensors.index.json"


class StoredWeights:
    """The weights below a folder, each read when it is asked for.

    Args:
        files: Name of the file of each weight, by the weight's name.
        readers: Open files, by their names.
    """

    def __init__(self, files: Mapping[str, str], readers: Mapping[str, Any]) -> None:
        self._files, self._readers = files, readers

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        """Returns the names of all weights."""
        return list(self._files)

    def file(self, name: str) -> str:
        """Returns the name of the file that a weight is in."""
        return self._files[name]

    def whole(self, name: str) -> torch.Tensor:
        """Returns a weight, in the type it is stored in."""
        weight: torch.Tensor = self._readers[self._files[name]].get_tensor(name)
        return weight

    def rows(self, name: str, indices: Sequence[int]) -> torch.Tensor:
        """Returns rows of a matrix, [number of rows, row size], without reading the others."""
        matrix = self._readers[self._files[name]].get_slice(name)
        return torch.stack([matrix[index : index + 1][0] for index in indices])


@contextmanager
def read_weights(folder: Path) -> Iterator[StoredWeights]:
    """Opens the weights below a folder.

    Raises:
        FileNotFoundError: There are none in safetensors files.
    """
    index = folder / _INDEX_NAME
    with ExitStack() as stack:
        if index.is_file():
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elif (folder / _SINGLE_NAME).is_file():
            files = {}
        else:
            raise FileNotFoundError(f"{folder} has neither {_SINGLE_NAME} nor {_INDEX_NAME}")
        readers: dict[str, Any] = {
            name: stack.enter_context(safe_open(folder / name, framework="pt"))
            for name in sorted({*files.values()} or {_SINGLE_NAME})
        }
        yield StoredWeights(files or dict.fromkeys(readers[_SINGLE_NAME].keys(), _SINGLE_NAME), readers)


def write_weights(
    folder: Path,
    weights: Iterable[tuple[str, torch.Tensor]],
    *,
    shapes: Mapping[str, Sequence[int]],
    dtype: torch.dtype,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes weights as they come, a file as soon as it is full, as `from_pretrained` reads them.

    Args:
        folder: Folder for the files.
        weights: Name and value of each.
        shapes: Shape of every weight, by name, in the order they come.
        dtype: Type they are stored in.
        max_shard_bytes: Bytes of one file; a larger weight has a file of its own.

    Raises:
        IntegrityError: What comes is not what the shapes say.
    """
    sizes = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in shapes.items()}
    shards = _shards(sizes, max_shard_bytes)
    arriving = iter(weights)
    for number, names in enumerate(shards, start=1):
        tensors = {}
        for expected in names:
            name, weight = next(arriving, ("the end", torch.empty(0)))
            if name != expected or tuple(weight.shape) != tuple(shapes[expected]):
                raise IntegrityError(
                    f"expected weight {expected} of shape {tuple(shapes[expected])} and got {name} of shape "
                    f"{tuple(weight.shape)}; the model's configuration is not that of its weights"
                )
            tensors[name] = weight.to(dtype).contiguous()
        save_file(tensors, folder / _shard_name(number, len(shards)), metadata={"format": "pt"})
    left = [name for name, _ in arriving]
    if left:
        raise IntegrityError(f"weights {', '.join(left)} are not in the model's configuration")
    if len(shards) > 1:
        places = {name: _shard_name(number, len(shards)) for number, names in enumerate(shards, 1) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / _INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _shard_name(number: int, num_shards: int) -> str:
    return _SINGLE_NAME if num_shards == 1 else f"model-{number:05d}-of-{num_shards:05d}.safetensors"
