"""The mix step: tokenized documents become a mixture, dialogues become one file."""

from typing import List  # noqa: UP035 -- the compiler knows this one

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def mix(
    name: str,
    storage: str,
    data: dict,
    partitions: Input[Dataset],
    documents: Input[List[Dataset]],  # noqa: UP006
    tokens: Output[Dataset],
    dialogues: Output[Dataset],
):
    """Decides which documents stay, mixes them, and collects the dialogues; hands on a receipt of each."""
    from lemur import stages

    listed, made = stages.take(partitions), stages.take_all(documents)
    mixed = stages.mix(name=name, storage=storage, data=data, partitions=listed, documents=made)
    stages.hand_over(mixed.tokens, tokens)
    stages.hand_over(mixed.dialogues, dialogues)
