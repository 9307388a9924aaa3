"""Arithmetic of stretches: cutting them, and copying what two of them share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lemur.training.state.base import Runs, Stretch

if TYPE_CHECKING:
    import torch


class Block(NamedTuple):
    """Elements that two sets of runs share, as a rectangle in the values of each."""

    first: int
    """Place of its first element in the values of the one."""
    first_pitch: int
    """Elements from one row to the next there."""
    second: int
    """Place of its first element in the values of the other."""
    second_pitch: int
    """Elements from one row to the next there."""
    num_rows: int
    """Rows of the rectangle."""
    num_columns: int
    """Elements of a row."""


class _Box(NamedTuple):
    """A part of runs, seen as a rectangle in a matrix that has the flattened parameter line by line."""

    row: int
    num_rows: int
    column: int
    num_columns: int
    place: int
    pitch: int


def flat(values: torch.Tensor) -> torch.Tensor:
    """Returns the values as a vector that shares their memory; they must lie one after another."""
    return values.detach().view(-1)


def cut(stretch: Stretch, first: int, last: int) -> Iterator[Stretch]:
    """Yields the part of a stretch from its element `first` up to `last`, as at most three stretches.

    Args:
        stretch: Stretch of n elements, counted in the order of its values.
        first: 0 to n.
        last: `first` to n.
    """
    values, length = flat(stretch.values), stretch.length
    while first < last:
        run, place = divmod(first, length)
        if place or last - first < length:
            part = Runs(stretch.start + run * stretch.stride + place, min(length - place, last - first))
        else:
            part = Runs(stretch.start + run * stretch.stride, length, (last - first) // length, stretch.stride)
        end = first + part.num_elements
        yield replace(
            stretch,
            start=part.start,
            length=part.length,
            num_runs=part.num_runs,
            stride=part.stride if part.num_runs > 1 else 0,
            values=values[first:end],
        )
        first = end


def shared(one: Runs, other: Runs) -> Iterator[Block]:
    """Yields what two sets of runs of the same parameter have in common, each element once."""
    if not one.num_elements or not other.num_elements:
        return
    if one.num_runs > 1 and other.num_runs > 1 and one.stride != other.stride:
        for run in range(one.num_runs):
            single = Runs(one.start + run * one.stride, one.length)
            for block in shared(single, other):
                yield block._replace(first=block.first + run * one.length)
        return
    stride = max(part.stride if part.num_runs > 1 else 0 for part in (one, other))
    for left in _boxes(one, stride):
        for right in _boxes(other, stride):
            row, column = max(left.row, right.row), max(left.column, right.column)
            num_rows = min(left.row + left.num_rows, right.row + right.num_rows) - row
            num_columns = min(left.column + left.num_columns, right.column + right.num_columns) - column
            if num_rows > 0 and num_columns > 0:
                places = [box.place + (row - box.row) * box.pitch + column - box.column for box in (left, right)]
                yield Block(places[0], left.pitch, places[1], right.pitch, num_rows, num_columns)


def copy_shared(source: Stretch, target: Stretch) -> int:
    """Copies what two stretches have in common, and returns how many elements that was."""
    sources, targets, num_copied = flat(source.values), flat(target.values), 0
    for block in shared(source.runs, target.runs):
        taken = _rectangle(sources, block.first, block.first_pitch, block)
        _rectangle(targets, block.second, block.second_pitch, block).copy_(taken)
        num_copied += block.num_rows * block.num_columns
    return num_copied


def _rectangle(values: torch.Tensor, place: int, pitch: int, block: Block) -> torch.Tensor:
    if block.num_rows == 1:
        return values[place : place + block.num_columns].view(1, -1)
    spanned = values[place : place + (block.num_rows - 1) * pitch + block.num_columns]
    return spanned.as_strided((block.num_rows, block.num_columns), (pitch, 1))


def _boxes(runs: Runs, stride: int) -> Iterator[_Box]:
    """Yields runs as rectangles in a matrix with `stride` columns, or with one endless row where that is 0."""
    if not stride:
        yield _Box(0, 1, runs.start, runs.length, 0, 0)
        return
    row, column = divmod(runs.start, stride)
    if runs.num_runs > 1 and column + runs.length <= stride:
        yield _Box(row, runs.num_runs, column, runs.length, 0, runs.length)
        return
    for run in range(runs.num_runs):
        yield from _lines(runs.start + run * runs.stride, runs.length, stride, run * runs.length)


def _lines(start: int, length: int, stride: int, place: int) -> Iterator[_Box]:
    """Yields one run as what it has of its first row, its whole rows, and what it has of its last."""
    end = start + length
    while start < end:
        row, column = divmod(start, stride)
        num_rows = 1 if column else max(1, (end - start) // stride)
        num_columns = min(stride - column, end - start)
        yield _Box(row, num_rows, column, num_columns, place, stride)
        start += num_rows * num_columns
        place += num_rows * num_columns
