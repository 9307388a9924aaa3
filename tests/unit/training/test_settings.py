"""What training makes of the machine it is on."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from small_training import finetune_section, pretrain_section

from lemur.errors import RecipeError
from lemur.training import kernels
from lemur.training.kernels import arithmetic, choose_kernels


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("capabilities", "computed", "kernel"),
    [({"avx512_bf16": True}, "bfloat16", "eager"), ({"avx2": True, "avx512_bf16": False}, "float32", "sdpa")],
)
def test_bfloat16_is_used_where_the_processor_has_it(
    capabilities: dict[str, bool], computed: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    section = pretrain_section(precision="bfloat16")

    chosen = choose_kernels(section, 256)

    assert (chosen.arithmetic, chosen.attention) == (computed, kernel)
    assert choose_kernels(section, 4096).attention == "sdpa"
    assert arithmetic(pretrain_section(precision="float32")) == "float32"
    # What is done in another way than the recipe says is said.
    assert bool(chosen.notes) == (computed != "bfloat16")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": "flash_attention_2"}, "flash_attention_2: there is no GPU"),
        ({"attention": "flex"}, "gradients on GPUs only"),
        ({"fused_kernels": "liger"}, "kernels need a GPU"),
        ({"precision": "float8"}, "float8: there is no GPU"),
        ({"engine": {"kind": "fsdp", "cpu_offload": True}}, "cpu_offload moves weights between GPU"),
    ],
)
def test_what_a_processor_cannot_do_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    for section in (pretrain_section(**changes), finetune_section(**changes)):
        with pytest.raises(RecipeError, match=words):
            choose_kernels(section, 256)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RecipeError, match="g\\+\\+, which is not installed"):
        choose_kernels(pretrain_section(compile=True), 256)
    with pytest.raises(RecipeError, match="g\\+\\+ and ninja is not installed"):
        choose_kernels(pretrain_section(engine={"kind": "deepspeed", "offload": "optimizer"}), 256)


def test_liger_is_left_out_where_it_cannot_run_and_nobody_asked_for_it() -> None:
    assert not choose_kernels(pretrain_section(), 256).liger


class TestOnAGpu:
    """The choice alone; that it runs needs the GPU."""

    @pytest.fixture(autouse=True)
    def _gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))

    @staticmethod
    def _install(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
        known = importlib.util.find_spec
        monkeypatch.setattr(
            kernels, "find_spec", lambda name: object() if name in packages else (None if name in _ALL else known(name))
        )

    @pytest.mark.parametrize(
        ("packages", "precision", "expected"),
        [
            (["flash_attn"], "bfloat16", "flash_attention_2"),
            (["flash_attn", "flash_attn_interface"], "bfloat16", "flash_attention_3"),
            (["flash_attn"], "float32", "sdpa"),
            ([], "bfloat16", "sdpa"),
        ],
    )
    def test_attention_is_the_best_that_is_installed(
        self, packages: list[str], precision: str, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._install(monkeypatch, *packages)
        chosen = choose_kernels(pretrain_section(precision=precision), 4096)
        assert chosen.attention == expected
        assert any("flash-attn" in note for note in chosen.notes) == (expected == "sdpa")

    def test_liger_is_taken_but_its_loss_not_past_adapters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._install(monkeypatch, "liger_kernel")
        whole = choose_kernels(pretrain_section(), 4096).liger
        beside = choose_kernels(finetune_section(method={"kind": "lora"}), 4096).liger
        assert whole
        assert beside
        assert whole["fused_linear_cross_entropy"]
        assert beside == {**whole, "fused_linear_cross_entropy": False}
        assert choose_kernels(pretrain_section(fused_kernels="none"), 4096).liger is None

    def test_float8_needs_the_generation_and_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._install(monkeypatch)
        with pytest.raises(RecipeError, match="torchao is not installed"):
            choose_kernels(pretrain_section(precision="float8"), 4096)
        self._install(monkeypatch, "torchao")
        assert choose_kernels(pretrain_section(precision="float8"), 4096).arithmetic == "float8"
        with pytest.raises(RecipeError, match="fsdp divides the weights before torchao"):
            choose_kernels(pretrain_section(precision="float8", engine={"kind": "fsdp"}), 4096)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
        with pytest.raises(RecipeError, match="no such arithmetic"):
            choose_kernels(pretrain_section(precision="float8"), 4096)


_ALL = ("flash_attn", "flash_attn_interface", "liger_kernel", "torchao")
