"""The tokenize step: one worker's part of the partitions becomes tokens."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def tokenize(name: str, storage: str, data: dict, worker: int, partitions: Input[Dataset], documents: Output[Dataset]):
    """Tokenizes every n-th partition, and hands on a list with the receipt of each."""
    from lemur import stages

    made = stages.tokenize(name=name, storage=storage, data=data, worker=worker, partitions=stages.take(partitions))
    stages.hand_over_all(made, documents)
