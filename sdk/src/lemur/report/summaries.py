"""The same results in few words: a table for the terminal, JSON for programs, Markdown for the Kubeflow UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lemur import units
from lemur.evaluation.benchmark import Figure
from lemur.evaluation.gate import Verdict
from lemur.receipt import Receipt
from lemur.report.contents import ROLES, MetricKey, confidence_of, figures_of, is_part
from lemur.run_record import TASKS

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_STYLES = {"initial": "dim", "base": "", "chat": "bold"}
_ARROWS = {"higher": "\u2191", "lower": "\u2193"}


def summary_table(receipts: Mapping[str, Receipt]) -> Table:
    """Returns the scores of a run as a table for the terminal: a row for each figure, a column for each model.

    Figures that are parts of another one are left to the report, unless the gate judged them.

    Args:
        receipts: Receipts by task; a model without scores has an empty column.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    level = units.percent(confidence_of(receipts), 0)
    caption = (
        f"below each figure its {level} interval; {_ARROWS['higher']} higher is better, {_ARROWS['lower']} lower is"
    )
    table = Table(caption=caption, caption_justify="left", box=box.HORIZONTALS)
    table.add_column("figure")
    for role in ROLES:
        table.add_column(role, justify="right", no_wrap=True)
    figures = figures_of(receipts)
    judged = _judged(receipts)
    for key, by_role in figures.items():
        if is_part(key, figures) and key not in judged:
            continue
        any_figure = next(iter(by_role.values()))
        # As text, because brackets in a name are no markup.
        name = Text(f"{_ARROWS[any_figure.better]} {key.metric}", style="bold")
        name.append(f"\n  {key.benchmark}, {any_figure.unit}", style="not bold dim")
        table.add_row(name, *(_cell(by_role.get(role), role) for role in ROLES))
    return table


def summary(receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """Returns what a run came to as JSON: verdict, scores by benchmark and metric, and where each result is.

    Args:
        receipts: Receipts by task; tasks without one are listed under `missing`.
    """
    scores: dict[str, dict[str, Any]] = {}
    for key, by_role in figures_of(receipts).items():
        any_figure = next(iter(by_role.values()))
        scores.setdefault(key.benchmark, {})[key.metric] = {
            "unit": any_figure.unit,
            "better": any_figure.better,
            **{
                role: figure.model_dump(include={"value", "low", "high", "num_samples"})
                for role, figure in by_role.items()
            },
        }
    return {
        "verdict": receipts["verdict"].metadata if "verdict" in receipts else None,
        "confidence": confidence_of(receipts),
        "scores": scores,
        "training": {role: receipts[role].metrics for role in ("base", "chat") if role in receipts},
        "results": {
            task: {"uri": receipt.uri, "digest": receipt.digest, "size_bytes": receipt.size_bytes}
            for task, receipt in receipts.items()
        },
        "missing": [task for task in TASKS if task not in receipts],
    }


def markdown_summary(receipt: Receipt) -> str:
    """Returns a short account of one result in Markdown, for the Kubeflow UI.

    Args:
        receipt: Any result; scores get a table of figures, a verdict its rules, anything else its metrics.
    """
    lines = [f"## {receipt.kind}, made by {_markdown(receipt.stage)}", ""]
    if receipt.kind == "scores":
        lines += _scores_lines(receipt)
    elif receipt.kind == "verdict":
        verdict = Verdict.model_validate(receipt.metadata)
        lines += [f"**{'accepted' if verdict.accepted else 'not accepted'}**", ""]
        lines += [f"- {outcome}: {_markdown(sentence)}" for _, outcome, sentence in verdict.rows()]
    elif receipt.metrics:
        lines += ["| metric | value |", "| --- | ---: |"]
        lines += [f"| {_markdown(name)} | {units.digits(value, 4)} |" for name, value in receipt.metrics.items()]
    place = f"`{receipt.uri}`, {units.size(receipt.size_bytes)} in {units.count(receipt.num_objects, 'objects')}"
    return "\n".join([*lines, "", place, "", f"sha256 `{receipt.digest}`", ""])


def _scores_lines(receipt: Receipt) -> list[str]:
    level = units.percent(confidence_of({"scores_chat": receipt}), 0)
    lines = [
        f"| benchmark | figure | value | {level} interval | unit | better |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for key, by_role in figures_of({"scores_chat": receipt}).items():
        figure = by_role["chat"]
        ends = units.interval(figure.low, figure.high, figure.unit)
        cells = (key.benchmark, key.metric, units.figure(figure.value, figure.unit), ends, figure.unit, figure.better)
        lines.append(f"| {' | '.join(map(_markdown, cells))} |")
    return lines


def _judged(receipts: Mapping[str, Receipt]) -> set[MetricKey]:
    if "verdict" not in receipts:
        return set()
    rules = Verdict.model_validate(receipts["verdict"].metadata).rules
    return {MetricKey(rule.benchmark, rule.metric) for rule in rules}


def _cell(figure: Figure | None, role: str) -> Text:
    from rich.text import Text

    if figure is None:
        return Text("")
    value = Text(units.figure(figure.value, figure.unit), style=_STYLES[role])
    return value.append(f"\n{units.interval(figure.low, figure.high, figure.unit)}", style="not bold dim")


def _markdown(text: str) -> str:
    """Returns text that Markdown shows as it is: no table cells, tags or links come of it."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for sign in "\\`*_[]|":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped
