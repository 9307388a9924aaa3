"""The partition step: the tokenizer, and what it is applied to."""

from typing import List  # noqa: UP035 -- the compiler knows this one

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def partition(name: str, storage: str, model: dict, data: dict, partitions: Output[Dataset]) -> List[int]:  # noqa: UP006
    """Makes the tokenizer and lists the partitions of all sources; returns one number for each worker."""
    from lemur import stages

    made = stages.partition(name=name, storage=storage, model=model, data=data)
    stages.hand_over(made.partitions, partitions)
    return made.workers
