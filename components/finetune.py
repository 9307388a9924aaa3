"""The finetune step: the base model learns to answer in dialogues."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def finetune(
    name: str,
    storage: str,
    finetune: dict,
    hardware: dict,
    base: Input[Model],
    dialogues: Input[Dataset],
    chat: Output[Model],
):
    """Tunes the base model on dialogues.

    Args:
        name: Name of the run.
        storage: Where results live.
        finetune: The recipe's finetune section.
        hardware: The recipe's hardware section.
        base: Receipt of the pretrained model.
        dialogues: Receipt of the dialogues.
        chat: Receipt of the tuned model.
    """
    from lemur import stages

    made = stages.finetune(
        name=name,
        storage=storage,
        finetune=finetune,
        hardware=hardware,
        base=stages.take(base),
        dialogues=stages.take(dialogues),
    )
    stages.hand_over(made, chat)
