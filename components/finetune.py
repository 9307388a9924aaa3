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
    """Tunes the base model on the dialogues into the chat model."""
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
