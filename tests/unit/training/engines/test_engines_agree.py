"""Whatever shares a model over processes, it learns what one process learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from forked import ForkedBackend
from safetensors.torch import load_file
from small_training import SEQUENCE_LENGTH, folder_of, hardware_section, losses_of, pretrain_section

from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.training import run

NUM_STEPS = 20
ENGINES: dict[str, tuple[dict[str, Any], int]] = {
    "ddp": ({"kind": "ddp"}, 2),
    "fsdp": ({"kind": "fsdp"}, 2),
    "tensor parallel": ({"kind": "fsdp", "tensor_parallel": 2}, 2),
    "zero 1": ({"kind": "deepspeed", "zero_stage": 1}, 2),
    "zero 2": ({"kind": "deepspeed", "zero_stage": 2}, 2),
    "zero 2 offloaded": ({"kind": "deepspeed", "zero_stage": 2, "offload": "optimizer"}, 2),
    "zero 3": ({"kind": "deepspeed", "zero_stage": 3}, 2),
}


def _section(**changes: Any) -> Any:
    return pretrain_section(
        tokens=NUM_STEPS * 8 * SEQUENCE_LENGTH, checkpoint_every_steps=100, log_every_steps=1, **changes
    )


def _pretrain(storage: str, tokens: Receipt, model: ModelSection, num_processes: int = 1, **changes: Any) -> Receipt:
    made = run.pretrain(
        model=model,
        pretrain=_section(**changes),
        hardware=hardware_section(ForkedBackend(), devices_per_node=num_processes),
        tokens=tokens,
        storage=storage,
        run="agreeing",
    )
    return made.base


@pytest.fixture(scope="module")
def alone(tokens: Receipt, model: ModelSection, tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMUR_WORK", str(tmp_path_factory.mktemp("work")))
        return _pretrain(tmp_path_factory.mktemp("alone").as_uri(), tokens, model)


@pytest.mark.parametrize("name", ENGINES)
def test_two_processes_learn_what_one_learns(
    name: str, alone: Receipt, storage: str, tokens: Receipt, model: ModelSection
) -> None:
    engine, num_processes = ENGINES[name]

    together = _pretrain(storage, tokens, model, num_processes, engine=engine)

    assert losses_of(together) == pytest.approx(losses_of(alone), abs=1e-4)
    _assert_same_weights(folder_of(together), folder_of(alone))
    ran = together.metadata["engine"]
    shared = engine.get("tensor_parallel", 1)
    assert ran["kind"] == engine["kind"]
    assert (ran["processes"], ran["data_parallel"]) == (num_processes, num_processes // shared)
    # Eight sequences make a step, whatever handles them.
    assert ran["micro_batch"] * ran["accumulation"] * ran["data_parallel"] == 8
    expected = "deepspeed.DeepSpeedCPUAdam" if engine.get("offload") else "torch.AdamW (fused)"
    assert ran["optimizer"] == expected


def _assert_same_weights(made: Path, expected: Path) -> None:
    found, wanted = (load_file(folder / "model.safetensors") for folder in (made, expected))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert (found[name] - weight).abs().max() < 1e-3, name
