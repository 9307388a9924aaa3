"""The files of a checkpoint: of bounded size, readable by others, and filled back from any cut."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lemur.errors import IntegrityError
from lemur.receipt import StoredObject
from lemur.training.checkpoints.layout import Index, index_name, index_of, parse, state_files, state_name
from lemur.training.checkpoints.reading import LocalObjects, StateReader
from lemur.training.checkpoints.saving import _write
from lemur.training.checkpoints.steps import Stored
from lemur.training.state import Stretch


def matrix(values: torch.Tensor, name: str = "layer.weight") -> Stretch:
    return Stretch(name, "weight", tuple(values.shape), 0, values.numel(), values)


def store(folder: Path, stretches: list[list[Stretch]], file_bytes: int) -> Stored:
    """Stores what several processes hold, as they would."""
    objects: list[StoredObject] = []
    for rank, own in enumerate(stretches):
        files = state_files(own, file_bytes)
        written = [
            _write(name, file, folder / name)
            for number, file in enumerate(files)
            for name in [state_name(rank, len(stretches), number)]
        ]
        text = index_of(files, written, "attempt").model_dump_json()
        name = index_name(rank, len(stretches))
        (folder / name).write_text(text)
        objects += [*written, StoredObject(name=name, size_bytes=len(text), sha256="")]
    return Stored(4, folder.as_uri(), objects)


def test_files_are_safetensors_of_bounded_size(tmp_path: Path) -> None:
    values = torch.arange(1000.0).view(10, 100)
    columns = values[:, 20:90].contiguous()
    stretch = Stretch("w", "exp_avg", (10, 100), 20, 70, columns, num_runs=10, stride=100)

    stored = store(tmp_path, [[matrix(values, "v"), stretch]], 600)

    read: list[float] = []
    names = sorted(
        (found.name for found in stored.objects if found.name.startswith("state")),
        key=lambda name: int(re.findall(r"\d+", name)[-1]),
    )
    for name in names:
        with safe_open(tmp_path / name, "pt") as file:
            parts = [file.get_tensor(key) for key in file.offset_keys()]
            assert sum(part.nbytes for part in parts) <= 600
            read += [value for part in parts for value in part.tolist()]
    assert read == [*values.flatten().tolist(), *columns.flatten().tolist()]


def test_numbers_come_back_to_any_other_cut(tmp_path: Path) -> None:
    values = torch.randn(12, 10)
    halves = [
        Stretch("w", "weight", (12, 10), 0, 5, values[:, :5].contiguous(), num_runs=12, stride=10),
        Stretch("w", "weight", (12, 10), 5, 5, values[:, 5:].contiguous(), num_runs=12, stride=10),
    ]
    reader = StateReader(LocalObjects(store(tmp_path, [[half] for half in halves], 100), tmp_path / "none"))

    rows = Stretch("w", "weight", (12, 10), 30, 60, torch.zeros(60))
    left = Stretch("w", "weight", (12, 10), 0, 3, torch.zeros(4, 3), num_runs=4, stride=10)
    reader.fill([rows, left])

    assert torch.equal(rows.values.view(6, 10), values[3:9])
    assert torch.equal(left.values, values[:4, :3])
    assert all(name.startswith("state-00000") for name in reader.files_for([left]))
    assert len(reader.files_for([left])) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (matrix(torch.zeros(3, 4), "other.weight"), r"has 0 of 12 numbers of other.weight \(weight\)"),
        (matrix(torch.zeros(4, 3)), r"has layer.weight of shape \(3, 4\), and it is \(4, 3\) here"),
    ],
    ids=["missing parameter", "another shape"],
)
def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path, wanted: Stretch, message: str) -> None:
    stored = store(tmp_path, [[matrix(torch.ones(3, 4))]], 1000)

    with pytest.raises(IntegrityError, match=message):
        StateReader(LocalObjects(stored, tmp_path / "none")).fill([wanted])


def test_another_version_of_the_format_is_named(tmp_path: Path) -> None:
    text = json.dumps({"format": "lemur/state/v9", "attempt": "", "files": [], "parameters": {}})

    with pytest.raises(IntegrityError, match=r"index.json cannot be read as Index \(format"):
        parse(Index, "file:///x/index.json", text.encode())
