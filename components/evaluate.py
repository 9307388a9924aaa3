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
    """Serves a model and scores its answers.

    Args:
        name: Name of the run.
        storage: Where results live.
        role: Which model of the run this is: `initial`, `base` or `chat`.
        evaluation: The recipe's evaluation section.
        serving: The recipe's serving section; its runtime serves the model.
        model: Receipt of the model.
        tokens: Receipt of the token dataset, which holds the held-out documents.
        scores: Receipt of the scores; its metrics show in the UI.
    """
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
