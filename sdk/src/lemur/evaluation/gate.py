"""The gate: a recipe's rules, judged with the intervals of the figures, in three outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lemur.errors import RecipeError
from lemur.evaluation.benchmark import BenchmarkResult, Figure, Sample
from lemur.evaluation.intervals import Interval, difference_of_independent, paired_bootstrap
from lemur.recipe import GateSection, Rule

Outcome = Literal["pass", "fail", "cannot_tell"]


class Judgement(BaseModel):
    """One condition of one rule, and what the figures say about it."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    """Kind of the benchmark."""
    metric: str
    """Metric of the benchmark."""
    model: Literal["chat", "base"] = "chat"
    """The model that was judged."""
    condition: Literal["minimum", "maximum", "better_than"]
    """Which condition of the rule this is."""
    outcome: Outcome
    """`pass` or `fail` where the whole interval is on one side of the threshold, `cannot_tell` where it is not."""
    candidate: Figure
    """The candidate's figure."""
    baseline: Literal["initial", "base"] | None = None
    """The model it was compared with, for `better_than`."""
    baseline_figure: Figure | None = None
    """That model's figure."""
    value: float
    """What was judged: the figure, or how much better than the baseline's it is (positive is better)."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
    threshold: float
    """What it is judged by: the minimum, the maximum or the margin."""
    method: str
    """How the interval was made."""
    num_samples: int
    """Samples behind it."""
    num_samples_needed: int | None = None
    """About how many samples would decide, if the value stayed as it is; `None` where it is decided, or where the
    value lies on the threshold and no number would."""
    sentence: str
    """All of this in words."""


class Verdict(BaseModel):
    """What the gate says about a candidate."""

    model_config = ConfigDict(frozen=True)

    outcome: Outcome
    """`fail` where any rule fails, else `cannot_tell` where any cannot be told, else `pass`."""
    accepted: bool
    """Whether the candidate may be published, given the recipe's `cannot_tell`."""
    confidence: float
    """Level of the intervals."""
    rules: list[Judgement]
    """Every condition of every rule, in the recipe's order."""

    def sentence(self) -> str:
        """Returns the verdict in words: the outcome, and each condition that is not met."""
        if not self.rules:
            return "pass: the recipe has no rules"
        total = len(self.rules)
        if self.outcome == "pass":
            return f"pass: {'the rule holds' if total == 1 else f'all {total} rules hold'}"
        reasons = "; ".join(rule.sentence for rule in self.rules if rule.outcome == self.outcome)
        accepted = " (accepted, because the recipe says so)" if self.accepted else ""
        return f"{self.outcome.replace('_', ' ')}{accepted}: {reasons}"

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns one row for each condition, to print: what was judged, the outcome, and why."""
        return [
            (f"{rule.benchmark}/{rule.metric} {rule.condition}", rule.outcome.replace("_", " "), rule.sentence)
            for rule in self.rules
        ]


def judge(
    section: GateSection,
    *,
    candidate: list[BenchmarkResult],
    initial: list[BenchmarkResult],
    base: list[BenchmarkResult],
    confidence: float,
) -> Verdict:
    """Judges a candidate by the recipe's rules.

    Args:
        section: The gate section.
        candidate: Results of the tuned model.
        initial: Results of the model before training.
        base: Results of the pretrained model.
        confidence: Level of the intervals of differences; figures carry their own intervals.

    Raises:
        RecipeError: A rule names a benchmark or metric that was not measured; names those that were.
    """
    results = {"initial": initial, "base": base, "chat": candidate}
    judgements: list[Judgement] = []
    for rule in section.rules:
        result = _find(results[rule.model], rule, rule.model)
        if rule.minimum is not None:
            judgements.append(_against_threshold(rule, result, "minimum", rule.minimum))
        if rule.maximum is not None:
            judgements.append(_against_threshold(rule, result, "maximum", rule.maximum))
        if rule.better_than is not None:
            baseline = _find(results[rule.better_than], rule, rule.better_than)
            judgements.append(_against_baseline(rule, result, baseline, confidence))
    outcomes = {judgement.outcome for judgement in judgements}
    outcome: Outcome = "fail" if "fail" in outcomes else "cannot_tell" if "cannot_tell" in outcomes else "pass"
    accepted = outcome == "pass" or (outcome == "cannot_tell" and section.cannot_tell == "accept")
    return Verdict(outcome=outcome, accepted=accepted, confidence=confidence, rules=judgements)


def _find(results: Sequence[BenchmarkResult], rule: Rule, role: str) -> BenchmarkResult:
    by_name = {result.benchmark: result for result in results}
    if rule.benchmark not in by_name:
        raise RecipeError(
            f"gate rule on benchmark {rule.benchmark!r}, which the {role} model was not asked; it was asked: "
            f"{', '.join(sorted(by_name)) or 'none'}"
        )
    figures = by_name[rule.benchmark].figures
    if rule.metric not in figures:
        raise RecipeError(
            f"gate rule on metric {rule.metric!r}, which benchmark {rule.benchmark!r} did not measure on the {role} "
            f"model; it measured: {', '.join(sorted(figures)) or by_name[rule.benchmark].note or 'nothing'}"
        )
    return by_name[rule.benchmark]


def _against_threshold(
    rule: Rule, result: BenchmarkResult, condition: Literal["minimum", "maximum"], threshold: float
) -> Judgement:
    figure = result.figures[rule.metric]
    sign = 1.0 if condition == "minimum" else -1.0
    worst, best = sorted((sign * figure.low, sign * figure.high))
    outcome: Outcome = "pass" if worst >= sign * threshold else "fail" if best < sign * threshold else "cannot_tell"
    interval = Interval(figure.value, figure.low, figure.high)
    needed = _num_needed(interval, threshold, figure.num_samples) if outcome == "cannot_tell" else None
    relation = {
        "pass": f"is {'at least' if condition == 'minimum' else 'at most'}",
        "fail": f"is {'below' if condition == 'minimum' else 'above'}",
        "cannot_tell": "may be on either side of",
    }[outcome]
    return Judgement(
        benchmark=rule.benchmark,
        metric=rule.metric,
        model=rule.model,
        condition=condition,
        outcome=outcome,
        candidate=figure,
        **interval._asdict(),
        threshold=threshold,
        method=figure.method,
        num_samples=figure.num_samples,
        num_samples_needed=needed,
        sentence=f"{rule.benchmark}/{rule.metric} of {_shown(interval)} ({rule.model}) {relation} the {condition} of "
        f"{threshold:g}" + _advice(outcome, needed, figure.num_samples),
    )


def _against_baseline(
    rule: Rule, candidate: BenchmarkResult, baseline: BenchmarkResult, confidence: float
) -> Judgement:
    assert rule.better_than is not None
    ours, theirs = candidate.figures[rule.metric], baseline.figures[rule.metric]
    gain, method, num_samples = _gain(candidate, baseline, rule.metric, confidence)
    # At least one sample must tell the models apart, so an interval that ends on the margin has not passed it.
    outcome: Outcome = "pass" if gain.low > rule.margin else "fail" if gain.high <= rule.margin else "cannot_tell"
    needed = _num_needed(gain, rule.margin, num_samples) if outcome == "cannot_tell" else None
    relation = {"pass": "is more than", "fail": "is not more than", "cannot_tell": "may or may not be more than"}[
        outcome
    ]
    return Judgement(
        benchmark=rule.benchmark,
        metric=rule.metric,
        model=rule.model,
        condition="better_than",
        outcome=outcome,
        candidate=ours,
        baseline=rule.better_than,
        baseline_figure=theirs,
        **gain._asdict(),
        threshold=rule.margin,
        method=method,
        num_samples=num_samples,
        num_samples_needed=needed,
        sentence=f"{rule.benchmark}/{rule.metric} went from {theirs.value:.4g} ({rule.better_than}) to "
        f"{ours.value:.4g} ({rule.model}), {ours.better} is better: a gain of {_shown(gain)} {relation} the margin of "
        f"{rule.margin:g}" + _advice(outcome, needed, num_samples),
    )


def _gain(
    candidate: BenchmarkResult, baseline: BenchmarkResult, metric: str, confidence: float
) -> tuple[Interval, str, int]:
    """Returns how much better the candidate is, how that interval was made, and the number of samples behind it."""
    ours, theirs = _by_id(candidate, metric), _by_id(baseline, metric)
    figure, other = candidate.figures[metric], baseline.figures[metric]
    both = sorted(ours.keys() & theirs.keys())
    paired = both and len(both) == len(ours) == len(theirs)
    differences = {ours[name].score - theirs[name].score for name in both}
    # Where every pair differs by the same amount, drawing pairs again can show no spread, however few they are.
    if paired and len(differences) > 1:
        difference = paired_bootstrap(
            ([ours[name].score for name in both], [ours[name].weight for name in both]),
            ([theirs[name].score for name in both], [theirs[name].weight for name in both]),
            confidence=confidence,
        )
        method, num_samples = "paired bootstrap over samples", len(both)
    else:
        difference = difference_of_independent(
            Interval(figure.value, figure.low, figure.high), Interval(other.value, other.low, other.high)
        )
        method, num_samples = "difference of independent intervals", min(figure.num_samples, other.num_samples)
    if figure.better == "lower":
        difference = Interval(-difference.value, -difference.high, -difference.low)
    return difference, method, num_samples


def _by_id(result: BenchmarkResult, metric: str) -> dict[str, Sample]:
    return {sample.id: sample for sample in result.samples_of(metric) if sample.weight > 0}


def _num_needed(interval: Interval, threshold: float, num_samples: int) -> int | None:
    """Returns about how many samples narrow the interval until it leaves the threshold out.

    An interval's width goes with 1 / sqrt(samples), so the width w towards the threshold must shrink to its
    distance d: n (w / d)^2.
    """
    distance = abs(interval.value - threshold)
    if distance == 0:
        return None
    width = interval.value - interval.low if interval.value > threshold else interval.high - interval.value
    return max(num_samples + 1, math.ceil(num_samples * (width / distance) ** 2))


def _shown(interval: Interval) -> str:
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def _advice(outcome: Outcome, needed: int | None, num_samples: int) -> str:
    if outcome != "cannot_tell":
        return ""
    if needed is None:
        return f"; {num_samples:,} samples lie exactly on it, and more would not decide"
    return f"; about {needed:,} samples would decide, and there are {num_samples:,}"
