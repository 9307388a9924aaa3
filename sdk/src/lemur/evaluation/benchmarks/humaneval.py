"""Functions completed from their docstrings, judged by tests that run in the sandbox."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from lemur import progress
from lemur.errors import SandboxError
from lemur.evaluation.asking import Answer, Generation, Mark, Marker, Question, ask
from lemur.evaluation.benchmark import Benchmark, BenchmarkResult, Figure, Sample, ServedModel, Setting
from lemur.evaluation.intervals import pass_at_k, wilson
from lemur.evaluation.python_problems import (
    STOP_SEQUENCES,
    Problem,
    code_in,
    cut_at,
    load_problems,
    new_receipt,
    program,
    up_to_last_return,
)
from lemur.evaluation.sandbox import Limits, Sandbox, open_sandbox

_INSTRUCTION = "Complete the following python function.\n\n\n"
_PREFILL = "Here is the completed function:\n\n\n"


class HumanEvalBenchmark(Benchmark):
    """HumanEval (Chen et al., arXiv 2107.03374), 0-shot, with the settings of Lemur's own script as defaults.

    A base model continues the prompt. A chat model is asked to complete the function; with `prefill` its answer
    begins with "Here is the completed function" and the prompt, as in Lemur's script, which needs a server that
    continues a started answer.
    """

    kind: Literal["humaneval"]
    path: str | None = None
    """A `HumanEval.jsonl` or `.jsonl.gz`; `None` takes the project's own problems, which are few and easy."""
    num_samples_per_problem: PositiveInt = 1
    """Answers to each problem; pass@k needs at least k."""
    pass_at: Annotated[list[PositiveInt], Field(min_length=1, default_factory=lambda: [1])]
    """Each k for which pass@k is reported, as `pass_at_<k>`."""
    temperature: NonNegativeFloat = 0.2
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of the probability that tokens are drawn from."""
    max_tokens: PositiveInt = 512
    """Longest answer in tokens."""
    prefill: bool = False
    """Whether a chat model's answer is started for it, through `continue_final_message`, which vLLM knows."""
    timeout_seconds: PositiveFloat = 10.0
    """Time a program may run."""
    without_sandbox: Literal["refuse", "skip"] = "refuse"
    """What happens where bubblewrap is missing: `refuse` fails the evaluation, `skip` goes on without this benchmark
    and says so in its result. Answers never run outside a sandbox."""

    @field_validator("pass_at")
    @classmethod
    def _once(cls, pass_at: list[int]) -> list[int]:
        return sorted(set(pass_at))

    @model_validator(mode="after")
    def _enough_answers(self) -> HumanEvalBenchmark:
        if max(self.pass_at) > self.num_samples_per_problem:
            raise ValueError(
                f"pass_at {max(self.pass_at)} needs as many answers to each problem, and num_samples_per_problem is "
                f"{self.num_samples_per_problem}"
            )
        return self

    def unavailable(self) -> str | None:
        """Returns why there is no sandbox, where the recipe goes on without one."""
        if self.without_sandbox == "refuse":
            return None
        try:
            open_sandbox()
        except SandboxError as error:
            return str(error)
        return None

    def evaluate(self, model: ServedModel, setting: Setting) -> BenchmarkResult:
        """Asks for every function and runs every answer.

        Raises:
            RecipeError: The problems cannot be read.
            SandboxError: There is no sandbox to run the answers in, and `without_sandbox` is `refuse`.
            ServingError: The server is gone.
        """
        started = time.monotonic()
        reason = self.unavailable()
        if reason:
            progress.emit("note", text=f"{self.kind} is skipped: {reason}")
            return BenchmarkResult(
                benchmark=self.kind, settings=self.model_dump(mode="json"), figures={}, samples=[], note=reason
            )
        sandbox = open_sandbox()
        problems = {problem.task_id: problem for problem in load_problems(Path(self.path) if self.path else None)}
        answers = ask(
            [self._question(problem, model.chat) for problem in problems.values()],
            name=self.kind,
            model=model,
            setting=setting,
            generation=Generation(
                self.max_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                stop=() if model.chat else STOP_SEQUENCES,
                num_answers=self.num_samples_per_problem,
            ),
            marker=self._marker(problems, sandbox, chat=model.chat),
        )
        samples = _samples(answers, self.pass_at)
        return BenchmarkResult(
            benchmark=self.kind,
            settings=self.model_dump(mode="json"),
            figures={
                f"pass_at_{k}": _figure([one for one in samples if one.metric == f"pass_at_{k}"], setting.confidence)
                for k in self.pass_at
            },
            samples=samples,
            seconds=time.monotonic() - started,
        )

    def _question(self, problem: Problem, chat: bool) -> Question:
        if not chat:
            return Question(problem.task_id, problem.prompt, problem.canonical_solution)
        started = _PREFILL + problem.prompt if self.prefill else ""
        return Question(problem.task_id, _INSTRUCTION + problem.prompt, problem.canonical_solution, started)

    def _marker(self, problems: Mapping[str, Problem], sandbox: Sandbox, *, chat: bool) -> Marker:
        from anyio import CapacityLimiter, to_thread

        limits = Limits(wall_seconds=self.timeout_seconds)
        limiter = CapacityLimiter(os.cpu_count() or 1)

        async def mark(question: Question, answer: str) -> Mark:
            receipt = new_receipt()
            source = program(problems[question.id], self._code(answer, chat=chat), receipt=receipt)
            execution = await to_thread.run_sync(sandbox.run_python, source, limits, limiter=limiter)
            passed = execution.exit_code == 0 and execution.output.endswith(f"{receipt}\n")
            return Mark(float(passed), "" if passed else execution.complaint or "ended before its tests did")

        return mark

    def _code(self, answer: str, *, chat: bool) -> str:
        if not chat:
            return cut_at(answer, STOP_SEQUENCES)
        return up_to_last_return(answer) if self.prefill else code_in(answer)


def _samples(answers: Sequence[Answer], pass_at: Sequence[int]) -> list[Sample]:
    """Returns one sample for each k and problem, scored with the estimate of pass@k."""
    by_problem: dict[str, list[Answer]] = {}
    for answer in answers:
        by_problem.setdefault(answer.question.id, []).append(answer)
    samples = []
    for k in pass_at:
        for name, given in sorted(by_problem.items()):
            num_correct = sum(answer.mark.score == 1 for answer in given)
            # What is shown is a wrong answer where there is one: that is what people look for.
            shown = min(given, key=lambda answer: answer.mark.score)
            samples.append(
                Sample(
                    id=name,
                    metric=f"pass_at_{k}",
                    score=pass_at_k(len(given), num_correct, k),
                    prompt=shown.question.prompt[:1000],
                    answer=shown.text[:1000],
                    target=shown.question.target[:1000],
                    note=shown.mark.note,
                )
            )
    return samples


def _figure(samples: Sequence[Sample], confidence: float) -> Figure:
    # Estimates of pass@k spread less than answers that are right or wrong, so the interval is wide enough for them too.
    interval = wilson(sum(sample.score for sample in samples), len(samples), confidence)
    return Figure(
        **interval._asdict(),
        num_samples=len(samples),
        better="higher",
        unit="share of problems",
        method="Wilson score interval over problems",
    )
