"""Engines with what else a recipe may set: lower precision, recomputed activations, compilation, more processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from forked import ForkedBackend
from safetensors.torch import load_file
from small_training import SEQUENCE_LENGTH, folder_of, hardware_section, losses_of, model_section, pretrain_section
from transformers import AutoModelForCausalLM

from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.training import run

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "tensor parallel": {"kind": "fsdp", "tensor_parallel": 2},
    "zero 1": {"kind": "deepspeed", "zero_stage": 1},
    "zero 2": {"kind": "deepspeed", "zero_stage": 2},
    "zero 3": {"kind": "deepspeed", "zero_stage": 3},
}
NUM_STEPS = 6


@pytest.fixture(scope="module")
def pretrain(tokens: Receipt, model: ModelSection, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Pretrains for six steps of eight sequences."""

    def start(num_processes: int = 1, model: ModelSection = model, **changes: Any) -> run.Pretrained:
        settings = {"tokens": NUM_STEPS * 8 * SEQUENCE_LENGTH, "checkpoint_every_steps": 100, "log_every_steps": 1}
        section = pretrain_section(**{**settings, **changes})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LEMUR_WORK", str(tmp_path_factory.mktemp("work")))
            return run.pretrain(
                model=model,
                pretrain=section,
                hardware=hardware_section(ForkedBackend(), devices_per_node=num_processes),
                tokens=tokens,
                storage=tmp_path_factory.mktemp("storage").as_uri(),
                run="set",
            )

    return start


@pytest.fixture(scope="module")
def plain(pretrain: Any) -> list[float]:
    return losses_of(pretrain().base)


@pytest.mark.parametrize("engine", ENGINES)
def test_bfloat16_learns_alike_and_is_stored_as_such(engine: str, pretrain: Any, plain: list[float]) -> None:
    made = pretrain(2, engine=ENGINES[engine], precision="bfloat16")

    assert losses_of(made.base) == pytest.approx(plain, abs=0.1)
    assert {weight.dtype for weight in load_file(folder_of(made.base) / "model.safetensors").values()} == {
        torch.bfloat16
    }
    ran = made.base.metadata["kernels"]
    if ran["precision"] == "bfloat16":
        assert ran["weights"] == ("bfloat16" if ENGINES[engine]["kind"] == "deepspeed" else "float32")
    else:
        assert any("has no bfloat16" in note for note in ran["notes"])


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero 3"])
def test_recomputed_activations_change_nothing(engine: str, pretrain: Any, plain: list[float]) -> None:
    made = pretrain(2, engine=ENGINES[engine], activation_checkpointing=True)

    assert losses_of(made.base) == pytest.approx(plain, abs=1e-4)
    assert made.base.metadata["kernels"]["activation_checkpointing"] is True


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_four_processes_divide_a_tied_vocabulary_that_they_do_not_divide_evenly(
    tensor_parallel: int, tokens: Receipt, pretrain: Any
) -> None:
    assert tokens.metadata["vocab_size"] % 4
    tied = model_section(
        tokens.metadata["vocab_size"],
        architecture={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "max_position": 64,
            "tie_embeddings": True,
        },
    )
    expected = pretrain(1, model=tied).base
    made = pretrain(4, model=tied, engine={"kind": "fsdp", "tensor_parallel": tensor_parallel}).base

    assert losses_of(made) == pytest.approx(losses_of(expected), abs=1e-4)
    ran = made.metadata["engine"]
    num_readers = 4 // tensor_parallel
    assert (ran["processes"], ran["data_parallel"], ran["accumulation"]) == (4, num_readers, 4 // num_readers)
    found, wanted = (AutoModelForCausalLM.from_pretrained(folder_of(each)).state_dict() for each in (made, expected))
    assert all((found[name] - weight).abs().max() < 1e-3 for name, weight in wanted.items())


def test_a_compiled_model_learns_the_same(pretrain: Any, plain: list[float]) -> None:
    made = pretrain(compile=True)

    assert losses_of(made.base) == pytest.approx(plain, abs=1e-4)
    assert made.base.metadata["kernels"]["compile"] is True


def test_the_learning_rate_is_the_papers(pretrain: Any) -> None:
    # Linear to the peak, then a cosine to a tenth of it (arXiv 2310.06830, A.1.3), here over 24 steps, not 21,458.
    num_steps, warmup, peak = 24, 4, 4e-5
    made = pretrain(
        tokens=num_steps * 8 * SEQUENCE_LENGTH,
        learning_rate=peak,
        warmup_steps=warmup,
        final_learning_rate_ratio=0.1,
    )

    def rate(step: int) -> float:
        if step <= warmup:
            return peak * step / warmup
        way = (step - warmup) / (num_steps - warmup)
        return peak * (0.1 + 0.9 * (1 + math.cos(math.pi * way)) / 2)

    lines = (folder_of(made.base) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    import json

    rates = [json.loads(line)["learning_rate"] for line in lines]
    # The n-th step is made with the rate after n - 1 steps.
    assert rates == pytest.approx([rate(step) for step in range(num_steps)], rel=1e-6, abs=1e-12)
