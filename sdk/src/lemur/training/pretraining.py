"""What each process of a pretraining job runs: `python -m lemur.training.pretraining --job URI`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from lemur.dataset import Sample, TokenDataset, open_dataset
from lemur.dataset.provenance import PieceOrigin, Provenance
from lemur.model_size import training_flops_per_token
from lemur.receipt import Receipt
from lemur.results import fetch
from lemur.training.checkpoints.steps import StepCheckpoints, clear
from lemur.training.description import PretrainingDescription, stored_type, whole_result
from lemur.training.isolation import NO_LABEL, guard_isolation, in_one_row, is_flat
from lemur.training.kernels import Kernels, choose_kernels, switch_on
from lemur.training.loop.guard import Batches
from lemur.training.loop.running import SavingTrainer, Work, resume_point, train
from lemur.training.loop.watchdog import Watchdog
from lemur.training.merging import whole_weights
from lemur.training.models import load_tokenizer, start_model
from lemur.training.process import run_process
from lemur.training.settings import accumulation, shared_arguments
from lemur.training.storing import Record, beside, fetch_once, store_model


class Sequences(Dataset[dict[str, torch.Tensor]]):
    """The training stream from a given place on, as the Trainer reads it.

    Item i is sequence `first + i` of the stream. Batches are cut from consecutive items, dealt to the processes
    in turn, so that each step sees the same sequences whatever their number. Padding is not learned from.

    Args:
        tokens: The token mixture.
        first: Place of the stream to begin at.
        num_sequences: Sequences of the whole run.
        isolate_documents: Whether to give the position of each token in its document too, from which attention in
            `transformers` knows the documents of a sequence apart, and to learn no document's first token from the
            document before. Without it a sequence is one text.
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
            labels[-sample.num_padding :] = NO_LABEL
        if not self._isolate_documents:
            return {"input_ids": input_ids, "labels": labels}
        positions = torch.from_numpy(sample.position_ids)
        # The last token of a document says nothing of the first one of the next.
        labels = labels.masked_fill(positions == 0, NO_LABEL)
        return {"input_ids": input_ids, "labels": labels, "position_ids": positions}


def pretrain(uri: str, folder: Path) -> None:
    """Trains a model and stores it, unless it stands in storage already.

    Args:
        uri: URI of the job's description.
        folder: Local folder of the job.
    """
    job = PretrainingDescription.load(uri)
    if job.result():
        return
    watchdog = Watchdog(job.section.step_timeout_seconds, folder).start()
    kernels = choose_kernels(job.section, job.sequence_length)
    arguments = _arguments(job, kernels, folder)
    switch_on(arguments, kernels)
    with arguments.distributed_state.main_process_first():
        tokens_folder = fetch(job.tokens, folder / "tokens", ["tokenizer"])
        tokens = open_dataset(job.tokens, folder, verify=arguments.process_index == 0)
    tokenizer = load_tokenizer(tokens_folder / "tokenizer")
    initial = _initial(job, tokenizer, arguments, folder)
    initial_folder = fetch_once(initial, folder / "initial", arguments)
    model = job.section.engine.load(initial_folder, kernels.arithmetic)
    model.set_attn_implementation(kernels.attention)
    if job.section.isolate_documents:
        guard_isolation(model)
    parents = {"tokens": job.tokens, "initial": initial}
    checkpoints = StepCheckpoints(job, job.section, stage="pretrain", parents=parents)
    resumed = resume_point(arguments, checkpoints, folder / "resumed")
    sequences = Sequences(
        tokens,
        first=job.batch_sequences * (resumed.step if resumed else 0),
        num_sequences=job.num_steps * job.batch_sequences,
        isolate_documents=job.section.isolate_documents,
    )
    flat = job.section.isolate_documents and is_flat(kernels.attention)

    def make_trainer(callbacks: list[TrainerCallback]) -> Trainer:
        return SavingTrainer(
            model=model,
            args=arguments,
            train_dataset=sequences,
            data_collator=in_one_row if flat else default_data_collator,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=job.section.engine.optimizer(job.section),
        )

    provenance = Provenance(tokens, job.tokens.uri.rsplit("/", 2)[0], folder / "provenance")
    work = _work(job, parents, len(tokenizer), kernels, watchdog, provenance)
    trained = train(work, arguments, checkpoints, resumed, make_trainer=make_trainer)
    is_first = arguments.process_index == 0
    assert trained.trainer.model
    weights = whole_weights(trained.trainer.model, job.section.engine.gathered, is_first=is_first)
    if is_first:
        trained.curve.save_points(folder)
        record = Record(
            role="base",
            key=job.key,
            parents=parents,
            curve_folder=folder,
            metrics=trained.metrics,
            metadata={"method": "full", "isolate_documents": job.section.isolate_documents, **trained.metadata},
        )
        made = beside(initial_folder, tokenizer)
        store_model(made, weights, record, storage=job.storage, precision=stored_type(job.section))
        clear(job)
    else:
        # Gathering a divided weight takes all processes.
        deque(weights, maxlen=0)
    arguments.distributed_state.wait_for_everyone()


def _arguments(job: PretrainingDescription, kernels: Kernels, folder: Path) -> TrainingArguments:
    section = job.section
    return TrainingArguments(
        **shared_arguments(section, kernels, folder / "trainer", job.num_steps),
        per_device_train_batch_size=section.micro_batch_sequences,
        gradient_accumulation_steps=accumulation(section, job.batch_sequences, section.micro_batch_sequences),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": section.final_learning_rate_ratio},
        warmup_steps=section.warmup_steps,
    )


def _initial(
    job: PretrainingDescription, tokenizer: PreTrainedTokenizerBase, arguments: TrainingArguments, folder: Path
) -> Receipt:
    """Stores the model before training where it is not stored yet; every process then loads just that."""
    if arguments.process_index == 0 and not whole_result(job.storage, job.initial_key):
        record = Record(role="initial", key=job.initial_key, parents={"tokens": job.tokens})
        start, weights = start_model(job.model, tokenizer, folder / "start")
        store_model(start, weights, record, storage=job.storage, precision=stored_type(job.section))
    arguments.distributed_state.wait_for_everyone()
    initial = whole_result(job.storage, job.initial_key)
    assert initial
    return initial


def _work(
    job: PretrainingDescription,
    parents: dict[str, Receipt],
    vocab_size: int,
    kernels: Kernels,
    watchdog: Watchdog,
    provenance: Provenance,
) -> Work:
    flops = training_flops_per_token(job.model.architecture, vocab_size, sequence_length=job.sequence_length)
    return Work(
        job=job,
        stage="pretrain",
        section=job.section,
        parents=parents,
        num_steps=job.num_steps,
        tokens_at=lambda step: step * job.section.batch_tokens,
        flops_per_token=flops,
        kernels=kernels,
        batches=Batches(job.batch_sequences, lambda place: [_told(piece) for piece in provenance.of(place)]),
        watchdog=watchdog,
    )


def _told(piece: PieceOrigin) -> str:
    """Returns where a piece of a sequence comes from, as a person looks for it."""
    return (
        f"{piece.piece.source}: {piece.origin}, tokens {piece.offset_tokens:,} to "
        f"{piece.offset_tokens + piece.piece.length:,} of {piece.document_tokens:,}"
    )


if __name__ == "__main__":
    run_process(pretrain)
