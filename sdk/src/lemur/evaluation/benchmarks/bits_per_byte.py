"""How well a model predicts held-out documents, in bits per byte."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveInt

from lemur import progress
from lemur.errors import RecipeError, ServingError
from lemur.evaluation.benchmark import Benchmark, BenchmarkResult, Figure, Sample, ServedModel, Setting
from lemur.evaluation.intervals import bootstrap_ratio
from lemur.evaluation.perplexity import Cost, PromptScorer, RefusedError

_FEWEST_DOCUMENTS = 2
"""With one, drawing documents again shows no spread, which would look like certainty."""


class BitsPerByteBenchmark(Benchmark):
    """Bits per byte of held-out documents: sum of -log2 p of their tokens over their UTF-8 bytes.

    The measure of the Pile (Gao et al., arXiv 2101.00027, section 3.1): unlike perplexity per token it does not
    depend on the tokenizer. Where the server puts no begin-of-text token first, a document's first token has no
    probability and counts neither as bits nor as bytes. Long documents are read in windows that overlap.

    Asked directly with the OpenAI client rather than through inspect-ai, whose model interface does not carry the
    offsets of a prompt's tokens.
    """

    kind: Literal["bits_per_byte"]
    max_documents: PositiveInt = 64
    """Documents of each group at most; chosen by digest, so that the choice is spread evenly over the sources and
    is the same for every model."""
    max_bytes: PositiveInt = 8192
    """Bytes of each document at most, from its start."""
    context_tokens: PositiveInt | None = None
    """Longest prompt the server takes; `None` takes `max_model_len` of its `/v1/models`, or 2048 without it."""
    stride: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each window that is new; the rest is context. Smaller is slower and a little kinder to the model."""

    def evaluate(self, model: ServedModel, setting: Setting) -> BenchmarkResult:
        """Measures the chosen documents of every group.

        Raises:
            RecipeError: A group has fewer than two held-out documents.
            ServingError: The server is gone, gives no log-probabilities, or refuses all but one document of a group.
        """
        started = time.monotonic()
        documents = _choose(setting.heldout, self.max_documents, self.max_bytes)
        scorer = PromptScorer(model, context_tokens=self.context_tokens, stride=self.stride)
        with (
            progress.task(self.kind, total=len(documents), unit="documents") as bar,
            ThreadPoolExecutor(setting.concurrency) as pool,
        ):
            measuring = [pool.submit(_measure, scorer, document) for document in documents]
            try:
                for measured in as_completed(measuring):
                    measured.result()
                    bar.advance()
            finally:
                pool.shutdown(cancel_futures=True)
        samples = [measured.result() for measured in measuring]
        (setting.work / "samples.jsonl").write_text(
            "".join(sample.model_dump_json() + "\n" for sample in samples), encoding="utf-8"
        )
        return BenchmarkResult(
            benchmark=self.kind,
            settings=self.model_dump(mode="json"),
            figures=_figures(samples, setting.confidence),
            samples=samples,
            seconds=time.monotonic() - started,
        )


class _Document(NamedTuple):
    id: str
    group: str
    text: str
    origin: str


def _choose(heldout: Path, max_documents: int, max_bytes: int) -> list[_Document]:
    """Reads the held-out documents and keeps the first of each group in order of digest."""
    by_group: dict[str, dict[str, _Document]] = {}
    for path in sorted(heldout.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                group, text = record.get("group") or path.stem, record["text"]
                name = f"{group}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"
                # A cut inside a character would leave half of it.
                head = text.encode()[:max_bytes].decode("utf-8", "ignore")
                if head:
                    by_group.setdefault(group, {})[name] = _Document(name, group, head, record.get("origin", path.name))
    for group, documents in by_group.items() or [("any group", {})]:
        if len(documents) < _FEWEST_DOCUMENTS:
            raise RecipeError(
                f"bits_per_byte needs {_FEWEST_DOCUMENTS} held-out documents of each group to say how sure it is, and "
                f"there are {len(documents)} of {group}; raise data.heldout_fraction"
            )
    return [documents[name] for _, documents in sorted(by_group.items()) for name in sorted(documents)[:max_documents]]


def _measure(scorer: PromptScorer, document: _Document) -> Sample:
    cost, note = Cost(0.0, 0, 0), ""
    try:
        cost = scorer.measure(document.text)
    except RefusedError as error:
        note = f"not measured: {error}"
    return Sample(
        id=document.id,
        metric=f"bits_per_byte_{document.group}",
        score=cost.bits,
        weight=cost.num_bytes,
        prompt=document.text[:200],
        target=document.origin,
        note=note or ("too short to measure" if not cost.num_bytes else ""),
    )


def _figures(samples: Sequence[Sample], confidence: float) -> dict[str, Figure]:
    """Returns the ratio over all documents and over those of each group."""
    by_metric: dict[str, list[Sample]] = {}
    for sample in samples:
        for metric in ("bits_per_byte", sample.metric):
            by_metric.setdefault(metric, []).append(sample)
    figures = {}
    for metric, asked in sorted(by_metric.items()):
        measured = [sample for sample in asked if sample.weight]
        if len(measured) < _FEWEST_DOCUMENTS:
            (note, *_) = [sample.note for sample in asked if not sample.weight]
            raise ServingError(f"{metric}: {len(measured)} of {len(asked)} documents could be measured; one was {note}")
        ratio = bootstrap_ratio(
            [sample.score for sample in measured], [sample.weight for sample in measured], confidence=confidence
        )
        figures[metric] = Figure(
            **ratio._asdict(),
            num_samples=len(measured),
            better="lower",
            unit="bits per byte",
            method="bootstrap over documents",
        )
    return figures
