"""Axes of the charts: which numbers stand on them, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from lemur.units import MINUS, NARROW

_LADDER = (Fraction(1), Fraction(2), Fraction(5))
_FEWEST_STEPS = 3
"""Steps that an axis spans at least. Neighbours on the ladder differ by at most 2.5, so it spans below 7.5."""


def ticks(low: float, high: float) -> list[float]:
    """Returns round numbers within a range: multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: Lower end.
        high: Upper end, above `low` by at least a millionth of the larger one's size.

    Returns:
        3 to 8 numbers, increasing, none outside the range.
    """
    step, first, last = _steps(low, high)
    return [float(step * index) for index in range(first, last + 1)]


def _steps(low: float, high: float) -> tuple[Fraction, int, int]:
    # In exact arithmetic, so that no tick is pushed out of the range by rounding.
    start, end = Fraction(low), Fraction(high)
    largest = (end - start) / _FEWEST_STEPS
    power = Fraction(10) ** math.floor(math.log10(largest))
    # The logarithm is rounded, so a neighbouring power may be the right one.
    candidates = [factor * power * scale for factor in _LADDER for scale in (Fraction(1, 10), 1, 10)]
    step = max(candidate for candidate in candidates if candidate <= largest)
    return step, math.ceil(start / step), math.floor(end / step)


_DIGIT_PIXELS, _GAP_PIXELS = 6.6, 7.0
"""Width of a digit at the charts' text size of 12 pixels, and the least gap between labels."""


class Axis(NamedTuple):
    """A range of values laid over a range of pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    """Pixel of `high`; below `start` on an axis that points up."""

    def at(self, value: float) -> float:
        """Returns the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def labelled(self, *, as_percent: bool = False) -> list[tuple[float, str]]:
        """Returns pixel and label of each tick; all labels of an axis share decimals and prefix.

        Where labels side by side would touch, every second one is left out, or more.
        """
        values = ticks(self.low, self.high)
        labels = _labels([100 * value for value in values] if as_percent else values)
        placed = [
            (self.at(value), f"{label}{NARROW}%" if as_percent else label)
            for value, label in zip(values, labels, strict=True)
        ]
        room = abs(placed[1][0] - placed[0][0])
        widest = max(len(label) for _, label in placed) * _DIGIT_PIXELS + _GAP_PIXELS
        return placed[:: max(1, math.ceil(widest / room))] if self.end > self.start else placed


def spread(
    values: Sequence[float], *, padding: float = 0.06, within: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float]:
    """Returns a range around all values, with some air at both ends; a single value gets a range too.

    Args:
        values: At least one finite value.
        padding: Air at each end, as a share of the range.
        within: Ends that air may not go beyond, for what cannot be smaller or larger.
    """
    low, high = min(values), max(values)
    # Closer than this, and labels of four digits would all read the same.
    least = max(abs(low), abs(high)) * 1e-3 or 1.0
    air = (high - low) * padding if high - low > least else least
    return max(low - air, within[0]), min(high + air, within[1])


def _labels(values: list[float]) -> list[str]:
    largest = max(abs(value) for value in values)
    prefixes = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")]
    scale, prefix = next(((limit, name) for limit, name in prefixes if largest >= limit), (1.0, ""))
    scale = 1e3 if prefix == "k" else scale
    step = (values[1] - values[0]) / scale
    # Steps are 1, 2 or 5 times a power of ten; the small addend undoes the rounding of an exact power.
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    texts = [f"{value / scale:,.{decimals}f}" for value in values]
    return [
        f"{text.replace('-', MINUS)}{NARROW + prefix if prefix else ''}" if value else "0"
        for value, text in zip(values, texts, strict=True)
    ]
