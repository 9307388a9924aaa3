"""How a stage computes on this machine: attention, fused kernels, compilation, float8; and what really ran."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lemur.errors import RecipeError
from lemur.recipe import FinetuneSection, PretrainSection
from lemur.training.engine import Arithmetic, Processes
from lemur.training.quantization import missing_quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainingArguments

_FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Kernels by their names in `transformers`, with the package that brings each."""
_LONGEST_PLAIN_ATTENTION = 512
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
"""Names that x86 and ARM processors give them."""


class Kernels(NamedTuple):
    """What a stage computes with on this machine."""

    attention: str
    """Attention kernel, by its name in `transformers`."""
    arithmetic: Arithmetic
    """Precision of the passes."""
    compile: bool
    """Whether the model is compiled."""
    liger: dict[str, bool] | None
    """Which parts are liger's; `None` where none is."""
    notes: tuple[str, ...]
    """What the recipe asks and this machine does in another way."""


def choose_kernels(section: PretrainSection | FinetuneSection, sequence_length: int) -> Kernels:
    """Chooses what a stage computes with, before any work.

    Args:
        section: Settings of the stage.
        sequence_length: Tokens of a sequence.

    Raises:
        RecipeError: This machine cannot do what the recipe asks, and nothing else does the same.
    """
    processes = Processes.here()
    engine = section.engine
    problems = [*engine.problems(section, processes.num_processes), *engine.local_problems(processes)]
    problems += [problem for check in _CHECKS if (problem := check(section))]
    if problems:
        raise RecipeError("; ".join(problems))
    computed = arithmetic(section)
    notes = []
    if computed != section.precision:
        notes.append(f"this processor has no {section.precision}; computing in {computed}")
    if section.attention == "auto":
        kernel = _best_attention(computed, sequence_length)
    else:
        kernel = {"flex": "flex_attention"}.get(section.attention, section.attention)
    if section.fused_kernels == "auto" and not processes.on_cpu and not _has_liger():
        notes.append("liger-kernel is not installed; norms, feed-forward and loss are PyTorch's own")
    if section.attention == "auto" and not processes.on_cpu and kernel == "sdpa":
        notes.append("flash-attn is not installed, or computes no float32; attention is PyTorch's own")
    return Kernels(kernel, computed, section.compile, _liger_parts(section), tuple(notes))


def arithmetic(section: PretrainSection | FinetuneSection) -> Arithmetic:
    """Returns what this machine computes in: the section's precision, unless it would have to be emulated.

    Without instructions for it, bfloat16 on a CPU is up to thirteen times slower than float32 (torch 2.13, AVX2).
    """
    if section.precision == "float32" or torch.cuda.is_available():
        return section.precision
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if any(capabilities.get(name) for name in _BFLOAT16_INSTRUCTIONS) else "float32"


def switch_on(arguments: TrainingArguments, kernels: Kernels) -> None:
    """Switches on what the Trainer's arguments have no name for; before the Trainer is made."""
    if kernels.arithmetic == "float8":
        # Accelerate converts the linear layers with torchao, all but the first and the last.
        os.environ["ACCELERATE_FP8_BACKEND"] = "AO"
        arguments.mixed_precision = "fp8"
    if kernels.arithmetic != "float32" and not arguments.use_cpu:
        # What is left in float32 beside a lower precision needs no more than that precision.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def _best_attention(computed: Arithmetic, sequence_length: int) -> str:
    """Returns the best kernel there is.

    On a GPU that is FlashAttention where it is installed, else PyTorch's fused kernel. The latter is the best on a
    CPU too, except in bfloat16: there, plain matrix products were a quarter faster at 256 tokens and a tenth at 512
    (torch 2.13, EPYC with avx512_bf16). They need memory for the square of the length, so long sequences keep it.
    """
    if torch.cuda.is_available():
        usable = [name for name in reversed(_FLASH) if computed != "float32" and not _missing_flash(name)]
        return usable[0] if usable else "sdpa"
    return "eager" if computed == "bfloat16" and sequence_length <= _LONGEST_PLAIN_ATTENTION else "sdpa"


def _missing_flash(name: str) -> str | None:
    """Says why a FlashAttention cannot be used."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    needed = (9, 0) if name == "flash_attention_3" else (8, 0)
    if torch.cuda.get_device_capability() < needed:
        return f"this GPU is of an older generation than {needed[0]}.{needed[1]}"
    return None if find_spec(_FLASH[name]) else f"package {_FLASH[name]} is not installed"


def _attention(section: PretrainSection | FinetuneSection) -> str | None:
    asked = section.attention
    if asked in _FLASH:
        reason = _missing_flash(asked)
        if reason is None and arithmetic(section) == "float32":
            reason = "it does not compute in float32"
        return f"attention {asked}: {reason}; set attention: auto, which takes the best there is" if reason else None
    if asked == "flex" and not torch.cuda.is_available():
        return "attention flex: PyTorch computes its gradients on GPUs only; set attention: sdpa, or auto"
    return None


def _fused(section: PretrainSection | FinetuneSection) -> str | None:
    if section.fused_kernels != "liger":
        return None
    if not torch.cuda.is_available():
        return "fused_kernels liger: its kernels need a GPU, and there is none; set fused_kernels: auto, or none"
    if not _has_liger():
        return "fused_kernels liger: package liger-kernel is not installed; install it, or set fused_kernels: auto"
    if section.engine.tensor_parallel_size > 1:
        return "fused_kernels liger: its kernels do not know matrices that are divided; set engine.tensor_parallel: 1"
    return None


def _liger_parts(section: PretrainSection | FinetuneSection) -> dict[str, bool] | None:
    """Returns liger's kernels that a stage takes, by the names of `TrainingArguments.liger_kernel_config`."""
    divided = section.engine.tensor_parallel_size > 1
    if section.fused_kernels == "none" or not torch.cuda.is_available() or not _has_liger() or divided:
        return None
    # Its loss reads the output matrix itself, past the rows that are learned beside adapters.
    return {
        "rope": True,
        "swiglu": True,
        "rms_norm": True,
        "cross_entropy": False,
        "fused_linear_cross_entropy": not _has_adapters(section),
    }


def _has_adapters(section: PretrainSection | FinetuneSection) -> bool:
    return isinstance(section, FinetuneSection) and section.method.kind != "full"


def _has_liger() -> bool:
    return find_spec("liger_kernel") is not None


def _compiled(section: PretrainSection | FinetuneSection) -> str | None:
    if section.compile and not torch.cuda.is_available() and shutil.which("g++") is None:
        return "compile: compiling for a processor needs g++, which is not installed; install it, or set compile: false"
    return None


def _float8(section: PretrainSection | FinetuneSection) -> str | None:
    if section.precision != "float8":
        return None
    if not torch.cuda.is_available():
        return "precision float8: there is no GPU, and no processor computes in it; set precision: bfloat16"
    if torch.cuda.get_device_capability() < (8, 9):
        return "precision float8: this GPU has no such arithmetic (8.9 is the first generation); set bfloat16"
    if find_spec("torchao") is None:
        return "precision float8: package torchao is not installed; install it, or set precision: bfloat16"
    return None


def what_ran(trainer: Trainer, section: PretrainSection | FinetuneSection, chosen: Kernels) -> dict[str, Any]:
    """Returns what really ran, read from the prepared Trainer: the blocks `engine` and `kernels` of a receipt."""
    arguments, model = trainer.args, trainer.model
    assert model
    optimizer: Any = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    num_processes, shared = Processes.here().num_processes, section.engine.tensor_parallel_size
    engine = {
        **section.engine.model_dump(mode="json"),
        "processes": num_processes,
        "data_parallel": num_processes // shared,
        "micro_batch": arguments.per_device_train_batch_size,
        "accumulation": arguments.gradient_accumulation_steps,
        "optimizer": f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}"
        + (" (fused)" if optimizer.defaults.get("fused") else ""),
    }
    kernels = {
        "attention": _config_of(model)._attn_implementation,
        "precision": chosen.arithmetic,
        "weights": str(next(model.parameters()).dtype).removeprefix("torch."),
        "activation_checkpointing": bool(getattr(model, "is_gradient_checkpointing", False)),
        "compile": bool(arguments.torch_compile),
        "fused": [name for name, taken in (chosen.liger or {}).items() if taken],
        "tf32": bool(torch.cuda.is_available() and torch.backends.cuda.matmul.allow_tf32),
        "notes": list(chosen.notes),
    }
    return {"engine": engine, "kernels": kernels}


def _config_of(model: Any) -> Any:
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.config


_CHECKS = (_attention, _fused, _compiled, _float8, missing_quantization)
"""Each says what this machine cannot do of what the recipe asks, or nothing."""
