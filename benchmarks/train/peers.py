"""The plain libraries and the original's way, as processes to be measured: `python -m benchmarks.train.peers FILE`.

Each is written as the library's documentation does it, with the same model, the same tokens, the same optimizer and
schedule as ours, and logging every ten steps.

The original's way is what `xchat/train/train.py` of OpenLemur does: a random order, `DataCollatorForSeq2Seq` with
padding to the longest of a micro batch, plain AdamW, no packing unless asked for. Its loop is accelerate's, as the
Trainer's is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    TrainingArguments,
    default_data_collator,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.train.window import CountingTrainer, Window
from lemur.dataset import open_dataset
from lemur.receipt import Receipt
from lemur.results import fetch
from lemur.training.dialogues.chatml import encode_dialogue, prepare_tokenizer

WAYS = ("original", "trainer", "trl", "trl-packing")
"""How dialogues become batches: the last three are the best of the plain Trainer, trl as it comes, and trl's best."""


class CountingSFTTrainer(CountingTrainer, SFTTrainer):
    """trl's Trainer, counting."""


class Stream(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The sequences that our pretraining reads, in the same order.

    Args:
        tokens: Receipt of the mixture.
        folder: Folder for copies.
        num_sequences: How many.
    """

    def __init__(self, tokens: Receipt, folder: Path, num_sequences: int) -> None:
        self._tokens, self._num_sequences = open_dataset(tokens, folder, verify=False), num_sequences

    def __len__(self) -> int:
        return self._num_sequences

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(self._tokens.sample(index).input_ids)
        return {"input_ids": input_ids, "labels": input_ids}


def main(settings: dict[str, Any], folder: Path) -> None:
    """Trains as the settings say and prints what it took."""
    base = fetch(Receipt.load(settings["base"]), folder / "base")
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation=best_attention(settings)
    )
    window = Window(settings["num_warmup_steps"])
    make = _pretraining if settings["stage"] == "pretrain" else _tuning
    trainer = make(settings, model, base, folder, window)
    window.trainer = trainer
    loss = trainer.train().training_loss
    padding_free = bool(getattr(trainer, "padding_free", False))
    window.measured(loss, attention=model.config._attn_implementation, padding_free=padding_free).write()


def best_attention(settings: Mapping[str, Any]) -> str:
    """Returns the best kernel that is installed, as ours takes it."""
    flash = torch.cuda.is_available() and find_spec("flash_attn") and settings["precision"] != "float32"
    return "flash_attention_2" if flash else "sdpa"


def shared_arguments(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns what all rows have in common: ours has the same schedule, optimizer, precision and kernels."""
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder / "trainer"),
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch" if settings.get("way") == "original" else "adamw_torch_fused",
        "bf16": settings["precision"] == "bfloat16",
        "gradient_checkpointing": False,
        "torch_compile": settings["compile"],
        "use_liger_kernel": on_gpu and find_spec("liger_kernel") is not None and settings.get("way") != "original",
        "gradient_accumulation_steps": settings["accumulation"],
        "per_device_train_batch_size": settings["micro_batch"],
        "logging_steps": 10,
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "dataloader_num_workers": settings["num_workers"],
        "ddp_backend": ("nccl" if on_gpu else "gloo") if "WORLD_SIZE" in os.environ else None,
        "seed": 0,
    }


def _pretraining(
    settings: Mapping[str, Any], model: PreTrainedModel, base: Path, folder: Path, window: Window
) -> CountingTrainer:
    model.config.use_cache = False
    num_sequences = settings["num_steps"] * settings["batch_sequences"]
    arguments = TrainingArguments(**shared_arguments(settings, folder), max_steps=settings["num_steps"])
    return CountingTrainer(
        model=model,
        args=arguments,
        train_dataset=Stream(Receipt.load(settings["tokens"]), folder, num_sequences),
        data_collator=default_data_collator,
        callbacks=[window],
    )


def _tuning(
    settings: Mapping[str, Any], model: PreTrainedModel, base: Path, folder: Path, window: Window
) -> CountingTrainer:
    tokenizer = AutoTokenizer.from_pretrained(base)
    prepare_tokenizer(tokenizer)
    model.resize_token_embeddings(len(tokenizer))
    dialogues = _encoded(settings, tokenizer, folder)
    shared = {**shared_arguments(settings, folder), "num_train_epochs": 1.0}
    way = settings["way"]
    if way.startswith("trl"):
        packing = {"packing": True, "packing_strategy": "bfd"} if way == "trl-packing" else {}
        return CountingSFTTrainer(
            model=model,
            args=SFTConfig(**shared, **packing, max_length=settings["sequence_length"]),
            train_dataset=dialogues,
            processing_class=tokenizer,
            callbacks=[window],
        )
    model.config.use_cache = False
    order = "group_by_length" if way == "trainer" else "random"
    return CountingTrainer(
        model=model,
        args=TrainingArguments(**shared, train_sampling_strategy=order),
        train_dataset=dialogues,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding="longest"),
        callbacks=[window],
    )


def _encoded(settings: Mapping[str, Any], tokenizer: Any, folder: Path) -> Dataset:
    path = fetch(Receipt.load(settings["dialogues"]), folder / "dialogues") / "dialogues.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        encoded = encode_dialogue(tokenizer, json.loads(line)["messages"])
        labels = [int(token) if learned else -100 for token, learned in zip(*encoded[:2], strict=True)]
        rows.append({"input_ids": encoded.token_ids.tolist(), "labels": labels})
    return Dataset.from_list(rows)


if __name__ == "__main__":
    asked = Path(sys.argv[1])
    main(json.loads(asked.read_text()), asked.parent)
