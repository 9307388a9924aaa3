"""The evaluate step: one model is served and asked every benchmark of the recipe."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.images import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def evaluate(
    name: str,
    storage: str,
    role: str,
    evaluation: dict,
    serving: dict,
    model: Input[Model],
    tokens: Input[Dataset],
    scores: Output[Metrics],
):
    """Serves one model of the run (`role`: initial, base or chat) and scores its answers."""
    from lemur import stages

    made = stages.evaluate(
        name=name,
        storage=storage,
        role=role,
        evaluation=evaluation,
        serving=serving,
        model=stages.take(model),
        tokens=stages.take(tokens),
    )
    stages.hand_over(made, scores)
