"""What each process of a tuning job runs: `python -m lemur.training.finetuning --job URI`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from lemur.model_size import count_adapter_parameters, training_flops_per_token
from lemur.recipe import LoraTuning
from lemur.results import fetch
from lemur.training.checkpoints.steps import StepCheckpoints, clear
from lemur.training.description import FinetuningDescription
from lemur.training.dialogues.chatml import SPECIAL_TOKENS, prepare_tokenizer
from lemur.training.dialogues.encoding import encode_dialogues, training_order
from lemur.training.loop.running import SavingTrainer, Trained, Work, resume_point, train
from lemur.training.models import Record, architecture_of, load_model, load_tokenizer, store_model
from lemur.training.process import run_process
from lemur.training.settings import accumulation, attention, shared_arguments


class Tuner(SavingTrainer, SFTTrainer):
    """The SFT trainer, for dialogues that are encoded already."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Returns the mean loss of a learned token.

        By the model's own forward pass: trl's fused one reads the output matrix itself, past what adapters add to
        it, and also computes figures that nothing here reports.
        """
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: resumable checkpoints are read by this project only."""


def finetune(uri: str, folder: Path) -> None:
    """Tunes a model and stores it, unless it stands in storage already.

    Args:
        uri: URI of the job's description.
        folder: Local folder of the job.
    """
    job = FinetuningDescription.load(uri)
    if job.result():
        return
    arguments = _arguments(job, folder)
    with arguments.distributed_state.main_process_first():
        base_folder = fetch(job.base, folder / "base")
    tokenizer = load_tokenizer(base_folder)
    prepare_tokenizer(tokenizer)
    dialogues, counts = _dialogues(job, arguments, tokenizer, folder)
    lengths = np.array([len(token_ids) for token_ids in dialogues.with_format("numpy")["input_ids"]])
    section = job.section
    num_steps = arguments.max_steps = math.ceil(section.epochs * len(lengths) / section.batch_dialogues)
    arguments.warmup_steps = math.ceil(section.warmup_ratio * num_steps)
    order = training_order(lengths, num_steps=num_steps, batch_dialogues=section.batch_dialogues, seed=section.seed)
    tokens_after = np.concatenate([[0], lengths[order].reshape(num_steps, -1).sum(axis=1).cumsum()])
    model = _model(base_folder, tokenizer, job)
    parents = {"base": job.base, "dialogues": job.dialogues}
    checkpoints = StepCheckpoints(job, stage="finetune", parents=parents, num_kept=section.keep_checkpoints)
    resumed = resume_point(arguments, checkpoints, folder / "resumed")
    # The part that is left comes first; the rest only keeps the length, and with it the schedule, as it is.
    rest = dialogues.select(np.roll(order, -section.batch_dialogues * (resumed.step if resumed else 0)))

    def make_trainer(callbacks: list[TrainerCallback]) -> Trainer:
        return Tuner(model=model, args=arguments, train_dataset=rest, processing_class=tokenizer, callbacks=callbacks)

    work = Work(
        job=job,
        stage="finetune",
        section=section,
        parents=parents,
        num_steps=num_steps,
        tokens_at=lambda step: int(tokens_after[step]),
        flops_per_token=_flops_per_token(model.config, job, sequence_length=float(lengths.mean())),
    )
    trained = train(work, arguments, checkpoints, resumed, make_trainer=make_trainer)
    if arguments.process_index == 0:
        _store(job, model, tokenizer, trained, folder=folder, counts=counts)
        clear(job)
    arguments.distributed_state.wait_for_everyone()


def _arguments(job: FinetuningDescription, folder: Path) -> SFTConfig:
    section = job.section
    arguments = SFTConfig(
        # Steps and warmup follow once the dialogues are counted.
        **shared_arguments(section, folder / "trainer", num_steps=1),
        per_device_train_batch_size=section.micro_batch_dialogues,
        lr_scheduler_type=section.schedule if section.schedule != "constant" else "constant_with_warmup",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    arguments.gradient_accumulation_steps = accumulation(
        section.batch_dialogues, section.micro_batch_dialogues, arguments.world_size
    )
    return arguments


def _dialogues(
    job: FinetuningDescription, arguments: SFTConfig, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> tuple[Dataset, dict[str, int]]:
    """Encodes the dialogues in the first process and maps the file in all of them."""
    path, counts_path = folder / "dialogues.arrow", folder / "dialogues.json"
    with arguments.distributed_state.main_process_first():
        if arguments.process_index == 0:
            source = fetch(job.dialogues, folder / "dialogues") / "dialogues.jsonl"
            counts = encode_dialogues(source, path, tokenizer, max_length=job.section.max_length)
            counts_path.write_text(json.dumps(counts._asdict()), encoding="utf-8")
    return Dataset.from_file(str(path)), json.loads(counts_path.read_text(encoding="utf-8"))


def _model(
    base_folder: Path, tokenizer: PreTrainedTokenizerBase, job: FinetuningDescription
) -> PreTrainedModel | PeftModel:
    """Loads the base model, gives it embeddings for new tokens, and adapters where the method wants them."""
    model = load_model(base_folder)
    set_seed(job.section.seed % 2**32)
    if len(tokenizer) > model.config.vocab_size:
        # The rows of new tokens are drawn around the mean of the old ones.
        model.resize_token_embeddings(len(tokenizer))
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = _generation_config(model.generation_config, tokenizer)
    model.config.use_cache = False
    model.set_attn_implementation(attention(job.section, job.section.max_length))
    method = job.section.method
    return model if method.kind == "full" else get_peft_model(model, _adapters(method, model, tokenizer))


def _generation_config(base: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Returns what ends a text: `<|im_end|>`, and what ended one for the base model."""
    earlier = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    ends = [tokenizer.eos_token_id, *(token for token in earlier if token not in (None, tokenizer.eos_token_id))]
    settings = {"bos_token_id": base.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]


def _adapters(method: LoraTuning, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoraConfig:
    # A base model has never met ChatML's tokens: their embeddings must be learned, and adapters alone leave them.
    vocabulary = tokenizer.get_vocab()
    markers = [vocabulary[token] for token in SPECIAL_TOKENS]
    layers = ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=method.target_modules,
        trainable_token_indices=dict.fromkeys(layers, markers),
    )


def _flops_per_token(config: Any, job: FinetuningDescription, *, sequence_length: float) -> float:
    architecture, method = architecture_of(config), job.section.method
    num_adapter_parameters = count_adapter_parameters(architecture, method) if method.kind == "lora" else None
    return training_flops_per_token(
        architecture,
        config.vocab_size,
        sequence_length=sequence_length,
        num_adapter_parameters=num_adapter_parameters,
    )


def _store(
    job: FinetuningDescription,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    trained: Trained,
    *,
    folder: Path,
    counts: dict[str, int],
) -> None:
    trained.curve.save_points(folder)
    record = Record(
        role="chat",
        key=job.key,
        parents={"base": job.base, "dialogues": job.dialogues},
        curve_folder=folder,
        metrics=trained.metrics,
        metadata={"method": job.section.method.kind, "encoded": counts, **trained.metadata},
    )
    whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
    store_model(whole, tokenizer, record, storage=job.storage, precision=job.section.precision)


if __name__ == "__main__":
    run_process(finetune)
