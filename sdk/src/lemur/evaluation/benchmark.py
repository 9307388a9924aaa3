"""What every benchmark has in common: it asks a served model, and answers with figures and their intervals."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from lemur.plugins import Plugin


class ServedModel(NamedTuple):
    """A model behind an OpenAI-compatible URL; evaluation knows nothing else of it."""

    base_url: str
    """URL up to and including `/v1`."""
    name: str
    """The `model` of the requests."""
    chat: bool
    """Whether it was tuned on dialogues, so that `/chat/completions` makes sense."""
    api_key: str | None = None
    """Bearer token, where the server wants one."""


class Setting(NamedTuple):
    """What a benchmark is given besides the model."""

    heldout: Path
    """Folder with one `<source>.jsonl` of held-out documents for each source: `{"text": …, "group": …}`."""
    work: Path
    """Empty folder of its own for logs and samples; kept with the scores."""
    concurrency: int
    """Requests in flight at a time."""
    confidence: float
    """Level of the intervals, for example 0.95."""


class Figure(BaseModel):
    """One figure with its interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    """Lower end of the interval at the setting's level of confidence."""
    high: float
    """Upper end."""
    num_samples: int
    """Samples behind it."""
    better: Literal["higher", "lower"]
    """Which way is better."""
    unit: str
    """What is counted: `share of problems`, `bits per byte`."""
    method: str
    """How the interval was made, with its source: `Wilson score`, `bootstrap over documents`."""


class Sample(BaseModel):
    """What happened on one sample, so that two models can be compared sample by sample."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Same for every model."""
    metric: str
    """Figure the sample belongs to."""
    score: float
    """Its score: 0 or 1 for a problem, bits for a document."""
    weight: float = 1.0
    """What the score is divided by in a ratio: bytes of a document. The figure is sum(score) / sum(weight)."""
    prompt: str = ""
    """What was asked, shortened for display."""
    answer: str = ""
    """What the model said, shortened for display."""
    target: str = ""
    """What was expected."""
    note: str = ""
    """Why it failed, or the error that spoilt it."""


class BenchmarkResult(BaseModel):
    """All that a benchmark found out about one model."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    """Kind of the benchmark."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The benchmark's fields, as JSON: how it was asked."""
    figures: dict[str, Figure]
    """By metric."""
    samples: list[Sample]
    """Every sample, in order of `id`."""
    seconds: float = 0.0
    """How long it took."""
    note: str = ""
    """Why there are no figures, where the benchmark was skipped."""

    def samples_of(self, metric: str) -> list[Sample]:
        """Returns the samples behind a figure.

        A sample belongs to one metric; the metric named before an underscore is made of all its parts, as
        `accuracy` is of `accuracy_comparison` and `accuracy_boolean`.
        """
        own = [sample for sample in self.samples if sample.metric == metric]
        return own or [sample for sample in self.samples if sample.metric.startswith(f"{metric}_")]


class Benchmark(Plugin, abstract=True):
    """An exam: prompts, a way to ask and a scorer."""

    version: ClassVar[int] = 1
    """Counts changes of the prompts or the scoring; scores of another version are not taken for these."""

    def unavailable(self) -> str | None:
        """Returns why this benchmark would be skipped on this machine; `None` where it would run, or fail.

        Scores without it are kept apart from scores with it, so that they are made again where it can run.
        """
        return None

    @abstractmethod
    def evaluate(self, model: ServedModel, setting: Setting) -> BenchmarkResult:
        """Asks the model and scores the answers.

        Raises:
            ServingError: The server is gone; a single bad answer is a sample with a note instead.
            SandboxError: Code would have to run and there is no sandbox.
        """
