"""The serve step: the release answers at an OpenAI-compatible URL."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components.images import image


@dsl.component(base_image=image("serve"), install_kfp_package=False)
def serve(name: str, storage: str, serving: dict, release: Input[Model], endpoint: Output[Artifact]):
    """Serves the release, and keeps what it says to the first prompts."""
    from lemur import stages

    made = stages.serve(name=name, storage=storage, serving=serving, release=stages.take(release))
    stages.hand_over(made, endpoint)
