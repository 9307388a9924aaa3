"""What training makes of the machine it is on."""

from __future__ import annotations

import pytest
import torch
from small_training import pretrain_section

from lemur.training.settings import arithmetic, attention


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

    assert arithmetic(section) == computed
    assert attention(section, 256) == kernel
    assert attention(section, 4096) == "sdpa"
    assert arithmetic(pretrain_section(precision="float32")) == "float32"
