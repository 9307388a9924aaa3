"""Charts have round ticks, labels that do not touch, and nothing outside their frame."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lemur.report.axes import Axis, spread, ticks
from lemur.report.charts import Dot, LengthChart, LineChart, Point, interval_chart, thinned

finite = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)


@given(low=finite, width=st.floats(min_value=1e-9, max_value=1e13))
def test_ticks_are_inside_their_range_increasing_and_three_to_ten(low: float, width: float) -> None:
    high = low + width
    assume(high - low > 1e-6 * max(abs(low), abs(high)))
    found = ticks(low, high)
    assert 3 <= len(found) <= 10
    assert all(low <= tick <= high for tick in found)
    assert all(before < after for before, after in pairwise(found))


@given(values=st.lists(st.floats(min_value=-1e15, max_value=1e15, allow_nan=False), min_size=1, max_size=20))
def test_any_values_have_an_axis_with_distinct_labels(values: list[float]) -> None:
    low, high = spread(values)
    assert low < min(values) <= max(values) < high
    placed = Axis(low, high, 300, 20).labelled()
    assert len({label for _, label in placed}) == len(placed) >= 3
    assert all(20 <= pixel <= 300 for pixel, _ in placed)


@given(values=st.lists(st.floats(min_value=0, max_value=1e9, allow_nan=False), min_size=1, max_size=700))
def test_drawn_curve_stays_inside_its_chart(values: list[float]) -> None:
    points = thinned([Point(step, value, f"step {step}") for step, value in enumerate(values)])
    svg = LineChart(points=points, role="base", x_label="step", y_label="loss").svg(500, 260, interactive=True)
    (drawn,) = re.findall('points="([^"]*)"', svg)
    places = [tuple(map(float, place.split(","))) for place in drawn.split()]
    assert 1 <= len(places) <= 160
    assert all(0 <= x <= 500 and 0 <= y <= 260 for x, y in places)


@given(
    counts=st.lists(st.integers(min_value=0, max_value=10**12), min_size=1, max_size=32).filter(any),
    sequence_length=st.integers(min_value=1, max_value=2**20),
)
def test_bars_of_lengths_stand_on_the_axis_and_rise_with_their_counts(counts: list[int], sequence_length: int) -> None:
    svg = LengthChart(counts=counts, sequence_length=sequence_length).svg(340, 190)
    bars = re.findall(r'class="bar" x="([0-9.]+)" y="([0-9.]+)" width="([0-9.]+)" height="([0-9.]+)"', svg)
    drawn = [tuple(map(float, bar)) for bar in bars]
    filled = [power for power, number in enumerate(counts) if number]
    shown = counts[filled[0] : filled[-1] + 1]
    assert len(drawn) == len(shown)
    assert all(x >= 0 and x + width <= 340 and 0 <= y <= 190 for x, y, width, _ in drawn)
    assert len({round(y + height) for _, y, _, height in drawn}) == 1
    tallest = 114 / 1.06
    for (_, _, _, height), number in zip(drawn, shown, strict=True):
        assert height == pytest.approx(number / max(3, *shown) * tallest, abs=0.2)
    labels = [float(x) for x in re.findall(r'class="tick middle" x="([0-9.]+)"', svg)]
    assert all(right - left >= 30 for left, right in pairwise(labels))


def test_labels_beside_each_other_do_not_touch() -> None:
    for high in (1.0, 1.001, 1.00001, 1e6 + 3, 123_456_789.0):
        placed = Axis(0.9999 * high, high, 58, 262).labelled()
        for (left, label), (right, following) in pairwise(placed):
            assert right - left > 6 * (len(label) + len(following)) / 2


def test_initial_model_far_off_leaves_the_axis_to_the_others() -> None:
    near = [Dot("base", 2.3, 2.2, 2.4, "2.3"), Dot("chat", 2.4, 2.3, 2.5, "2.4")]
    svg = interval_chart([Dot("initial", 8.0, 7.9, 8.1, "8.0"), *near], as_percent=False)
    assert "<path" in svg
    assert ">8.0</text>" in svg
    (base,) = re.findall(r'<rect[^>]* x="([0-9.]+)"', svg)
    (chat,) = re.findall(r'class="fill" cx="([0-9.]+)"', svg)
    assert float(chat) - float(base) > 40
    assert "<path" not in interval_chart([Dot("initial", 2.9, 2.8, 3.0, "2.9"), *near], as_percent=False)
