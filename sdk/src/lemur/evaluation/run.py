"""Asks a served model every benchmark of a recipe."""

from __future__ import annotations

from pathlib import Path

from lemur import progress
from lemur.errors import LemurError
from lemur.evaluation.benchmark import BenchmarkResult, ServedModel, Setting
from lemur.recipe import EvaluationSection

RESULT_NAME = "result.json"
"""What a benchmark that finished leaves in its folder."""


def evaluate(*, section: EvaluationSection, model: ServedModel, heldout: Path, work: Path) -> list[BenchmarkResult]:
    """Runs the benchmarks one after another, each in a folder of its own below `work`.

    A benchmark that fails does not keep the others from running: each result is in `<work>/<kind>/result.json` as
    soon as there is one, and the failures are raised at the end.

    Args:
        section: The recipe's evaluation section.
        model: Whom to ask.
        heldout: Folder with one `<source>.jsonl` of held-out documents for each source.
        work: Folder for logs and results.

    Returns:
        One result for each benchmark, in the recipe's order.

    Raises:
        LemurError: A benchmark failed; the message names each one that did and why. Its class is that of the first
            failure.
    """
    results: list[BenchmarkResult] = []
    failures: dict[str, LemurError] = {}
    with progress.task(f"evaluate {model.name}", total=len(section.benchmarks), unit="benchmarks") as bar:
        for benchmark in section.benchmarks:
            folder = work / benchmark.kind
            folder.mkdir(parents=True, exist_ok=True)
            setting = Setting(
                heldout=heldout, work=folder, concurrency=section.concurrency, confidence=section.confidence
            )
            try:
                result = benchmark.evaluate(model, setting)
            except LemurError as error:
                failures[benchmark.kind] = error
                progress.emit("note", text=f"benchmark {benchmark.kind} failed: {error}")
            else:
                (folder / RESULT_NAME).write_text(result.model_dump_json(), encoding="utf-8")
                results.append(result)
            bar.advance()
    if failures:
        first = next(iter(failures.values()))
        told = "; ".join(f"benchmark {kind} failed: {error}" for kind, error in failures.items())
        kept = ", ".join(result.benchmark for result in results)
        raise type(first)(f"{told} (finished, with results in {work}: {kept or 'none'})") from first
    return results
