"""Whatever way parameters are cut into stretches, each element is where it belongs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from lemur.training.state import Runs, Stretch
from lemur.training.state.sharded import runs_of_box
from lemur.training.state.sharing import share
from lemur.training.state.stretches import copy_shared, cut, shared

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


def elements(runs: Runs) -> list[int]:
    return [runs.start + run * runs.stride + place for run in range(runs.num_runs) for place in range(runs.length)]


def numbered(runs: Runs, shape: tuple[int, ...] = (1000,)) -> Stretch:
    """A stretch in which every element is its own place in the parameter."""
    values = torch.tensor(elements(runs), dtype=torch.float32)
    return Stretch("weight", "weight", shape, runs.start, runs.length, values, runs.num_runs, runs.stride)


@st.composite
def boxes(draw: Any, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    offsets = [draw(st.integers(0, size)) for size in shape]
    return [draw(st.integers(0, size - offset)) for size, offset in zip(shape, offsets, strict=True)], offsets


@st.composite
def some_runs(draw: Any) -> Runs:
    length, num_runs = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    stride = draw(st.integers(length, 15)) if num_runs > 1 else 0
    return Runs(draw(st.integers(0, 30)), length, num_runs, stride)


@given(st.data(), SHAPES)
def test_a_box_of_a_tensor_is_runs_in_the_order_of_its_elements(data: st.DataObject, shape: tuple[int, ...]) -> None:
    sizes, offsets = data.draw(boxes(shape))
    whole = torch.arange(math.prod(shape)).view(shape)

    found = [place for runs in runs_of_box(shape, sizes, offsets) for place in elements(runs)]

    box = whole[tuple(slice(offset, offset + size) for size, offset in zip(sizes, offsets, strict=True))]
    assert found == box.flatten().tolist()


@given(st.data(), some_runs())
def test_a_cut_part_has_just_its_elements(data: st.DataObject, runs: Runs) -> None:
    first = data.draw(st.integers(0, runs.num_elements))
    last = data.draw(st.integers(first, runs.num_elements))

    parts = list(cut(numbered(runs), first, last))

    assert len(parts) <= 3
    assert [place for part in parts for place in elements(part.runs)] == elements(runs)[first:last]
    assert [value for part in parts for value in part.values.tolist()] == elements(runs)[first:last]


@given(some_runs(), some_runs())
def test_what_two_stretches_share_is_copied_to_its_place_once(one: Runs, other: Runs) -> None:
    source, target = numbered(one), numbered(other)
    target.values.fill_(-1)

    num_copied = copy_shared(source, target)

    expected = [place if place in elements(one) else -1 for place in elements(other)]
    assert target.values.tolist() == expected
    assert num_copied == sum(place >= 0 for place in expected)
    assert sum(block.num_rows * block.num_columns for block in shared(one, other)) == num_copied


@given(st.lists(some_runs(), max_size=5), st.integers(1, 4))
def test_members_share_all_elements_equally(held: list[Runs], num_members: int) -> None:
    stretches = [numbered(runs) for runs in held]

    shares = [list(share(stretches, member, num_members)) for member in range(num_members)]

    sizes = [sum(part.runs.num_elements for part in part_of_one) for part_of_one in shares]
    assert max(sizes) - min(sizes) <= 1
    together = [value for part_of_one in shares for part in part_of_one for value in part.values.tolist()]
    assert together == [place for runs in held for place in elements(runs)]


@given(st.data(), st.integers(1, 12), st.integers(1, 12))
def test_a_matrix_cut_by_rows_columns_or_ranges_is_read_back_cut_otherwise(
    data: st.DataObject, num_rows: int, num_columns: int
) -> None:
    shape, size = (num_rows, num_columns), num_rows * num_columns
    written = data.draw(cuts(shape))
    values = torch.randn(size)

    def stretch(runs: Runs, source: torch.Tensor) -> Stretch:
        return Stretch("w", "weight", shape, runs.start, runs.length, source, runs.num_runs, runs.stride)

    pieces = [stretch(runs, values[elements(runs)].contiguous()) for runs in written]
    for runs in data.draw(cuts(shape)):
        target = stretch(runs, torch.full((runs.num_elements,), math.nan))
        assert sum(copy_shared(piece, target) for piece in pieces) == runs.num_elements
        assert torch.equal(target.values, values[elements(runs)])


@st.composite
def cuts(draw: Any, shape: tuple[int, int]) -> list[Runs]:
    """All of a matrix: by ranges (ZeRO), rows (FSDP2), columns, or both (tensor parallelism)."""
    num_rows, num_columns = shape
    if draw(st.booleans()):
        ends = sorted({0, *draw(st.lists(st.integers(0, num_rows * num_columns), max_size=4)), num_rows * num_columns})
        return [Runs(start, end - start) for start, end in itertools.pairwise(ends)]
    rows = sorted({0, *draw(st.lists(st.integers(0, num_rows), max_size=2)), num_rows})
    columns = sorted({0, *draw(st.lists(st.integers(0, num_columns), max_size=2)), num_columns})
    return [
        runs
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
        for runs in runs_of_box(shape, [bottom - top, right - left], [top, left])
    ]
