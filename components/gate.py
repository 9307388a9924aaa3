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
    """Judges the scores of the chat model against the other two's; the verdict is stored whatever it says."""
    from lemur import stages

    scores = {"initial": stages.take(initial), "base": stages.take(base), "chat": stages.take(chat)}
    made = stages.gate(name=name, storage=storage, gate=gate, evaluation=evaluation, scores=scores)
    stages.hand_over(made, verdict)
