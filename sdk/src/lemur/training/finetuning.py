"""What each process of a tuning job runs: `python -m lemur.training.finetuning --job URI`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lemur.model_size import count_adapter_parameters, training_flops_per_token
from lemur.progress import emit
from lemur.results import fetch
from lemur.training.adapters import add_adapters
from lemur.training.checkpoints.steps import StepCheckpoints, clear
from lemur.training.description import FinetuningDescription, stored_type
from lemur.training.dialogues.arrangement import Arrangement, arrange
from lemur.training.dialogues.batches import MicroBatches, one_item
from lemur.training.dialogues.chatml import SPECIAL_TOKENS, prepare_tokenizer
from lemur.training.dialogues.encoding import EncodedDialogues, encode_dialogues
from lemur.training.isolation import guard_isolation, is_flat, with_lengths
from lemur.training.kernels import Kernels, choose_kernels, switch_on
from lemur.training.loop.guard import Batches
from lemur.training.loop.running import SavingTrainer, Trained, Work, resume_point, train
from lemur.training.loop.watchdog import Watchdog
from lemur.training.merging import whole_weights
from lemur.training.models import architecture_of, load_tokenizer, with_new_tokens
from lemur.training.process import run_process
from lemur.training.quantization import in_four_bits, load_in_four_bits
from lemur.training.settings import accumulation, num_readers, set_accumulation, shared_arguments
from lemur.training.storing import Beside, Record, beside, fetch_once, store_model


def finetune(uri: str, folder: Path) -> None:
    """Tunes a model and stores it, unless it stands in storage already.

    Args:
        uri: URI of the job's description.
        folder: Local folder of the job.
    """
    job = FinetuningDescription.load(uri)
    if job.result():
        return
    watchdog = Watchdog(job.section.step_timeout_seconds, folder).start()
    kernels = choose_kernels(job.section, job.section.max_length)
    arguments = _arguments(job, kernels, folder)
    switch_on(arguments, kernels)
    base_folder = fetch_once(job.base, folder / "base", arguments)
    tokenizer = load_tokenizer(base_folder)
    prepare_tokenizer(tokenizer)
    dialogues = _dialogues(job, arguments, tokenizer, folder)
    arrangement = _arrangement(job, dialogues)
    _set_steps(arguments, job, arrangement)
    start = _start(base_folder, tokenizer, arguments, job, folder)
    model = _model(start, tokenizer, kernels, job)
    parents = {"base": job.base, "dialogues": job.dialogues}
    checkpoints = StepCheckpoints(job, job.section, stage="finetune", parents=parents)
    resumed = resume_point(arguments, checkpoints, folder / "resumed")
    batches = MicroBatches(
        dialogues,
        arrangement,
        num_micro_batches=arguments.gradient_accumulation_steps * num_readers(job.section),
        rows_at_once=job.section.micro_batch_dialogues,
        pad_token_id=tokenizer.pad_token_id,
        first_step=resumed.step if resumed else 0,
        flat=is_flat(kernels.attention),
        full=kernels.compile,
    )

    def make_trainer(callbacks: list[TrainerCallback]) -> Trainer:
        return SavingTrainer(
            model=model,
            args=arguments,
            train_dataset=batches,
            data_collator=_flat_item if is_flat(kernels.attention) else one_item,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=job.section.engine.optimizer(job.section),
        )

    tokens_after = arrangement.tokens_after
    work = Work(
        job=job,
        stage="finetune",
        section=job.section,
        parents=parents,
        num_steps=arrangement.num_steps,
        tokens_at=lambda step: int(tokens_after[step]),
        flops_per_token=_flops_per_token(model.config, job, sequence_length=float(dialogues.lengths.mean())),
        kernels=kernels,
        batches=Batches(batches.num_micro_batches, batches.origins),
        watchdog=watchdog,
    )
    trained = train(work, arguments, checkpoints, resumed, make_trainer=make_trainer)
    is_first = arguments.process_index == 0
    assert trained.trainer.model
    weights = whole_weights(trained.trainer.model, job.section.engine.gathered, is_first=is_first)
    if is_first:
        made = _beside(base_folder, start, tokenizer)
        _store(job, made, weights, trained, folder=folder, dialogues=dialogues, arrangement=arrangement)
        clear(job)
    else:
        # Gathering a divided weight takes all processes.
        deque(weights, maxlen=0)
    arguments.distributed_state.wait_for_everyone()


def _flat_item(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Collates for variable-length kernels: the row, with where its dialogues begin."""
    return with_lengths(one_item(items))


def _arguments(job: FinetuningDescription, kernels: Kernels, folder: Path) -> TrainingArguments:
    section = job.section
    return TrainingArguments(
        # Steps, warmup and accumulation follow once the dialogues are arranged.
        **shared_arguments(section, kernels, folder / "trainer", num_steps=1),
        # One item is a whole micro batch.
        per_device_train_batch_size=1,
        lr_scheduler_type=section.schedule if section.schedule != "constant" else "constant_with_warmup",
    )


def _dialogues(
    job: FinetuningDescription, arguments: TrainingArguments, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> EncodedDialogues:
    """Encodes the dialogues in the first process of each machine and maps the files in all of them."""
    encoded = folder / "encoded"
    with arguments.distributed_state.local_main_process_first():
        if arguments.local_process_index == 0:
            source = fetch(job.dialogues, folder / "dialogues") / "dialogues.jsonl"
            encode_dialogues(source, encoded, tokenizer, max_length=job.section.max_length)
    return EncodedDialogues(encoded)


def _arrangement(job: FinetuningDescription, dialogues: EncodedDialogues) -> Arrangement:
    section = job.section
    return arrange(
        dialogues.lengths,
        epochs=section.epochs,
        batch_dialogues=section.batch_dialogues,
        packing=section.packing,
        capacity=section.max_length,
        seed=section.seed,
    )


def _set_steps(arguments: TrainingArguments, job: FinetuningDescription, arrangement: Arrangement) -> None:
    """Sets steps, warmup and accumulation; says where packs and batches do not go together."""
    section, num_steps = job.section, arrangement.num_steps
    arguments.max_steps = num_steps
    arguments.warmup_steps = math.ceil(section.warmup_ratio * num_steps)
    set_accumulation(arguments, accumulation(section, arrangement.most_rows, section.micro_batch_dialogues))
    if arguments.process_index:
        return
    num_dialogues = len(arrangement.dialogues)
    if num_dialogues > num_steps * section.batch_dialogues:
        emit(
            "note",
            text=f"finetune: a pack of {section.max_length:,} tokens holds {num_dialogues / num_steps:,.0f} dialogues, "
            f"and batch_dialogues is {section.batch_dialogues}; a step learns from one pack, so there are "
            f"{num_steps:,} steps. With packing: none a step has {section.batch_dialogues}",
        )
    if arrangement.most_rows < num_readers(section):
        emit(
            "note",
            text=f"finetune: a step has {arrangement.most_rows} packs or dialogues for {arguments.world_size} devices, "
            "so some of them have nothing to do; raise batch_dialogues, or take fewer devices",
        )


def _start(
    base_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
    job: FinetuningDescription,
    folder: Path,
) -> Path:
    """Returns the base model with embeddings for new tokens; the first process of each machine makes them."""
    extended = folder / "start"
    with arguments.distributed_state.local_main_process_first():
        if arguments.distributed_state.is_local_main_process:
            return with_new_tokens(base_folder, tokenizer, extended, seed=job.section.seed % 2**32)
    return extended if (extended / "config.json").is_file() else base_folder


def _model(
    start: Path, tokenizer: PreTrainedTokenizerBase, kernels: Kernels, job: FinetuningDescription
) -> PreTrainedModel | PeftModel:
    """Loads the model as the engine divides it, and puts adapters into it where the method wants them."""
    if in_four_bits(job.section):
        model = load_in_four_bits(start, kernels.arithmetic)
    else:
        model = job.section.engine.load(start, kernels.arithmetic)
    model.set_attn_implementation(kernels.attention)
    guard_isolation(model)
    method = job.section.method
    if method.kind == "full":
        return model
    # A base model has never met ChatML's tokens: their embeddings must be learned, and adapters alone leave them.
    vocabulary = tokenizer.get_vocab()
    # Drawn alike in all processes.
    set_seed(job.section.seed % 2**32)
    return add_adapters(model, method, [vocabulary[token] for token in SPECIAL_TOKENS], start)


def _beside(base_folder: Path, start: Path, tokenizer: PreTrainedTokenizerBase) -> Beside:
    """Returns what lies beside the tuned weights: ChatML's end of a turn ends what the model says."""
    config, generation = beside(start, tokenizer).config, beside(base_folder, tokenizer).generation
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    return Beside(config, _generation_config(generation, tokenizer), tokenizer)


def _generation_config(base: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Returns what ends a text: `<|im_end|>`, and what ended one for the base model."""
    earlier = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    ends = [tokenizer.eos_token_id, *(token for token in earlier if token not in (None, tokenizer.eos_token_id))]
    settings = {"bos_token_id": base.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]


def _flops_per_token(config: Any, job: FinetuningDescription, *, sequence_length: float) -> float:
    architecture, method = architecture_of(config), job.section.method
    num_adapter_parameters = count_adapter_parameters(architecture, method) if method.kind != "full" else None
    return training_flops_per_token(
        architecture,
        config.vocab_size,
        sequence_length=sequence_length,
        num_adapter_parameters=num_adapter_parameters,
    )


def _store(
    job: FinetuningDescription,
    model: Beside,
    weights: Iterator[tuple[str, torch.Tensor]],
    trained: Trained,
    *,
    folder: Path,
    dialogues: EncodedDialogues,
    arrangement: Arrangement,
) -> None:
    trained.curve.save_points(folder)
    record = Record(
        role="chat",
        key=job.key,
        parents={"base": job.base, "dialogues": job.dialogues},
        curve_folder=folder,
        metrics=trained.metrics,
        metadata={
            "method": job.section.method.kind,
            "encoded": dialogues.counts._asdict(),
            "packing": job.section.packing,
            "padding_share": arrangement.padding_share(job.section.micro_batch_dialogues),
            **trained.metadata,
        },
    )
    store_model(model, weights, record, storage=job.storage, precision=stored_type(job.section))


if __name__ == "__main__":
    run_process(finetune)
