"""How a report shows the training of a model: its curves and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup

from lemur import units
from lemur.receipt import Receipt
from lemur.report.charts import LineChart, Point, thinned
from lemur.report.contents import Contents, Curve, LogPoint

_WIDE, _NARROW = (520, 270), (330, 240)
"""Width and height of charts on a screen with room, and on a phone: text keeps its size on both."""
_WIDE_LOW, _NARROW_LOW = (520, 190), (330, 180)
"""The same for charts that matter less."""
_MOST_NAMED = 8


class ChartPair(NamedTuple):
    """The same chart for a screen with room and for a phone."""

    wide: Markup
    narrow: Markup
    caption: str


class TrainingPanel(NamedTuple):
    """One training run."""

    title: str
    role: str
    facts: list[tuple[str, str]]
    """Figures of the run."""
    means: list[tuple[str, str]]
    """What it ran with: engine, kernels, precision."""
    charts: list[ChartPair]
    """Loss, speed and learning rate, as far as points have them."""
    notes: list[str]


class _Events(NamedTuple):
    """What happened on the way, by step."""

    resumed: list[int]
    skipped: list[int]


def training_panels(contents: Contents) -> list[TrainingPanel]:
    """Returns pretraining and tuning, as far as they went."""
    titles = {"base": "Pretraining", "chat": "Tuning"}
    return [
        _panel(titles[role], role, contents.receipts[role], contents.curves.get(role))
        for role in titles
        if role in contents.receipts
    ]


def _panel(title: str, role: str, receipt: Receipt, curve: Curve | None) -> TrainingPanel:
    events = _Events(_steps(receipt, "resumed_at_steps"), _steps(receipt, "skipped_steps"))
    points = curve.points if curve else []
    notes = []
    if events.resumed:
        notes.append(f"Taken up again at step {_named(events.resumed)} (dashed lines).")
    if events.skipped:
        notes.append(f"Skipped, because the batch would have done harm: step {_named(events.skipped)} (red strokes).")
    if curve and curve.spoilt_steps:
        notes.append(f"The loss was not a number at step {_named(curve.spoilt_steps)}.")
    if not points:
        notes.append("No points of the loss curve were kept.")
    return TrainingPanel(
        title, role, _facts(receipt), _means(receipt), list(_charts(points, role, events)) if points else [], notes
    )


def _steps(receipt: Receipt, name: str) -> list[int]:
    """Returns steps that a receipt lists, as numbers or as objects with more to say of each."""
    listed = receipt.metadata.get(name) or []
    return [int(step["step"] if isinstance(step, dict) else step) for step in listed]


def _named(steps: list[int]) -> str:
    return ", ".join(map(units.whole, steps[:_MOST_NAMED])) + (", \u2026" if steps[_MOST_NAMED:] else "")


def _charts(points: list[LogPoint], role: str, events: _Events) -> Iterator[ChartPair]:
    losses = [Point(point.step, point.loss or 0.0, _note(point)) for point in points]
    yield _pair(losses, role, events, "loss, nats per token", _WIDE, _NARROW)
    speeds = [Point(point.step, point.tokens_per_second or 0.0, _note(point)) for point in points if _has_speed(point)]
    if speeds:
        yield _pair(speeds, role, events, "tokens per second", _WIDE_LOW, _NARROW_LOW, from_zero=True)
    rates = [(point, rate) for point in points if (rate := point.learning_rate) is not None and math.isfinite(rate)]
    if any(rate > 0 for _, rate in rates):
        # Rates are of any size, so the axis counts in the power of ten of the largest.
        power = math.floor(math.log10(max(rate for _, rate in rates)))
        scaled = [
            Point(p.step, rate / 10.0**power, f"step {units.whole(p.step)} \u00b7 {rate:.3g}") for p, rate in rates
        ]
        label = f"learning rate, in 1e{power}"
        yield _pair(scaled, role, events, label, _WIDE_LOW, _NARROW_LOW, from_zero=True)


def _has_speed(point: LogPoint) -> bool:
    return math.isfinite(point.tokens_per_second if point.tokens_per_second is not None else math.nan)


def _note(point: LogPoint) -> str:
    parts = [f"step {units.whole(point.step)}", f"loss {units.digits(point.loss or 0.0, 4)}"]
    if point.tokens_per_second is not None:
        parts.append(units.count(point.tokens_per_second, "tokens/s"))
    return " \u00b7 ".join(parts)


def _pair(
    points: list[Point],
    role: str,
    events: _Events,
    y_label: str,
    wide: tuple[int, int],
    narrow: tuple[int, int],
    *,
    from_zero: bool = False,
) -> ChartPair:
    chart = LineChart(
        points=thinned(points),
        role=role,
        x_label="step",
        y_label=y_label,
        marks=events.resumed,
        crosses=events.skipped,
        from_zero=from_zero,
    )
    averaged = -(-len(points) // len(chart.points))
    caption = f"Each point is the mean of {averaged} log points." if averaged > 1 else ""
    return ChartPair(
        chart.svg(*wide, interactive=len(chart.points) > 1), chart.svg(*narrow, interactive=False), caption
    )


def _facts(receipt: Receipt) -> list[tuple[str, str]]:
    metrics, metadata = receipt.metrics, receipt.metadata
    known = {
        "steps": units.whole(metadata["steps"]) if "steps" in metadata else None,
        "tokens": units.whole(metadata["tokens"]) if "tokens" in metadata else None,
        "final loss": f"{units.digits(metrics['final_loss'], 4)} nats" if "final_loss" in metrics else None,
        "speed": units.count(metrics["tokens_per_second"], "tokens/s") if "tokens_per_second" in metrics else None,
        "MFU": units.percent(metrics["mfu"]) if metrics.get("mfu") else None,
        "time": units.duration(metrics["seconds"]) if "seconds" in metrics else None,
        "waiting for data": units.percent(metrics["data_wait_share"]) if "data_wait_share" in metrics else None,
        "standing still for checkpoints": units.percent(metrics["checkpoint_stall_share"])
        if metrics.get("checkpoint_stall_share")
        else None,
        "peak memory": units.size(metrics["peak_memory_bytes"]) if "peak_memory_bytes" in metrics else None,
        "skipped steps": units.whole(len(skipped)) if (skipped := _steps(receipt, "skipped_steps")) else None,
    }
    return [(name, value) for name, value in known.items() if value]


def _means(receipt: Receipt) -> list[tuple[str, str]]:
    """Lists what a run was made with: a row for each entry of the receipt's blocks, and for what stands beside them."""
    metadata = receipt.metadata
    rows: dict[str, Any] = {name: metadata.get(name) for name in ("method", "packing", "device", "precision")}
    for block in ("engine", "kernels"):
        found = metadata.get(block)
        rows |= (
            {block if name == "kind" else name: value for name, value in found.items()}
            if isinstance(found, dict)
            else {}
        )
    rows |= {name: metadata[name] for name in ("processes", "attention") if name in metadata}
    return [(name.replace("_", " "), text) for name, value in rows.items() if (text := _told(value))]


def _told(value: Any) -> str:
    """Returns what a receipt says of something in words; nothing where it says nothing or no."""
    if isinstance(value, dict):
        told = [(name.replace("_", " "), _told(entry)) for name, entry in value.items()]
        return ", ".join(f"{name} {text}" for name, text in told if text)
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)
