"""How a report shows the training of a model: its curves and figures."""

from __future__ import annotations

import math
from typing import NamedTuple

from markupsafe import Markup

from lemur import units
from lemur.receipt import Receipt
from lemur.report.charts import LineChart, Point, thinned
from lemur.report.contents import Contents, Curve, LogPoint

_WIDE, _NARROW = (520, 270), (330, 240)
"""Width and height of charts on a screen with room, and on a phone: text keeps its size on both."""


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
    loss: ChartPair | None
    speed: ChartPair | None
    notes: list[str]


def training_panels(contents: Contents) -> list[TrainingPanel]:
    """Returns pretraining and tuning, as far as they went."""
    titles = {"base": "Pretraining", "chat": "Tuning"}
    return [
        _panel(titles[role], role, contents.receipts[role], contents.curves.get(role))
        for role in titles
        if role in contents.receipts
    ]


def _panel(title: str, role: str, receipt: Receipt, curve: Curve | None) -> TrainingPanel:
    resumed = [int(step) for step in receipt.metadata.get("resumed_at_steps", [])]
    points = curve.points if curve else []
    rates = [point for point in points if math.isfinite(point.tokens_per_second or math.nan)]
    notes = []
    if resumed:
        notes.append(f"Taken up again at step {', '.join(map(units.whole, resumed))} (dashed lines).")
    if curve and curve.spoilt_steps:
        shown = ", ".join(map(units.whole, curve.spoilt_steps[:8])) + (", \u2026" if curve.spoilt_steps[8:] else "")
        notes.append(f"The loss was not a number at step {shown}.")
    if not points:
        notes.append("No points of the loss curve were kept.")
    return TrainingPanel(
        title,
        role,
        _facts(receipt),
        _pair(_loss(points, role, resumed), len(points)) if points else None,
        _pair(_speed(rates, role, resumed), len(rates)) if rates else None,
        notes,
    )


def _loss(points: list[LogPoint], role: str, resumed: list[int]) -> LineChart:
    return LineChart(
        points=thinned([Point(point.step, point.loss or 0.0, _note(point)) for point in points]),
        role=role,
        x_label="step",
        y_label="loss, nats per token",
        marks=resumed,
    )


def _speed(points: list[LogPoint], role: str, resumed: list[int]) -> LineChart:
    return LineChart(
        points=thinned([Point(point.step, point.tokens_per_second or 0.0, _note(point)) for point in points]),
        role=role,
        x_label="step",
        y_label="tokens per second",
        marks=resumed,
        from_zero=True,
    )


def _note(point: LogPoint) -> str:
    parts = [f"step {units.whole(point.step)}", f"loss {units.digits(point.loss or 0.0, 4)}"]
    if point.tokens_per_second is not None:
        parts.append(units.count(point.tokens_per_second, "tokens/s"))
    return " \u00b7 ".join(parts)


def _pair(chart: LineChart, num_logged: int) -> ChartPair:
    averaged = -(-num_logged // len(chart.points))
    caption = f"Each point is the mean of {averaged} log points." if averaged > 1 else ""
    wide = chart.svg(*_WIDE, interactive=len(chart.points) > 1)
    return ChartPair(wide, chart.svg(*_NARROW, interactive=False), caption)


def _facts(receipt: Receipt) -> list[tuple[str, str]]:
    metrics, metadata = receipt.metrics, receipt.metadata
    known = {
        "steps": units.whole(metadata["steps"]) if "steps" in metadata else None,
        "tokens": units.whole(metadata["tokens"]) if "tokens" in metadata else None,
        "final loss": f"{units.digits(metrics['final_loss'], 4)} nats" if "final_loss" in metrics else None,
        "speed": units.count(metrics["tokens_per_second"], "tokens/s") if "tokens_per_second" in metrics else None,
        "MFU": units.percent(metrics["mfu"]) if metrics.get("mfu") else None,
        "time": units.duration(metrics["seconds"]) if "seconds" in metrics else None,
        "method": metadata.get("method"),
        "device": metadata.get("device"),
        "processes": metadata.get("processes"),
        "precision": metadata.get("precision"),
    }
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]
