"""How a report shows judgement: the figures of each model, the gate's rules, and what the models said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from lemur import units
from lemur.evaluation.benchmark import Figure, Sample
from lemur.evaluation.gate import Judgement
from lemur.report.charts import Dot, interval_chart, is_far
from lemur.report.contents import ROLES, Contents, MetricKey, figures_of, is_part

NUM_FAILED_SAMPLES = 3
"""Failed samples shown for each benchmark."""

_BETTER = {"higher": "higher is better", "lower": "lower is better"}
_ENDINGS = {"stop": "ended by itself", "length": "cut off at the limit of tokens"}


class MetricCard(NamedTuple):
    """One figure for every model that has it."""

    title: str
    benchmark: str
    metric: str
    unit: str
    better: str
    arrow: str
    chart: Markup
    cells: dict[str, tuple[str, str] | None]
    """By role: value and interval; `None` where the model has no such figure."""
    samples: str
    method: str
    is_detail: bool
    """Whether it is only a part of another figure, and none that the gate judges."""


class RuleRow(NamedTuple):
    """One rule of the gate and what came of it."""

    state: str
    """`pass`, `fail` or `cannot_tell`."""
    title: str
    condition: str
    sentence: str


class DialogueView(NamedTuple):
    """What a model was asked and said."""

    prompt: str
    reply: str
    ending: str
    whole: bool
    """Whether the reply ended by itself."""


class FailedSamples(NamedTuple):
    """A few problems of one benchmark that were not solved."""

    benchmark: str
    total: str
    shown: list[Sample]


def metric_title(key: MetricKey) -> str:
    """Returns a metric's name as a heading: `expressions: accuracy`, `bits per byte: code`."""
    # A benchmark with one measure, such as bits_per_byte, names its metrics after itself.
    part = key.metric.removeprefix(key.benchmark).strip("_")
    return f"{key.benchmark}{': ' if part else ''}{part}".replace("_", " ")


def comparison(by_role: Mapping[str, Figure]) -> str:
    """Returns how the newest model stands to the earlier ones: `base 3.0 %, initial 0.0 %`."""
    role = next(role for role in reversed(ROLES) if role in by_role)
    earlier = [other for other in reversed(ROLES) if other in by_role and other != role]
    if not earlier:
        return f"of the {role} model"
    return ", ".join(f"{other} {units.figure(by_role[other].value, by_role[other].unit)}" for other in earlier)


def metric_cards(contents: Contents) -> list[MetricCard]:
    """Returns every figure with its chart, in the order of the benchmarks."""
    figures = figures_of(contents.receipts)
    judged = judged_metrics(contents)
    return [
        _card(key, by_role, is_detail=is_part(key, figures) and key not in judged) for key, by_role in figures.items()
    ]


def judged_metrics(contents: Contents) -> set[MetricKey]:
    """Returns the figures that the gate's rules are about."""
    return {MetricKey(rule.benchmark, rule.metric) for rule in contents.judgements}


def has_arrows(contents: Contents) -> bool:
    """Says whether a chart points at an initial model instead of drawing it."""
    return any(
        is_far(_dot("initial", by_role["initial"]), [_dot(role, figure) for role, figure in by_role.items()])
        for by_role in figures_of(contents.receipts).values()
        if "initial" in by_role
    )


def rule_rows(contents: Contents) -> list[RuleRow]:
    """Returns the gate's rules with their outcomes."""
    return [
        RuleRow(rule.outcome, metric_title(MetricKey(rule.benchmark, rule.metric)), _condition(rule), rule.sentence)
        for rule in contents.judgements
    ]


def dialogue_views(contents: Contents) -> list[DialogueView]:
    """Returns the first dialogues with the release."""
    endpoint = contents.receipts.get("endpoint")
    dialogues = endpoint.metadata.get("dialogues", []) if endpoint else []
    return [_dialogue_view(dialogue) for dialogue in dialogues]


def failed_samples(contents: Contents) -> list[FailedSamples]:
    """Returns a few of the problems that the chat model did not solve, for each benchmark."""
    return [
        FailedSamples(benchmark, units.whole(len(samples)), _varied(samples)[:NUM_FAILED_SAMPLES])
        for benchmark, samples in contents.failed_samples.items()
    ]


def _dialogue_view(dialogue: Mapping[str, Any]) -> DialogueView:
    ended = dialogue["finish_reason"]
    how = [_ENDINGS.get(ended, f"ended: {ended}")]
    if "seconds" in dialogue:
        how.append(units.duration(dialogue["seconds"]))
    if "tokens_per_second" in dialogue:
        how.append(units.count(dialogue["tokens_per_second"], "tokens/s"))
    return DialogueView(dialogue["prompt"], dialogue["reply"], " \u00b7 ".join(how), ended == "stop")


def _varied(samples: Sequence[Sample]) -> list[Sample]:
    """Returns samples in turns by metric, so that the first few show different kinds of failure."""
    turns: dict[str, int] = {}
    ordered = []
    for sample in samples:
        turns[sample.metric] = turns.get(sample.metric, 0) + 1
        ordered.append((turns[sample.metric], sample))
    return [sample for _, sample in sorted(ordered, key=lambda pair: pair[0])]


def _dot(role: str, figure: Figure) -> Dot:
    return Dot(role, figure.value, figure.low, figure.high, units.figure(figure.value, figure.unit))


def _card(key: MetricKey, by_role: Mapping[str, Figure], *, is_detail: bool) -> MetricCard:
    first = next(iter(by_role.values()))
    cells: dict[str, tuple[str, str] | None] = {
        role: (units.figure(figure.value, figure.unit), units.interval(figure.low, figure.high, figure.unit))
        for role, figure in by_role.items()
    }
    counts = {figure.num_samples for figure in by_role.values()}
    return MetricCard(
        metric_title(key),
        key.benchmark,
        key.metric.replace("_", " "),
        first.unit,
        _BETTER[first.better],
        "\u2191" if first.better == "higher" else "\u2193",
        interval_chart([_dot(role, figure) for role, figure in by_role.items()], as_percent=units.is_share(first.unit)),
        {role: cells.get(role) for role in ROLES},
        " / ".join(units.whole(number) for number in sorted(counts)),
        first.method,
        is_detail,
    )


def _condition(rule: Judgement) -> str:
    unit, whom = rule.candidate.unit, "" if rule.model == "chat" else f"{rule.model} "
    if rule.condition != "better_than":
        return f"{whom}at {'least' if rule.condition == 'minimum' else 'most'} {_bound(rule.threshold, unit)}"
    if rule.threshold < 0:
        return f"{whom}at most {_bound(-rule.threshold, unit)} worse than {rule.baseline}"
    return f"{whom}better than {rule.baseline}" + (f" by {_bound(rule.threshold, unit)}" if rule.threshold else "")


def _bound(value: float, unit: str) -> str:
    """Returns a number that someone chose, so without digits it does not have."""
    return f"{100 * value:g}{units.NARROW}%" if units.is_share(unit) else f"{value:g}"
