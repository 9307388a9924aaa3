"""The evaluation and gate sections: what models are asked, and what must come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from lemur.plugins import OneOf, Section

if TYPE_CHECKING:
    from lemur.evaluation.benchmark import Benchmark
else:
    Benchmark = Annotated[Any, OneOf("lemur.evaluation.benchmarks")]


class EvaluationSection(Section):
    """What the initial, the base and the tuned model are asked."""

    benchmarks: Annotated[list[Benchmark], Field(min_length=1)]
    """Benchmarks, each once."""
    concurrency: PositiveInt = 8
    """Requests in flight at a time."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of every interval that is reported."""

    @field_validator("benchmarks")
    @classmethod
    def _once(cls, benchmarks: list[Benchmark]) -> list[Benchmark]:
        kinds = [benchmark.kind for benchmark in benchmarks]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"benchmark {kind!r} is listed twice")
        return benchmarks


class Rule(Section):
    """One condition of the gate on one figure of one model."""

    model: Literal["chat", "base"] = "chat"
    """Whom the rule judges: `chat`, the tuned model that would be published, or `base`, the pretrained one it was
    made from, so that a release can be refused because pretraining went wrong."""

    benchmark: str
    """Kind of a benchmark that the evaluation section lists."""
    metric: str
    """One of its metrics, for example `accuracy` or `bits_per_byte_code`."""
    minimum: float | None = None
    """The figure must be at least this."""
    maximum: float | None = None
    """The figure must be at most this."""
    better_than: Literal["initial", "base"] | None = None
    """The figure must be better than this model's by more than chance: the interval of the difference
    excludes `margin`. `initial` is the model before training, `base` the pretrained one."""
    margin: float = 0.0
    """How much better it must be; negative allows that much loss, which makes the rule one of no regression."""

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.minimum is None and self.maximum is None and self.better_than is None:
            raise ValueError("a rule needs `minimum`, `maximum` or `better_than`")
        if self.better_than == self.model:
            raise ValueError(f"a rule on model {self.model!r} cannot ask that it be better than itself")
        return self


class GateSection(Section):
    """What the tuned model must reach before it is published."""

    rules: list[Rule] = Field(default_factory=list)
    """All must hold; with none, every model passes."""
    cannot_tell: Literal["refuse", "accept"] = "refuse"
    """What happens where the samples are too few to decide a rule."""
