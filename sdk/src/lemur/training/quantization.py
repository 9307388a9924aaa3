"""Weights in four bits: how a model is loaded for QLoRA, and where that cannot be."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lemur.recipe import FinetuneSection, PretrainSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lemur.training.engine import Arithmetic


def in_four_bits(section: PretrainSection | FinetuneSection) -> bool:
    """Says whether a stage keeps the frozen weights in four bits."""
    return isinstance(section, FinetuneSection) and section.method.kind == "qlora"


def quantization_problems(section: PretrainSection | FinetuneSection) -> list[str]:
    """Lists what a recipe asks and weights in four bits cannot do, each a sentence with the remedy."""
    if not in_four_bits(section):
        return []
    found = []
    if section.engine.kind != "ddp":
        found.append(
            f"engine {section.engine.kind} cannot divide weights of four bits, which finetune.method qlora keeps whole "
            "on every device; set engine: {kind: ddp}, or method: {kind: lora}"
        )
    if section.precision == "float8":
        found.append(
            "finetune.method qlora computes with weights of four bits in bfloat16 or float32, not in float8; set "
            "precision: bfloat16"
        )
    return found


def missing_quantization(section: PretrainSection | FinetuneSection) -> str | None:
    """Says what this machine lacks for weights in four bits, with the remedy."""
    if not in_four_bits(section) or find_spec("bitsandbytes"):
        return None
    return (
        "finetune.method qlora: package bitsandbytes is not installed; `pip install lemur[qlora]`, or set method: "
        "{kind: lora}"
    )


def load_in_four_bits(folder: Path, arithmetic: Arithmetic) -> PreTrainedModel:
    """Loads a stored model with the weights of its decoder's linear layers in four bits.

    NF4 with double quantization (Dettmers et al. 2023, arXiv 2305.14314). Embeddings, norms and the output layer stay
    in float32.

    Args:
        folder: Folder of the model's files.
        arithmetic: What linear layers compute in, once their weights are expanded.
    """
    import torch
    from transformers import BitsAndBytesConfig

    from lemur.training.models import load_model

    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32 if arithmetic == "float32" else torch.bfloat16,
    )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return load_model(folder, quantization_config=settings, device_map={"": device})
