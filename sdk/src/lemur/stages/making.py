"""The stages that make a model: partition, tokenize, mix, pretrain, finetune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lemur.receipt import Receipt
from lemur.recipe import DataSection, FinetuneSection, HardwareSection, ModelSection, PretrainSection
from lemur.stages.envelope import stage

if TYPE_CHECKING:
    from lemur.training.run import Pretrained

Json = dict[str, Any]
"""A section of the recipe as the pipeline carries it."""


class Mixed(NamedTuple):
    """What the mix stage makes."""

    tokens: Receipt
    """The token mixture, with its tokenizer and held-out documents."""
    dialogues: Receipt
    """The dialogues for tuning."""


class Partitioned(NamedTuple):
    """What the partition stage makes."""

    partitions: Receipt
    """The tokenizer, and the list of partitions to apply it to."""
    workers: list[int]
    """One number for each step that tokenizes a part of them."""


def partition(*, name: str, storage: str, model: Json, data: Json) -> Partitioned:
    """Makes the tokenizer and lists the partitions of all sources.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        model: The model section; its tokenizer is used.
        data: The data section.
    """
    with stage("partition", storage=storage, run=name):
        model_section, section = ModelSection.model_validate(model), DataSection.model_validate(data)
        from lemur.data.partitions.listing import list_partitions, num_workers

        partitions = list_partitions(model=model_section, data=section, storage=storage)
        return Partitioned(partitions, list(range(num_workers(section, partitions))))


def tokenize(*, name: str, storage: str, data: Json, worker: int, partitions: Receipt) -> list[Receipt]:
    """Tokenizes one worker's part of the partitions, each a result of its own.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        data: The data section.
        worker: Number of the worker.
        partitions: The list of partitions.
    """
    with stage("tokenize", storage=storage, run=name):
        from lemur.data.partitions.workers import tokenize_partitions

        section = DataSection.model_validate(data)
        return tokenize_partitions(data=section, partitions=partitions, storage=storage, worker=worker)


def mix(*, name: str, storage: str, data: Json, partitions: Receipt, documents: Sequence[Receipt]) -> Mixed:
    """Decides which documents stay, mixes them, and collects the dialogues.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        data: The data section.
        partitions: The list of partitions.
        documents: What each partition was tokenized to.
    """
    with stage("mix", storage=storage, run=name) as running:
        section = DataSection.model_validate(data)
        from lemur.data.dialogues.collecting import collect_dialogues
        from lemur.data.mixing.mixing import mix_tokens

        mixed = mix_tokens(data=section, partitions=partitions, documents=documents, storage=storage)
        tokens = running.keep("tokens", mixed)
        dialogues = running.keep("dialogues", collect_dialogues(data=section, storage=storage))
        return Mixed(tokens, dialogues)


def pretrain(*, name: str, storage: str, model: Json, pretrain: Json, hardware: Json, tokens: Receipt) -> Pretrained:
    """Makes the initial model and trains it on the mixture.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        model: The model section.
        pretrain: The pretrain section.
        hardware: The hardware section.
        tokens: The token mixture.
    """
    with stage("pretrain", storage=storage, run=name) as running:
        sections = (
            ModelSection.model_validate(model),
            PretrainSection.model_validate(pretrain),
            HardwareSection.model_validate(hardware),
        )
        from lemur.training import run as training

        made = training.pretrain(
            model=sections[0], pretrain=sections[1], hardware=sections[2], tokens=tokens, storage=storage, run=name
        )
        running.keep("initial", made.initial)
        running.keep("base", made.base)
        return made


def finetune(*, name: str, storage: str, finetune: Json, hardware: Json, base: Receipt, dialogues: Receipt) -> Receipt:
    """Tunes the base model on the dialogues.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        finetune: The finetune section.
        hardware: The hardware section.
        base: The pretrained model.
        dialogues: The dialogues.
    """
    with stage("finetune", storage=storage, run=name) as running:
        section, machine = FinetuneSection.model_validate(finetune), HardwareSection.model_validate(hardware)
        from lemur.training import run as training

        made = training.finetune(
            finetune=section, hardware=machine, base=base, dialogues=dialogues, storage=storage, run=name
        )
        return running.keep("chat", made)
