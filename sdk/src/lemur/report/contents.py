"""What a report is made from: a run's receipts, and the few objects of its results that people want to see."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter

from lemur.errors import LemurError
from lemur.evaluation.benchmark import BenchmarkResult, Figure, Sample
from lemur.evaluation.gate import Judgement, Verdict
from lemur.receipt import Receipt
from lemur.run_record import TASKS

ROLES = ("initial", "base", "chat")
"""The models of a run, in the order they are made."""

Read = TypeVar("Read")


class LogPoint(BaseModel):
    """What a report takes from a line of a training run's `metrics.jsonl`."""

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Curve:
    """How a training run went."""

    points: list[LogPoint]
    """By increasing step, each step once; every one has a finite loss."""
    spoilt_steps: list[int]
    """Steps whose loss was not a number."""


class MetricKey(NamedTuple):
    """Names one figure of one benchmark."""

    benchmark: str
    metric: str


@dataclass(frozen=True)
class Contents:
    """All that a report shows."""

    receipts: Mapping[str, Receipt]
    """By task; a run that ended early has only some."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """By role: `base` and `chat`."""
    failed_samples: dict[str, list[Sample]] = field(default_factory=dict)
    """Problems the chat model did not solve, by benchmark; only those of figures that count problems."""
    problems: list[str] = field(default_factory=list)
    """Results that exist and could not be read, a sentence each."""

    @property
    def verdict(self) -> Verdict | None:
        """The gate's verdict, where there is one."""
        return Verdict.model_validate(self.receipts["verdict"].metadata) if "verdict" in self.receipts else None

    @property
    def judgements(self) -> list[Judgement]:
        """The gate's conditions and what came of each; none where there is no verdict."""
        return self.verdict.rules if self.verdict else []

    @property
    def missing(self) -> list[str]:
        """Tasks without a result."""
        return [task for task in TASKS if task not in self.receipts]


def read_contents(receipts: Mapping[str, Receipt]) -> Contents:
    """Reads what a report shows of a run's results.

    A result that cannot be read is named in `problems`, because a report is wanted most when something broke.

    Args:
        receipts: Receipts by task, any of them missing.
    """
    contents = Contents(receipts)
    with tempfile.TemporaryDirectory(prefix="lemur-report-") as scratch:
        for role in ("base", "chat"):
            curve = _attempt(contents, role, "metrics.jsonl", Path(scratch), _curve)
            if curve is not None:
                contents.curves[role] = curve
        failed = _attempt(contents, "scores_chat", "results.json", Path(scratch), _failed_samples)
    contents.failed_samples.update(failed or {})
    return contents


def figures_of(receipts: Mapping[str, Receipt]) -> dict[MetricKey, dict[str, Figure]]:
    """Returns every figure by benchmark and metric, then by role; in the order of the recipe's benchmarks."""
    found: dict[MetricKey, dict[str, Figure]] = {}
    for role in ROLES:
        receipt = receipts.get(f"scores_{role}")
        for benchmark, figures in (receipt.metadata.get("figures", {}) if receipt else {}).items():
            for metric, figure in figures.items():
                found.setdefault(MetricKey(benchmark, metric), {})[role] = Figure.model_validate(figure)
    return found


def confidence_of(receipts: Mapping[str, Receipt]) -> float:
    """Returns the level of the intervals; scores that do not say have the recipe's default of 0.95."""
    levels = [receipts[f"scores_{role}"].metadata.get("confidence") for role in ROLES if f"scores_{role}" in receipts]
    return next((level for level in levels if level), 0.95)


def seconds_of(receipt: Receipt | None) -> float | None:
    """Returns how long a result took to make, where its receipt says: in its metrics, or by benchmark."""
    if receipt is None:
        return None
    by_benchmark = receipt.metadata.get("seconds")
    if isinstance(by_benchmark, dict):
        return sum(by_benchmark.values())
    return receipt.metrics.get("seconds")


def _attempt(contents: Contents, task: str, name: str, scratch: Path, read: Callable[[str], Read]) -> Read | None:
    from lemur.results import fetch

    if task not in contents.receipts:
        return None
    receipt = contents.receipts[task]
    try:
        folder = fetch(receipt, scratch / task, [name])
        return read((folder / name).read_text(encoding="utf-8"))
    except (LemurError, OSError, ValueError) as error:
        contents.problems.append(f"{name} of the {TASKS[task]} ({receipt.uri}): {error}")
        return None


def _curve(text: str) -> Curve:
    # A step that was repeated after an interruption counts as it went the last time.
    by_step = {line.step: line for line in map(LogPoint.model_validate_json, text.splitlines())}
    logged = [point for _, point in sorted(by_step.items()) if point.loss is not None]
    return Curve(
        points=[point for point in logged if math.isfinite(point.loss or 0.0)],
        spoilt_steps=[point.step for point in logged if not math.isfinite(point.loss or 0.0)],
    )


def _failed_samples(text: str) -> dict[str, list[Sample]]:
    failed: dict[str, list[Sample]] = {}
    for result in TypeAdapter(list[BenchmarkResult]).validate_json(text):
        solved_or_not = {metric for metric, figure in result.figures.items() if figure.better == "higher"}
        for sample in result.samples:
            if sample.score == 0 and sample.metric in solved_or_not and sample.prompt:
                failed.setdefault(result.benchmark, []).append(sample)
    return failed


def is_part(key: MetricKey, figures: Iterable[MetricKey]) -> bool:
    """Tells whether a figure is a part of another one, by its name: `accuracy_comparison` of `accuracy`."""
    return any(key.benchmark == other.benchmark and key.metric.startswith(f"{other.metric}_") for other in figures)
