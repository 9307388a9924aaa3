"""The pretrain step: the initial model learns the token mixture."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def pretrain(
    name: str,
    storage: str,
    model: dict,
    pretrain: dict,
    hardware: dict,
    tokens: Input[Dataset],
    initial: Output[Model],
    base: Output[Model],
):
    """Makes the initial model and trains it on the mixture into the base model; hands on a receipt of each."""
    from lemur import stages

    made = stages.pretrain(
        name=name, storage=storage, model=model, pretrain=pretrain, hardware=hardware, tokens=stages.take(tokens)
    )
    stages.hand_over(made.initial, initial)
    stages.hand_over(made.base, base)
