"""Whatever shares a model over processes, tuning it makes the same model: every weight, or adapters merged."""

from __future__ import annotations

from typing import Any

import pytest
from forked import ForkedBackend
from safetensors.torch import load_file
from small_training import finetune_section, folder_of, hardware_section, losses_of

from lemur.errors import RecipeError
from lemur.receipt import Receipt
from lemur.training import run

METHODS: dict[str, dict[str, Any]] = {"full": {"kind": "full"}, "lora": {"kind": "lora", "rank": 4}}
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero 1": {"kind": "deepspeed", "zero_stage": 1},
    "zero 2": {"kind": "deepspeed", "zero_stage": 2},
    "zero 3": {"kind": "deepspeed", "zero_stage": 3},
}


@pytest.fixture(scope="module")
def tune(pretrained: run.Pretrained, dialogues: Receipt, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tunes the tiny model for 24 steps of one pass and a half."""

    def start(method: str, num_processes: int = 1, **changes: Any) -> Receipt:
        section = finetune_section(
            method=METHODS[method],
            epochs=4,
            packing="none",
            checkpoint_every_steps=100,
            log_every_steps=1,
            learning_rate=0.005,
            **changes,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LEMUR_WORK", str(tmp_path_factory.mktemp("work")))
            return run.finetune(
                finetune=section,
                hardware=hardware_section(ForkedBackend(), devices_per_node=num_processes),
                base=pretrained.base,
                dialogues=dialogues,
                storage=tmp_path_factory.mktemp("storage").as_uri(),
                run="agreeing",
            )

    return start


@pytest.fixture(scope="module")
def alone(tune: Any) -> dict[str, Receipt]:
    return {method: tune(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("engine", [*ENGINES, "tensor parallel"])
def test_two_processes_tune_what_one_tunes(engine: str, method: str, tune: Any, alone: dict[str, Receipt]) -> None:
    settings = ENGINES.get(engine, {"kind": "fsdp", "tensor_parallel": 2})
    if (engine, method) == ("tensor parallel", "lora"):
        with pytest.raises(RecipeError, match="cannot divide adapters"):
            tune(method, 2, engine=settings)
        return

    together = tune(method, 2, engine=settings)

    expected = losses_of(alone[method])
    assert len(expected) >= 20
    assert expected[-1] < expected[0] - 0.5
    assert losses_of(together) == pytest.approx(expected, abs=1e-4)
    found, wanted = (load_file(folder_of(made) / "model.safetensors") for made in (together, alone[method]))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert (found[name] - weight).abs().max() < 1e-3, name
    assert together.metadata["engine"]["kind"] == settings["kind"]
