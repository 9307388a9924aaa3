"""Charts as inline SVG: lines over steps, bars of lengths, dots with their intervals. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

from lemur import units
from lemur.report.axes import Axis, spread

MAX_POINTS = 160
"""Points a line is drawn with; of a longer one, neighbours are averaged."""
_DOTTED_POINTS = 30
"""Up to so many points, each gets a dot of its own."""
_LENGTH_LABEL_PIXELS = 36
"""Room that the label of a length takes."""
_MARK_LETTER_PIXELS = 5.6
"""Width of a letter in the label of a mark."""
_FAR_SPANS = 3.0
"""An initial model further off than so many spans of the others is pointed at instead of drawn."""


class Point(NamedTuple):
    """One point of a line, and what is shown while the pointer is over it."""

    x: float
    y: float
    note: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A curve over steps."""

    points: Sequence[Point]
    """At least one, by increasing x, all finite."""
    role: str
    """Class that colours the curve: `base` or `chat`."""
    x_label: str
    """What the horizontal axis counts."""
    y_label: str
    """What the vertical axis measures, and its unit."""
    marks: Sequence[float] = ()
    """Values of x where the run was taken up again; each is a dashed line, labelled as far as there is room."""
    crosses: Sequence[float] = ()
    """Values of x where a step was skipped; each is a stroke at the foot of the chart."""
    from_zero: bool = False
    """Whether the vertical axis starts at zero, as it should for a rate."""

    def svg(self, width: int, height: int, *, interactive: bool) -> Markup:
        """Draws the chart.

        Args:
            width: Width in the pixels its text is made for.
            height: Height likewise.
            interactive: Whether pointing at the curve shows the nearest point's note.
        """
        values = [point.y for point in self.points]
        low, high = spread([0.0, *values] if self.from_zero else values, within=(0.0, float("inf")))
        first, last = self.points[0].x, self.points[-1].x
        # A curve that starts near the beginning starts at zero steps, where the run did.
        first = 0.0 if first <= 0.15 * last else first
        if first == last:
            first, last = spread([first])
        across = Axis(first, last, 54, width - 18)
        up = Axis(low, high, height - 48, 36 if self.marks else 30)
        layers = [self._frame(across, up, width), self._curve(across, up)]
        if interactive:
            layers.append(self._notes(across, up))
        label = f"{self.y_label} over {self.x_label}: from {values[0]:.4g} to {values[-1]:.4g}"
        return _svg(width, height, label, f"line {self.role}", Markup("").join(layers))

    def _frame(self, across: Axis, up: Axis, width: int) -> Markup:
        parts = [_text(2, 14, self.y_label, "axis")]
        for y, label in up.labelled():
            parts.append(_line(across.start, y, across.end, y, "grid"))
            parts.append(_text(across.start - 9, y + 4, label, "tick end"))
        for x, label in across.labelled():
            parts.append(_line(x, up.start, x, up.start + 5, "stroke"))
            parts.append(_text(x, up.start + 20, label, "tick middle"))
        parts.append(_line(across.start, up.start, across.end, up.start, "stroke"))
        parts.append(_text(width - 18, up.start + 40, self.x_label, "axis end"))
        for x in (across.at(cross) for cross in self.crosses if across.low <= cross <= across.high):
            parts.append(_line(x, up.start, x, up.start - 9, "cross"))
        return Markup("").join([*parts, *self._marks(across, up)])

    def _marks(self, across: Axis, up: Axis) -> Iterator[Markup]:
        """Draws where the run was taken up again; a label that would touch the one before it is left out."""
        free_from = across.start
        for mark in sorted(set(self.marks)):
            if not across.low <= mark <= across.high:
                continue
            x, label = across.at(mark), f"resumed at {units.whole(mark)}"
            yield _line(x, up.start, x, up.end, "mark")
            half = len(label) * _MARK_LETTER_PIXELS / 2
            middle = min(max(x, across.start + half), across.end - half)
            if middle - half >= free_from:
                yield _text(middle, up.end - 4, label, "mark-label middle")
                free_from = middle + half + _MARK_LETTER_PIXELS

    def _curve(self, across: Axis, up: Axis) -> Markup:
        places = [(across.at(point.x), up.at(point.y)) for point in self.points]
        path = Markup('<polyline class="curve" points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in places))
        dots = places if len(places) <= _DOTTED_POINTS else places[-1:]
        return path + Markup("").join(_dot(x, y, 2.5 if len(dots) > 1 else 3.5) for x, y in dots)

    def _notes(self, across: Axis, up: Axis) -> Markup:
        places = [across.at(point.x) for point in self.points]
        edges = [
            across.start,
            *((left + right) / 2 for left, right in pairwise(places)),
            across.end,
        ]
        bands = []
        for x, point, left, right in zip(places, self.points, edges[:-1], edges[1:], strict=True):
            band = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                left, up.end, right - left, up.start - up.end
            )
            note = _text(across.end, 14, point.note, "note end")
            shown = _line(x, up.start, x, up.end, "cursor") + _dot(x, up.at(point.y), 4) + note
            bands.append(Markup('<g class="band">{}<g class="shown">{}</g></g>').format(band, shown))
        return Markup("").join(bands)


@dataclass(frozen=True, kw_only=True)
class LengthChart:
    """How many documents there are of each length, in bins that double."""

    counts: Sequence[int]
    """Entry k: documents of 2**k up to 2**(k + 1) tokens; at least one is not zero."""
    sequence_length: int
    """Tokens in a sequence, which is marked."""

    def svg(self, width: int, height: int) -> Markup:
        """Draws the chart; pointing at a bar shows its length and count.

        Args:
            width: Width in the pixels its text is made for.
            height: Height likewise.
        """
        filled = [power for power, number in enumerate(self.counts) if number]
        across = Axis(filled[0], filled[-1] + 1, 44, width - 8)
        # From three on, all ticks are whole numbers.
        up = Axis(0.0, 1.06 * max(3, *self.counts), height - 48, 28)
        bars = [self._bar(power, across, up) for power in range(filled[0], filled[-1] + 1)]
        label = f"documents by length: {power_label(filled[0])} to {power_label(filled[-1] + 1)} tokens"
        mark = math.log2(self.sequence_length)
        if across.low <= mark <= across.high:
            bars.append(_line(across.at(mark), up.start, across.at(mark), up.end, "mark"))
        return _svg(width, height, label, "lengths", self._frame(across, up, width) + Markup("").join(bars))

    def _frame(self, across: Axis, up: Axis, width: int) -> Markup:
        parts = [_text(2, 12, "documents", "axis")]
        for y, label in up.labelled():
            parts.append(_line(across.start, y, across.end, y, "grid"))
            parts.append(_text(across.start - 8, y + 4, label, "tick end"))
        num_bins = round(across.high - across.low)
        step = -(-num_bins // max(1, int((across.end - across.start) / _LENGTH_LABEL_PIXELS)))
        for power in range(round(across.low), round(across.high) + 1, step):
            parts.append(_line(across.at(power), up.start, across.at(power), up.start + 5, "stroke"))
            parts.append(_text(across.at(power), up.start + 19, power_label(power), "tick middle"))
        parts.append(_line(across.start, up.start, across.end, up.start, "stroke"))
        parts.append(_text(width - 8, up.start + 39, "tokens in a document", "axis end"))
        return Markup("").join(parts)

    def _bar(self, power: int, across: Axis, up: Axis) -> Markup:
        number, left, right = self.counts[power], across.at(power), across.at(power + 1)
        shape = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        bar = Markup(shape).format("bar", left + 0.75, up.at(number), right - left - 1.5, up.start - up.at(number))
        band = Markup(shape).format("", left, up.end, right - left, up.start - up.end)
        lengths = f"{power_label(power)} to {power_label(power + 1)} tokens"
        note = _text(across.end, 12, f"{lengths} \u00b7 {units.count(number, 'documents')}", "note end")
        return Markup('<g class="band">{}{}<g class="shown">{}</g></g>').format(bar, band, note)


def power_label(power: int) -> str:
    """Returns two to a power as short as it is read: `512`, `4 k` for 4,096, `2 M` for 2,097,152."""
    for bits, prefix in ((30, "G"), (20, "M"), (10, "k")):
        if power >= bits:
            return f"{2 ** (power - bits)}{units.NARROW}{prefix}"
    return str(2**power)


class Dot(NamedTuple):
    """One model's figure with its interval."""

    role: str
    """Class that colours it, and its label: `initial`, `base` or `chat`."""
    value: float
    low: float
    high: float
    text: str
    """The figure as it is read."""


def interval_chart(dots: Sequence[Dot], *, as_percent: bool) -> Markup:
    """Draws figures with their intervals on one axis, a row for each model.

    An initial model that is far off the others gets an arrow at the edge, so that their difference can be seen.

    Args:
        dots: At least one, from top to bottom.
        as_percent: Whether figures are shares, which stay between 0 and 1 and are read in percent.
    """
    width, row = 340, 30
    height = row * len(dots) + 40
    near = [dot for dot in dots if dot.role != "initial" or not is_far(dot, dots)]
    ends = [end for dot in near for end in (dot.low, dot.value, dot.high)]
    low, high = spread(ends, within=(0.0, 1.0) if as_percent else (float("-inf"), float("inf")))
    across = Axis(low, high, 58, width - 78)
    bottom = height - 30
    parts = [_line(across.start, bottom, across.end, bottom, "stroke")]
    for x, label in across.labelled(as_percent=as_percent):
        parts.append(_line(x, bottom, x, 8, "grid"))
        parts.append(_text(x, bottom + 18, label, "tick middle"))
    for index, dot in enumerate(dots):
        y = 8 + row * (index + 0.5)
        texts = _text(2, y + 4, dot.role, "name") + _text(width - 2, y + 4, dot.text, "value end")
        marks = _interval(dot, across, y) if dot in near else _arrow(dot, across, y)
        parts.append(Markup('<g class="{}">{}{}</g>').format(dot.role, marks, texts))
    label = "; ".join(f"{dot.role} {dot.text}" for dot in dots)
    return _svg(width, height, label, "intervals", Markup("").join(parts))


def is_far(dot: Dot, dots: Sequence[Dot]) -> bool:
    """Says whether a figure lies so far off all others that one axis for all would hide how those differ."""
    others = [other for other in dots if other != dot]
    if not others:
        return False
    low, high = min(other.low for other in others), max(other.high for other in others)
    return max(low - dot.high, dot.low - high) > _FAR_SPANS * (high - low)


def _interval(dot: Dot, across: Axis, y: float) -> Markup:
    low, high, x = across.at(dot.low), across.at(dot.high), across.at(dot.value)
    shapes = {
        "initial": Markup('<circle class="fill hollow" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'),
        "base": Markup('<rect class="fill" x="{left:.1f}" y="{top:.1f}" width="11" height="11" rx="1.5"/>'),
        "chat": Markup('<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'),
    }
    whisker = _line(low, y, high, y, "whisker") + _line(low, y - 4, low, y + 4, "cap")
    whisker += _line(high, y - 4, high, y + 4, "cap")
    return whisker + shapes[dot.role].format(x=x, y=y, left=x - 5.5, top=y - 5.5)


def _arrow(dot: Dot, across: Axis, y: float) -> Markup:
    x, direction = (across.end, 1) if dot.value > across.high else (across.start, -1)
    head = Markup('<path class="fill" d="M{:.1f} {:.1f}l{} 5l{} 5z"/>').format(x, y - 5, 8 * direction, -8 * direction)
    return _line(x - 18 * direction, y, x, y, "cap") + head


def thinned(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Returns at most `limit` points: each the mean of as many neighbours as that takes, its note the last one's."""
    per_point = -(-len(points) // limit)
    if per_point <= 1:
        return list(points)
    return [
        Point(sum(p.x for p in group) / len(group), sum(p.y for p in group) / len(group), group[-1].note)
        for group in (points[start : start + per_point] for start in range(0, len(points), per_point))
    ]


def _svg(width: int, height: int, label: str, css_class: str, content: Markup) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        css_class, width, height, label, content
    )


def _text(x: float, y: float, text: str, css_class: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(css_class, x, y, text)


def _line(x1: float, y1: float, x2: float, y2: float, css_class: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        css_class, x1, y1, x2, y2
    )


def _dot(x: float, y: float, radius: float) -> Markup:
    return Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, radius)
