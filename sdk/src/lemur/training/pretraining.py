"""What each process of a pretraining job runs: `python -m lemur.training.pretraining --job URI`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from lemur.dataset import Sample, TokenDataset, open_dataset
from lemur.model_size import training_flops_per_token
from lemur.receipt import Receipt
from lemur.results import fetch
from lemur.training.checkpoints.steps import StepCheckpoints, clear
from lemur.training.description import PretrainingDescription, whole_result
from lemur.training.loop.running import SavingTrainer, Work, resume_point, train
from lemur.training.models import Record, cast, load_tokenizer, start_model, store_model
from lemur.training.process import run_process
from lemur.training.settings import accumulation, attention, shared_arguments

_NO_LABEL = -100
"""Label of a token that is not learned from; PyTorch's loss passes over it."""


class Sequences(Dataset[dict[str, torch.Tensor]]):
    """The training stream from a given place on, as the Trainer reads it.

    Item i is sequence `first + i` of the stream. Batches are cut from consecutive items, dealt to the processes
    in turn, so that each step sees the same sequences whatever their number. Padding is not learned from.

    Args:
        tokens: The token mixture.
        first: Place of the stream to begin at.
        num_sequences: Sequences of the whole run.
        isolate_documents: Whether to give the position of each token in its document too, from which attention in
            `transformers` knows the documents of a sequence apart. Without it they see each other.
    """

    def __init__(
        self, tokens: TokenDataset, *, first: int, num_sequences: int, isolate_documents: bool = False
    ) -> None:
        self._tokens, self._first, self._num_sequences = tokens, first, num_sequences
        self._isolate_documents = isolate_documents
        self._last_place = first

    def __len__(self) -> int:
        return self._num_sequences

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._item(self._tokens.sample(self._first + index))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        places = [self._first + index for index in indices]
        # A reader's batches are equally far apart, whatever the numbers of processes and of readers in each.
        stride, self._last_place = places[0] - self._last_place, places[0]
        following = [place + stride for place in places if place + stride < self._num_sequences]
        self._tokens.prefetch([*places, *following])
        return [self._item(sample) for sample in self._tokens.samples(places)]

    def _item(self, sample: Sample) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(sample.input_ids)
        labels = input_ids
        if sample.num_padding:
            labels = input_ids.clone()
            labels[-sample.num_padding :] = _NO_LABEL
        item = {"input_ids": input_ids, "labels": labels}
        if self._isolate_documents:
            item["position_ids"] = torch.from_numpy(sample.position_ids)
        return item


def pretrain(uri: str, folder: Path) -> None:
    """Trains a model and stores it, unless it stands in storage already.

    Args:
        uri: URI of the job's description.
        folder: Local folder of the job.
    """
    job = PretrainingDescription.load(uri)
    if job.result():
        return
    arguments = _arguments(job, folder)
    with arguments.distributed_state.main_process_first():
        tokens_folder = fetch(job.tokens, folder / "tokens", ["tokenizer"])
        tokens = open_dataset(job.tokens, folder, verify=arguments.process_index == 0)
    tokenizer = load_tokenizer(tokens_folder / "tokenizer")
    model = start_model(job.model, tokenizer, folder / "start")
    kernel = attention(job.section, job.sequence_length)
    model.set_attn_implementation(kernel)
    parents = {"tokens": job.tokens, "initial": _initial(job, model, tokenizer, arguments)}
    checkpoints = StepCheckpoints(job, stage="pretrain", parents=parents, num_kept=job.section.keep_checkpoints)
    resumed = resume_point(arguments, checkpoints, folder / "resumed")
    sequences = Sequences(
        tokens,
        first=job.batch_sequences * (resumed.step if resumed else 0),
        num_sequences=job.num_steps * job.batch_sequences,
    )

    def make_trainer(callbacks: list[TrainerCallback]) -> Trainer:
        return SavingTrainer(model=model, args=arguments, train_dataset=sequences, callbacks=callbacks)

    trained = train(_work(job, parents, len(tokenizer)), arguments, checkpoints, resumed, make_trainer=make_trainer)
    if arguments.process_index == 0:
        trained.curve.save_points(folder)
        record = Record(
            role="base",
            key=job.key,
            parents=parents,
            curve_folder=folder,
            metrics=trained.metrics,
            metadata={"method": "full", "attention": kernel, **trained.metadata},
        )
        store_model(model, tokenizer, record, storage=job.storage, precision=job.section.precision)
        clear(job)
    arguments.distributed_state.wait_for_everyone()


def _arguments(job: PretrainingDescription, folder: Path) -> TrainingArguments:
    section = job.section
    arguments = TrainingArguments(
        **shared_arguments(section, folder / "trainer", job.num_steps),
        per_device_train_batch_size=section.micro_batch_sequences,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": section.final_learning_rate_ratio},
        warmup_steps=section.warmup_steps,
    )
    arguments.gradient_accumulation_steps = accumulation(
        job.batch_sequences, section.micro_batch_sequences, arguments.world_size
    )
    return arguments


def _initial(
    job: PretrainingDescription,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
) -> Receipt:
    """Stores the model before training where it is not stored yet, and makes every process start from just that.

    What is stored has the precision of the export, so the weights are rounded to it and taken up again.
    """
    cast(model, job.section.precision)
    if arguments.process_index == 0 and not whole_result(job.storage, job.initial_key):
        record = Record(role="initial", key=job.initial_key, parents={"tokens": job.tokens})
        store_model(model, tokenizer, record, storage=job.storage, precision=job.section.precision)
    arguments.distributed_state.wait_for_everyone()
    cast(model, "float32")
    model.config.use_cache = False
    initial = whole_result(job.storage, job.initial_key)
    assert initial
    return initial


def _work(job: PretrainingDescription, parents: dict[str, Receipt], vocab_size: int) -> Work:
    flops = training_flops_per_token(job.model.architecture, vocab_size, sequence_length=job.sequence_length)
    return Work(
        job=job,
        stage="pretrain",
        section=job.section,
        parents=parents,
        num_steps=job.num_steps,
        tokens_at=lambda step: step * job.section.batch_tokens,
        flops_per_token=flops,
    )


if __name__ == "__main__":
    run_process(pretrain)
