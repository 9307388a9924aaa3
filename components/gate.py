"""The gate step: the tuned model's scores are held against the recipe's rules."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Output

from components.images import image


@dsl.component(base_image=image("evaluate"), install_kfp_package=False)
def gate(
    name: str,
    storage: str,
    gate: dict,
    evaluation: dict,
    initial: Input[Metrics],
    base: Input[Metrics],
    chat: Input[Metrics],
    verdict: Output[Artifact],
):
    """Judges the tuned model; the verdict is stored whatever it says.

    Args:
        name: Name of the run.
        storage: Where results live.
        gate: The recipe's gate section.
        evaluation: The recipe's evaluation section; its level of confidence is used.
        initial: Receipt of the initial model's scores.
        base: Receipt of the base model's scores.
        chat: Receipt of the tuned model's scores.
        verdict: Receipt of the verdict.
    """
    from lemur import stages

    scores = {"initial": stages.take(initial), "base": stages.take(base), "chat": stages.take(chat)}
    made = stages.gate(name=name, storage=storage, gate=gate, evaluation=evaluation, scores=scores)
    stages.hand_over(made, verdict)
