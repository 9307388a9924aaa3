"""The publish step: a model that passed the gate becomes a release."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components.images import image


@dsl.component(base_image=image("serve"), install_kfp_package=False)
def publish(name: str, storage: str, chat: Input[Model], verdict: Input[Artifact], release: Output[Model]):
    """Writes the release, or stops the run where the verdict refuses it."""
    from lemur import stages

    made = stages.publish(name=name, storage=storage, chat=stages.take(chat), verdict=stages.take(verdict))
    stages.hand_over(made, release)
