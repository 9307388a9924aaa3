"""Pretraining and tuning as the stages see them: sections and receipts go in, receipts come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lemur.dataset import INDEX_NAME, DatasetIndex
from lemur.errors import RecipeError, TrainingError
from lemur.progress import emit
from lemur.receipt import Receipt, digest_of, result_key
from lemur.recipe import FinetuneSection, HardwareSection, ModelSection, PretrainSection
from lemur.results import read_manifest
from lemur.storage import open_storage
from lemur.training.backend import Job
from lemur.training.checkpoints.steps import clear
from lemur.training.description import (
    FinetuningDescription,
    PretrainingDescription,
    TrainingDescription,
    stored_type,
    whole_result,
)
from lemur.training.quantization import quantization_problems

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}
"""Variables that keep the libraries of a training process from printing bars and from calling home."""

_WITHOUT_EFFECT = {
    "engine",
    "attention",
    "fused_kernels",
    "compile",
    "micro_batch_sequences",
    "micro_batch_dialogues",
    "activation_checkpointing",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_every_steps",
    "checkpoint_retry_seconds",
    "log_every_steps",
    "max_skipped_steps",
    "step_timeout_seconds",
}
"""Settings of how a job runs, not of what it makes; changing one finds the earlier result, or goes on from it."""


class Pretrained(NamedTuple):
    """What pretraining makes."""

    initial: Receipt
    """The model before training."""
    base: Receipt
    """The model after it."""


def pretrain(
    *,
    model: ModelSection,
    pretrain: PretrainSection,
    hardware: HardwareSection,
    tokens: Receipt,
    storage: str,
    run: str,
) -> Pretrained:
    """Trains a model on a token mixture, or finds what an earlier run made of the same.

    Args:
        model: What it starts from, and its sizes.
        pretrain: How it is trained.
        hardware: Where.
        tokens: The mixture.
        storage: Root URI for results.
        run: Name of the run.

    Raises:
        RecipeError: The mixture is not what the recipe asks for, or too small for it.
        TrainingError: The job failed.
    """
    _check_engine(pretrain, hardware)
    _check_tokens(model, pretrain, tokens)
    start = {"start": model.start.model_dump(mode="json"), "architecture": model.architecture.model_dump(mode="json")}
    settings = _settings(pretrain)
    tokenizer = _digest_below(tokens, "tokenizer/")
    initial_key = result_key("initial", start, {}, tokenizer=tokenizer, precision=stored_type(pretrain))
    job = PretrainingDescription(
        storage=storage,
        key=result_key("pretrain", settings, {"tokens": tokens}, initial=initial_key),
        peak_flops=hardware.accelerator.peak_flops,
        model=model,
        section=pretrain,
        tokens=tokens,
        initial_key=initial_key,
    )
    base = _made(job, stage="pretrain", hardware=hardware, run=run, beside=[initial_key])
    initial = whole_result(storage, initial_key)
    assert initial
    return Pretrained(initial, base)


def finetune(
    *,
    finetune: FinetuneSection,
    hardware: HardwareSection,
    base: Receipt,
    dialogues: Receipt,
    storage: str,
    run: str,
) -> Receipt:
    """Tunes a model on dialogues, or finds what an earlier run made of the same.

    Args:
        finetune: How it is tuned.
        hardware: Where.
        base: The model.
        dialogues: The dialogues.
        storage: Root URI for results.
        run: Name of the run.

    Raises:
        TrainingError: The job failed.
    """
    _check_engine(finetune, hardware)
    job = FinetuningDescription(
        storage=storage,
        key=result_key("finetune", _settings(finetune), {"base": base, "dialogues": dialogues}),
        peak_flops=hardware.accelerator.peak_flops,
        section=finetune,
        base=base,
        dialogues=dialogues,
    )
    return _made(job, stage="finetune", hardware=hardware, run=run, beside=[])


def _made(job: TrainingDescription, *, stage: str, hardware: HardwareSection, run: str, beside: list[str]) -> Receipt:
    """Returns the job's result; runs the job where it, or a result that it makes beside, is not there whole."""
    found = job.result()
    if found and all(whole_result(job.storage, key) for key in beside):
        emit("note", text=f"{stage}: unchanged, taken from {found.uri}")
        clear(job)
        return found
    hardware.backend.run(
        Job(
            name=f"{run}-{stage}-{job.key[:8]}",
            module={"pretrain": "lemur.training.pretraining", "finetune": "lemur.training.finetuning"}[stage],
            arguments=["--job", job.save()],
            num_nodes=hardware.num_nodes,
            processes_per_node=hardware.devices_per_node,
            environment=QUIET,
        )
    )
    made = job.result()
    if not made:
        raise TrainingError(f"the {stage} job ended well and left no result at {job.storage}/{job.prefix}; run again")
    job.forget()
    return made


def _settings(section: PretrainSection | FinetuneSection) -> Mapping[str, Any]:
    return section.model_dump(mode="json", exclude=_WITHOUT_EFFECT)


def _digest_below(receipt: Receipt, folder: str) -> str:
    objects = read_manifest(receipt.uri).objects
    return digest_of([stored.model_dump() for stored in objects if stored.name.startswith(folder)])


def _check_engine(section: PretrainSection | FinetuneSection, hardware: HardwareSection) -> None:
    """Refuses what the engine cannot do; what the machines lack is known to the processes, before their work."""
    problems = section.engine.problems(section, hardware.num_nodes * hardware.devices_per_node)
    problems += quantization_problems(section)
    if problems:
        raise RecipeError("; ".join(problems))


def _check_tokens(model: ModelSection, pretrain: PretrainSection, tokens: Receipt) -> None:
    index = DatasetIndex.model_validate_json(open_storage(tokens.uri).read(INDEX_NAME))
    vocab_size, sequence_length = index.vocab_size, index.sequence_length
    if vocab_size != model.tokenizer.vocab_size:
        raise RecipeError(
            f"model.tokenizer.vocab_size is {model.tokenizer.vocab_size}, and the mixture at {tokens.uri} was made "
            f"with a tokenizer of {vocab_size} entries; set it to {vocab_size}, or mix again"
        )
    if sequence_length > model.architecture.max_position:
        raise RecipeError(
            f"the mixture at {tokens.uri} has sequences of {sequence_length} tokens, more than "
            f"model.architecture.max_position {model.architecture.max_position}"
        )
    if pretrain.batch_tokens % sequence_length:
        raise RecipeError(
            f"pretrain.batch_tokens {pretrain.batch_tokens} is not a multiple of the mixture's sequences of "
            f"{sequence_length} tokens"
        )
    limits = {source.name: source.max_epochs for source in index.sources}
    num_sequences = -(-pretrain.tokens // pretrain.batch_tokens) * (pretrain.batch_tokens // sequence_length)
    index.mixture().check(num_sequences, limits, sequence_length=sequence_length)
