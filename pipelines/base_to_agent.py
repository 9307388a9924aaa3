"""From raw text to a served agent: the pipeline every recipe runs, on a laptop and in a cluster.

Steps are ordered by what they hand on and by nothing else.
"""

from kfp import dsl

from components.evaluate import evaluate as evaluate_step
from components.finetune import finetune as finetune_step
from components.gate import gate as gate_step
from components.mix import mix as mix_step
from components.partition import partition as partition_step
from components.pretrain import pretrain as pretrain_step
from components.publish import publish as publish_step
from components.serve import serve as serve_step
from components.tokenize import tokenize as tokenize_step


@dsl.pipeline(name="base-to-agent")
def base_to_agent(
    name: str,
    storage: str,
    model: dict,
    data: dict,
    pretrain: dict,
    finetune: dict,
    evaluation: dict,
    gate: dict,
    serving: dict,
    hardware: dict,
):
    """Mixes data, pretrains, tunes, evaluates, gates, publishes and serves.

    Args:
        name: Name of the run and of its release.
        storage: Where results live.
        model: The recipe's model section.
        data: The recipe's data section.
        pretrain: The recipe's pretrain section.
        finetune: The recipe's finetune section.
        evaluation: The recipe's evaluation section.
        gate: The recipe's gate section.
        serving: The recipe's serving section.
        hardware: The recipe's hardware section.
    """
    run = {"name": name, "storage": storage}
    listed = partition_step(**run, model=model, data=data)
    with dsl.ParallelFor(listed.outputs["Output"]) as worker:
        tokenized = tokenize_step(**run, data=data, worker=worker, partitions=listed.outputs["partitions"])
    mixed = mix_step(
        **run,
        data=data,
        partitions=listed.outputs["partitions"],
        documents=dsl.Collected(tokenized.outputs["documents"]),
    )
    trained = pretrain_step(**run, model=model, pretrain=pretrain, hardware=hardware, tokens=mixed.outputs["tokens"])
    tuned = finetune_step(
        **run,
        finetune=finetune,
        hardware=hardware,
        base=trained.outputs["base"],
        dialogues=mixed.outputs["dialogues"],
    )
    models = {
        "initial": trained.outputs["initial"],
        "base": trained.outputs["base"],
        "chat": tuned.outputs["chat"],
    }
    scores = {
        role: evaluate_step(
            **run,
            role=role,
            evaluation=evaluation,
            serving=serving,
            model=candidate,
            tokens=mixed.outputs["tokens"],
        ).outputs["scores"]
        for role, candidate in models.items()
    }
    judged = gate_step(**run, gate=gate, evaluation=evaluation, **scores)
    published = publish_step(**run, chat=tuned.outputs["chat"], verdict=judged.outputs["verdict"])
    serve_step(**run, serving=serving, release=published.outputs["release"])
