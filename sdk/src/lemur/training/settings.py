"""The Trainer's arguments that pretraining and tuning share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from lemur.recipe import FinetuneSection, PretrainSection
from lemur.training.engine import Processes
from lemur.training.kernels import Kernels


def shared_arguments(
    section: PretrainSection | FinetuneSection, kernels: Kernels, folder: Path, num_steps: int
) -> dict[str, Any]:
    """Returns keyword arguments for `TrainingArguments`.

    Data comes in the order of the dataset, and a resumed run is given a dataset that begins where it stands, so
    nothing is skipped. Loss is reported every step, because the curve takes its own means. Saving is asked for
    by `Checkpointing`.

    Args:
        section: Settings of the stage.
        kernels: What it computes with.
        folder: Local folder for checkpoints on their way to storage.
        num_steps: Optimizer steps of the whole run.
    """
    processes = Processes.here()
    on_cpu = processes.on_cpu
    if on_cpu:
        # Accelerate imports DeepSpeed whatever the engine, and that looks for a GPU unless it is told.
        os.environ["DS_ACCELERATOR"] = "cpu"
    engine = section.engine.arguments(section, kernels.arithmetic, processes)
    return {
        "output_dir": str(folder),
        "max_steps": num_steps,
        "learning_rate": section.learning_rate,
        "adam_beta1": section.adam_betas[0],
        "adam_beta2": section.adam_betas[1],
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "optim": "adamw_torch_fused",
        "torch_compile": kernels.compile,
        "use_liger_kernel": kernels.liger is not None,
        "liger_kernel_config": kernels.liger,
        "gradient_checkpointing": section.activation_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": section.seed % 2**32,
        "use_cpu": on_cpu,
        "ddp_backend": ("gloo" if on_cpu else "nccl") if "WORLD_SIZE" in os.environ else None,
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
        **engine,
    }


def local_folder(arguments: TrainingArguments) -> Path:
    """Returns where the Trainer writes checkpoints before they go to storage."""
    assert arguments.output_dir
    return Path(arguments.output_dir)


def accumulation(section: PretrainSection | FinetuneSection, num_rows: int, rows_at_once: int) -> int:
    """Returns how many micro batches each process handles for one optimizer step, rounded up.

    Args:
        section: Settings of the stage.
        num_rows: Sequences of a step, over all processes.
        rows_at_once: Sequences that a process handles at a time.
    """
    return -(-num_rows // (rows_at_once * num_readers(section)))


def num_readers(section: PretrainSection | FinetuneSection) -> int:
    """Returns how many processes see sequences of their own; those that share a matrix product see the same ones."""
    return Processes.here().num_processes // section.engine.tensor_parallel_size


def set_accumulation(arguments: TrainingArguments, num_micro_batches: int) -> None:
    """Sets the micro batches of a step where that is known only after the Trainer's arguments were made."""
    arguments.gradient_accumulation_steps = num_micro_batches
    divided = getattr(arguments, "hf_deepspeed_config", None)
    if divided:
        config = divided.config
        config["gradient_accumulation_steps"] = num_micro_batches
        config["train_batch_size"] = (
            arguments.per_device_train_batch_size * num_micro_batches * Processes.here().num_processes
        )
