"""The mix step: raw text becomes a token mixture, dialogues become one file."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.images import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def mix(name: str, storage: str, model: dict, data: dict, tokens: Output[Dataset], dialogues: Output[Dataset]):
    """Tokenizes and mixes the sources, and collects the dialogues; hands on a receipt of each."""
    from lemur import stages

    made = stages.mix(name=name, storage=storage, model=model, data=data)
    stages.hand_over(made.tokens, tokens)
    stages.hand_over(made.dialogues, dialogues)
