"""Adapters beside weights in four bits."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import ForkedBackend, NoBackend
from safetensors.torch import load_file
from small_training import finetune_section, folder_of, hardware_section, losses_of, weights_of

from lemur.errors import RecipeError, TrainingError
from lemur.receipt import Receipt
from lemur.training import run
from lemur.training.backend import Backend
from lemur.training.kernels import choose_kernels

QLORA = {"kind": "qlora", "rank": 4, "target_modules": ["q_proj", "down_proj"]}
needs_library = pytest.mark.skipif(not find_spec("bitsandbytes"), reason="the library bitsandbytes is not installed")


@pytest.fixture
def tune(storage: str, pretrained: run.Pretrained, dialogues: Receipt) -> Callable[..., Receipt]:
    """Tunes the tiny model in four bits; keyword arguments replace settings."""

    def start(backend: Backend | None = None, storage: str = storage, **changes: Any) -> Receipt:
        return run.finetune(
            finetune=finetune_section(**{"method": QLORA, **changes}),
            hardware=hardware_section(backend),
            base=pretrained.base,
            dialogues=dialogues,
            storage=storage,
            run="tiny",
        )

    return start


@pytest.mark.parametrize("engine", ["fsdp", "deepspeed"])
def test_an_engine_that_divides_weights_is_refused_before_work(tune: Callable[..., Receipt], engine: str) -> None:
    with pytest.raises(RecipeError, match=rf"engine {engine} cannot divide weights of four bits.*kind: ddp"):
        tune(NoBackend(), engine={"kind": engine})


@pytest.mark.skipif(bool(find_spec("bitsandbytes")), reason="the library bitsandbytes is installed")
def test_a_machine_without_the_library_is_refused_before_work() -> None:
    with pytest.raises(RecipeError, match=r"package bitsandbytes is not installed; `pip install lemur\[qlora\]`"):
        choose_kernels(finetune_section(method=QLORA), 64)


@needs_library
def test_adapters_are_merged_into_the_weights_as_they_are_stored(
    tune: Callable[..., Receipt], pretrained: run.Pretrained
) -> None:
    made = tune()

    losses = losses_of(made)
    assert losses[-1] < losses[0] - 0.5
    assert made.metadata["method"] == "qlora"
    base, merged = (load_file(folder_of(receipt) / "model.safetensors") for receipt in (pretrained.base, made))
    changed = {name.split(".")[-2] for name in base if not torch.equal(base[name], merged[name][: len(base[name])])}
    # Four bits would have changed every linear layer; so only what has an adapter is another, and that by its rank.
    assert changed == {"q_proj", "down_proj"}
    difference = merged["model.layers.0.mlp.down_proj.weight"] - base["model.layers.0.mlp.down_proj.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-4) == 4


@needs_library
def test_a_killed_run_in_four_bits_ends_as_an_unbroken_one(tune: Callable[..., Receipt], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="-9"):
        tune(ForkedBackend(kill_after_step=17))
    resumed = tune()
    unbroken = tune(storage=(tmp_path / "other").as_uri())

    assert resumed.metadata["resumed_at_steps"] == [10]
    assert unbroken.metadata["resumed_at_steps"] == []
    assert weights_of(unbroken) == weights_of(resumed)
