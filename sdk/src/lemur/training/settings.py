"""The Trainer's arguments that pretraining and tuning share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from lemur.recipe import FinetuneSection, PretrainSection

Precision = Literal["float32", "bfloat16"]

_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names that x86 and ARM processors give them."""
_LONGEST_PLAIN_ATTENTION = 512


def shared_arguments(section: PretrainSection | FinetuneSection, folder: Path, num_steps: int) -> dict[str, Any]:
    """Returns keyword arguments for `TrainingArguments`.

    Data comes in the order of the dataset, and a resumed run is given a dataset that begins where it stands, so
    nothing is skipped. Loss is reported every step, because the curve takes its own means. Saving is asked for
    by `Checkpointing`.

    Args:
        section: Settings of the stage.
        folder: Local folder for checkpoints on their way to storage.
        num_steps: Optimizer steps of the whole run.
    """
    on_cpu = not torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "learning_rate": section.learning_rate,
        "adam_beta1": section.adam_betas[0],
        "adam_beta2": section.adam_betas[1],
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "optim": "adamw_torch_fused",
        "bf16": arithmetic(section) == "bfloat16",
        "gradient_checkpointing": section.activation_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": section.seed % 2**32,
        "use_cpu": on_cpu,
        "ddp_backend": ("gloo" if on_cpu else "nccl") if "WORLD_SIZE" in os.environ else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": not on_cpu,
        "train_sampling_strategy": "sequential",
        "ignore_data_skip": True,
        "remove_unused_columns": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def arithmetic(section: PretrainSection | FinetuneSection) -> Precision:
    """Returns the precision that this machine computes in: the section's, unless it would have to be emulated.

    Without instructions for it, bfloat16 on a CPU is up to thirteen times slower than float32 (torch 2.13, AVX2).
    """
    if section.precision == "float32" or torch.cuda.is_available():
        return section.precision
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if any(capabilities.get(name) for name in _BFLOAT16_INSTRUCTIONS) else "float32"


def local_folder(arguments: TrainingArguments) -> Path:
    """Returns where the Trainer writes checkpoints before they go to storage."""
    assert arguments.output_dir
    return Path(arguments.output_dir)


def attention(section: PretrainSection | FinetuneSection, sequence_length: int) -> str:
    """Returns the attention kernel for this machine, by its name in `transformers`.

    PyTorch's fused kernel is the best there is, except on a CPU in bfloat16: there, plain matrix products were a
    quarter faster at 256 tokens and a tenth at 512 (torch 2.13, EPYC with avx512_bf16). They need memory for the
    square of the length, so long sequences keep the fused kernel.
    """
    plain = not torch.cuda.is_available() and arithmetic(section) == "bfloat16"
    return "eager" if plain and sequence_length <= _LONGEST_PLAIN_ATTENTION else "sdpa"


def accumulation(batch: int, micro_batch: int, num_processes: int) -> int:
    """Returns how many micro batches each process handles for one optimizer step; the recipe makes it whole."""
    return batch // (micro_batch * num_processes)
