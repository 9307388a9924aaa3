"""One process of a measured training run; prints what it measured as JSON."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lemur.recipe import PretrainSection
from lemur.training.checkpoints.resuming import newest_whole
from lemur.training.checkpoints.saving import Saver
from lemur.training.checkpoints.steps import StepCheckpoints
from lemur.training.description import TrainingDescription
from lemur.training.engine import Processes
from lemur.training.loop.checkpointing import Checkpointing
from lemur.training.loop.curve import LossCurve
from lemur.training.loop.running import SavingTrainer

_VOCAB_SIZE, _LENGTH = 32_000, 16


class _Sequences(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.randint(0, _VOCAB_SIZE, (_LENGTH,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


class _Measuring(TrainerCallback):
    """Notes how long steps take, and which were made while a checkpoint was being stored."""

    def __init__(self) -> None:
        self.saver: Saver | None = None
        self.quiet: list[float] = []
        self.busy: list[float] = []
        self.commits: list[float] = []
        self._step_began = self._copied = 0.0
        self._begun = self._stored = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.perf_counter()
        if self.saver and self.saver.begun_step != self._begun:
            self._begun, self._copied = self.saver.begun_step, self._step_began

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        storing = self.saver is not None and self._begun != self._stored and self._begun >= 0
        (self.busy if storing else self.quiet).append(time.perf_counter() - self._step_began)
        if self.saver and storing and self.saver.stored_step == self._begun:
            # Seen at the end of a step, so up to a step late.
            self._stored = self._begun
            self.commits.append(time.perf_counter() - self._copied)


def main() -> None:
    """Trains some steps with checkpoints, or takes up the last one, and says what it took."""
    options = _options()
    torch.set_num_threads(1)
    section = PretrainSection.model_validate(
        {
            "tokens": 1,
            "batch_tokens": 1,
            "learning_rate": 1e-4,
            "precision": "float32",
            "engine": json.loads(options.engine),
            "checkpoint_every_steps": options.every if options.way != "none" else 10**9,
        }
    )
    arguments = TrainingArguments(
        output_dir=str(options.work / "trainer"),
        max_steps=options.steps,
        use_cpu=True,
        ddp_backend="gloo",
        per_device_train_batch_size=1,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="steps" if options.way == "trainer" else "no",
        save_steps=options.every,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        **section.engine.arguments(section, "float32", Processes.here()),
    )
    said = {"rank": arguments.process_index}
    model: Any = section.engine.load(options.work / "model", "float32")
    if options.way == "trainer":
        said.update(_plain(model, arguments))
    else:
        said.update(_ours(model, arguments, section, options))
    gathered: list[Any] = [None] * arguments.world_size
    torch.distributed.all_gather_object(gathered, said)
    if arguments.process_index == 0:
        print(json.dumps({"ranks": gathered}), flush=True)
    torch.distributed.barrier()


def _ours(model: Any, arguments: TrainingArguments, section: PretrainSection, options: Any) -> dict[str, Any]:
    job = TrainingDescription(storage=options.storage, key="0" * 64, peak_flops=1.0)
    checkpoints = StepCheckpoints(job, section, stage="pretrain", parents={})
    began = time.perf_counter()
    resumed = newest_whole(arguments, checkpoints, options.work / "resumed")
    verify_seconds = time.perf_counter() - began
    curve = LossCurve(steps_per_point=1, num_steps=options.steps, flops_per_token=1.0, peak_flops=1.0)
    checkpointing = Checkpointing(
        checkpoints, resumed, curve, None, section=section, folder=Path(options.work) / "staged"
    )
    measuring = _Measuring()
    trainer = SavingTrainer(
        model=model, args=arguments, train_dataset=_Sequences(), callbacks=[measuring, checkpointing]
    )
    trainer.remove_callback(PrinterCallback)
    checkpointing.attach(trainer)
    timed = _time_taking_up(checkpointing, measuring)
    gc.collect()
    with checkpointing.in_background():
        trainer.train()
    saver = checkpointing._begun()
    return {
        "resumed": resumed.step if resumed else None,
        "verify_seconds": verify_seconds,
        **timed,
        "stall_seconds": saver.copy_seconds,
        "commits": measuring.commits,
        "quiet": statistics.median(measuring.quiet),
        "busy": statistics.median(measuring.busy) if measuring.busy else None,
        "buffer_bytes": saver.buffer_bytes,
    }


def _time_taking_up(checkpointing: Checkpointing, measuring: _Measuring) -> dict[str, float]:
    timed: dict[str, float] = {}
    begin = checkpointing.on_train_begin

    def begin_timed(*positional: Any, **named: Any) -> None:
        began = time.perf_counter()
        begin(*positional, **named)
        timed["fill_seconds"] = time.perf_counter() - began
        measuring.saver = checkpointing._begun()

    checkpointing.on_train_begin = begin_timed  # type: ignore[method-assign]
    return timed


def _plain(model: Any, arguments: TrainingArguments) -> dict[str, Any]:
    """Trains with the Trainer's own checkpoints, which are pickles in a local folder."""
    stalls: list[float] = []

    class Timed(Trainer):
        def _save_checkpoint(self, *positional: Any) -> None:
            began = time.perf_counter()
            super()._save_checkpoint(*positional)
            stalls.append(time.perf_counter() - began)

    measuring = _Measuring()
    trainer = Timed(model=model, args=arguments, train_dataset=_Sequences(), callbacks=[measuring])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {"stall_seconds": stalls, "commits": stalls, "quiet": statistics.median(measuring.quiet), "busy": None}


def make_model(folder: Path) -> int:
    """Makes a model of 100 million parameters, and returns their number."""
    config = LlamaConfig(
        vocab_size=_VOCAB_SIZE,
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=10,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=["ours", "trainer", "none"], required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
