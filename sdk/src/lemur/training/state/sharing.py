"""Who writes what of a state that several processes hold alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lemur.training.state.base import Stretch
from lemur.training.state.stretches import cut


def share(stretches: Sequence[Stretch], member: int, num_members: int) -> Iterator[Stretch]:
    """Yields one member's equal share of what several processes hold alike.

    The elements of all stretches together are divided, so that the shares differ by one element at most, however
    small or large a single parameter is.

    Args:
        stretches: What all of them hold, in the same order in each.
        member: Which of them asks, from 0.
        num_members: How many they are.
    """
    sizes = [stretch.runs.num_elements for stretch in stretches]
    first, last = (sum(sizes) * turn // num_members for turn in (member, member + 1))
    begin = 0
    for stretch, size in zip(stretches, sizes, strict=True):
        yield from cut(stretch, max(first - begin, 0), max(min(last - begin, size), 0))
        begin += size
