"""The stages that judge a model: evaluate and gate."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from lemur.receipt import Receipt, result_key
from lemur.recipe import EvaluationSection, GateSection, ServingSection
from lemur.results import fetch, write_result
from lemur.stages.envelope import stage
from lemur.storage import open_storage

Json = dict[str, Any]


def evaluate(
    *,
    name: str,
    storage: str,
    role: str,
    evaluation: Json,
    serving: Json,
    model: Receipt,
    tokens: Receipt,
) -> Receipt:
    """Serves a model and asks it every benchmark.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        role: Which model of the run this is: `initial`, `base` or `chat`.
        evaluation: The evaluation section.
        serving: The serving section; its runtime serves the model.
        model: The model.
        tokens: The token mixture, which holds the held-out documents.
    """
    with stage("evaluate", storage=storage, run=name, role=role) as running:
        section, server = EvaluationSection.model_validate(evaluation), ServingSection.model_validate(serving)
        asked = {"evaluation": section.model_dump(mode="json", exclude={"concurrency"}), "role": role}
        asked["versions"] = {benchmark.kind: benchmark.version for benchmark in section.benchmarks}
        asked["skipped"] = [benchmark.kind for benchmark in section.benchmarks if benchmark.unavailable()]
        asked["runtime"] = server.runtime.model_dump(mode="json")
        parents = {"model": model, "tokens": tokens}
        key = result_key("evaluate", asked, parents)
        prefix = f"scores/{key[:16]}"
        found = running.reuse(storage, prefix)
        if found is None:
            writer = write_result(storage, prefix=prefix, kind="scores", stage="evaluate", key=key, parents=parents)
            with tempfile.TemporaryDirectory(prefix="lemur-evaluate-") as scratch:
                results = _ask(section, server, role=role, model=model, tokens=tokens, work=Path(scratch))
                writer.add_bytes(
                    "results.json", json.dumps([result.model_dump(mode="json") for result in results]).encode()
                )
                writer.add_folder(Path(scratch) / "logs", "logs")
                found = writer.commit(
                    metrics={
                        f"{result.benchmark}/{metric}": figure.value
                        for result in results
                        for metric, figure in result.figures.items()
                    },
                    metadata={
                        "role": role,
                        "figures": {
                            result.benchmark: {
                                metric: figure.model_dump(mode="json") for metric, figure in result.figures.items()
                            }
                            for result in results
                        },
                        "seconds": {result.benchmark: round(result.seconds, 1) for result in results},
                        "confidence": section.confidence,
                    },
                )
        return running.keep(f"scores_{role}", found)


def _ask(
    section: EvaluationSection, server: ServingSection, *, role: str, model: Receipt, tokens: Receipt, work: Path
) -> list[Any]:
    from lemur.evaluation import run
    from lemur.evaluation.benchmark import ServedModel

    logs = work / "logs"
    logs.mkdir()
    weights = fetch(model, work / "model")
    names = [stored.name for stored in open_storage(tokens.uri).list("heldout/")]
    heldout = fetch(tokens, work / "tokens", names) / "heldout"
    with server.runtime.serving(weights, name=role, log=logs / "server.log") as base_url:
        served = ServedModel(base_url=base_url, name=role, chat=role == "chat")
        return run.evaluate(section=section, model=served, heldout=heldout, work=logs)


def gate(*, name: str, storage: str, gate: Json, evaluation: Json, scores: dict[str, Receipt]) -> Receipt:
    """Judges the tuned model by the recipe's rules.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        gate: The gate section.
        evaluation: The evaluation section; its level of confidence is used.
        scores: Scores by role: `initial`, `base` and `chat`.

    Returns:
        The verdict, whatever it says; publishing refuses one that is not a pass.
    """
    with stage("gate", storage=storage, run=name) as running:
        section = GateSection.model_validate(gate)
        confidence = EvaluationSection.model_validate(evaluation).confidence
        key = result_key("gate", section.model_dump(mode="json"), scores, confidence=confidence)
        prefix = f"verdicts/{key[:16]}"
        found = running.reuse(storage, prefix)
        if found is None:
            from lemur.evaluation.benchmark import BenchmarkResult
            from lemur.evaluation.gate import judge

            results = {
                role: [
                    BenchmarkResult.model_validate(result)
                    for result in json.loads(open_storage(receipt.uri).read("results.json"))
                ]
                for role, receipt in scores.items()
            }
            verdict = judge(
                section,
                candidate=results["chat"],
                initial=results["initial"],
                base=results["base"],
                confidence=confidence,
            )
            writer = write_result(storage, prefix=prefix, kind="verdict", stage="gate", key=key, parents=scores)
            writer.add_bytes("verdict.json", verdict.model_dump_json(indent=2).encode())
            found = writer.commit(metadata=verdict.model_dump(mode="json"))
        return running.keep("verdict", found)
