"""The stages that make a model: mix, pretrain, finetune."""

from __future__ import annotations

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


def mix(*, name: str, storage: str, model: Json, data: Json) -> Mixed:
    """Tokenizes and mixes the sources, and collects the dialogues.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        model: The model section; its tokenizer is used.
        data: The data section.
    """
    with stage("mix", storage=storage, run=name) as running:
        model_section, section = ModelSection.model_validate(model), DataSection.model_validate(data)
        from lemur.data.mixing import collect_dialogues, mix_tokens

        tokens = running.keep("tokens", mix_tokens(model=model_section, data=section, storage=storage))
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
