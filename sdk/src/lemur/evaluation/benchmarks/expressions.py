"""What small Python expressions print: the skill that the quickstart's tuning teaches."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from itertools import islice
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lemur.evaluation.asking import Answer, Generation, Mark, Question, ask
from lemur.evaluation.benchmark import Benchmark, BenchmarkResult, Figure, Sample, ServedModel, Setting
from lemur.evaluation.intervals import wilson
from lemur.expressions import Expression, generate


class ExpressionsBenchmark(Benchmark):
    """Asks what held-out expressions print; an answer counts when it is exactly right.

    A chat model is asked in a message. A base model continues the text of an interactive session, which is how
    Python's own documentation shows expressions, after a few solved examples.
    """

    kind: Literal["expressions"]
    num_samples: PositiveInt = 400
    """Expressions asked, drawn from those that no training dialogue holds; 400 give about ±5 points at 95 %."""
    num_shots: NonNegativeInt = 4
    """Solved examples, from the training split, before each question to a base model; a chat model gets none."""
    max_tokens: PositiveInt = 16
    """Longest answer in tokens; right answers are shorter."""
    seed: int = Field(default=0, ge=0, lt=2**53)
    """Seed of the draw of expressions."""

    def evaluate(self, model: ServedModel, setting: Setting) -> BenchmarkResult:
        """Asks every expression once, with temperature 0.

        Raises:
            ServingError: The server is gone.
            RecipeError: There are fewer held-out expressions than `num_samples`.
        """
        started = time.monotonic()
        expressions = {
            _identity(expression): expression for expression in generate("test", self.num_samples, seed=self.seed)
        }
        shots = "".join(
            f">>> {shot.code}\n{shot.completion}\n"
            for shot in islice(generate("train", self.num_shots, seed=self.seed), self.num_shots)
        )
        questions = [
            Question(
                id=name,
                prompt=expression.prompt if model.chat else f"{shots}>>> {expression.code}\n",
                target=expression.completion,
            )
            for name, expression in sorted(expressions.items())
        ]
        answers = ask(
            questions,
            name=self.kind,
            model=model,
            setting=setting,
            generation=Generation(self.max_tokens, stop=() if model.chat else ("\n",)),
            marker=_mark,
        )
        samples = [_sample(answer, expressions[answer.question.id]) for answer in answers]
        return BenchmarkResult(
            benchmark=self.kind,
            settings=self.model_dump(mode="json"),
            figures=_figures(samples, setting.confidence),
            samples=samples,
            seconds=time.monotonic() - started,
        )


async def _mark(question: Question, answer: str) -> Mark:
    right = answer.strip() == question.target
    return Mark(float(right), "" if right else "not what Python prints")


def _identity(expression: Expression) -> str:
    return hashlib.sha256(expression.code.encode()).hexdigest()[:12]


def _sample(answer: Answer, expression: Expression) -> Sample:
    return Sample(
        id=answer.question.id,
        metric=f"accuracy_{expression.family}",
        score=answer.mark.score,
        prompt=expression.prompt,
        answer=answer.text.strip()[:200],
        target=expression.completion,
        note=answer.mark.note,
    )


def _figures(samples: Sequence[Sample], confidence: float) -> dict[str, Figure]:
    by_metric: dict[str, list[float]] = {"accuracy": [sample.score for sample in samples]}
    for sample in sorted(samples, key=lambda one: one.metric):
        by_metric.setdefault(sample.metric, []).append(sample.score)
    figures = {}
    for metric, scores in by_metric.items():
        share = wilson(sum(scores), len(scores), confidence)
        figures[metric] = Figure(
            **share._asdict(),
            num_samples=len(scores),
            better="higher",
            unit="share of expressions",
            method="Wilson score interval",
        )
    return figures
