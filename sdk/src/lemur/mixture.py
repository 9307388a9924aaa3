"""Which sequence of which source stands at place i of the training stream: pure functions, no state.

Three steps lead from a place to a sequence. The *schedule* says which source the place belongs to, such that
every prefix of the stream holds each source within one sequence of its share. Counting that source's places
before i gives the *epoch* and the position in it. A keyed *permutation*, computed and never stored, turns the
position into a sequence. So a run can stop anywhere and go on with any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.errors import PlanError
from lemur.permutation import permutation_keys, permute, permute_one
from lemur.schedule import BLOCK_PLACES, Integers, Schedule

if TYPE_CHECKING:
    from lemur.recipe import DataSection

SMALLEST_SHARE = 1e-6
"""Smallest share of a source: a sequence in a million. Placing rarer ones would cost seconds."""


def mixture_shares(data: DataSection) -> dict[str, float]:
    """Returns each source's part of the mixture: its group's part times its part within the group.

    Args:
        data: Section of the recipe.

    Returns:
        Share by source name; the shares add up to 1.
    """
    groups: dict[str | None, float] = dict(data.groups.items()) or {None: 1.0}
    all_groups = math.fsum(groups.values())
    within = {group: math.fsum(source.weight for source in data.sources if source.group == group) for group in groups}
    return {
        source.name: groups[source.group] / all_groups * source.weight / within[source.group] for source in data.sources
    }


class Location(NamedTuple):
    """Where one sequence of the stream is found."""

    source: str
    """Name of the source."""
    epoch: int
    """How many complete passes over the source came before."""
    sequence: int
    """Number of the sequence within the source, in stored order."""


class Mixture:
    """A deterministic interleave of sources, the same for whoever computes it.

    After any number of places, each source's count differs from its share of them by less than one sequence; see
    `schedule` for how, and for the rounding of shares that are no simple fractions.

    Args:
        sources: Name, weight and number of sequences of each source.
        seed: Seed of the order within each epoch.

    Raises:
        PlanError: A source has no sequence, or less than `SMALLEST_SHARE`.
    """

    def __init__(self, sources: Sequence[tuple[str, float, int]], seed: int) -> None:
        self.names = tuple(name for name, _, _ in sources)
        self.num_sequences = tuple(count for _, _, count in sources)
        self.seed = seed
        total = math.fsum(weight for _, weight, _ in sources)
        for name, weight, count in sources:
            if count < 1:
                raise PlanError(f"source {name!r} holds no sequence; give it more data or leave it out")
            if weight / total < SMALLEST_SHARE:
                raise PlanError(
                    f"source {name!r} has a share of {weight / total:.3g}, less than one sequence in "
                    f"{round(1 / SMALLEST_SHARE):,}; raise its weight or leave it out"
                )
        self._schedule = Schedule([weight / total for _, weight, _ in sources])
        self.shares = tuple(part / self._schedule.whole for part in self._schedule.parts)

    def locate(self, place: int) -> Location:
        """Returns what stands at a place of the stream, counted from 0; there is no last place."""
        number, offset = divmod(place, BLOCK_PLACES)
        block = self._schedule.block(number)
        source = int(block.sources[offset])
        epoch, position = divmod(int(block.ranks[offset]), self.num_sequences[source])
        keys = permutation_keys(self.seed, self.names[source], epoch)
        return Location(self.names[source], epoch, permute_one(position, self.num_sequences[source], keys))

    def locate_many(self, places: npt.ArrayLike) -> tuple[Integers, Integers, Integers]:
        """Locates many places at once.

        Args:
            places: Places of the stream, [n].

        Returns:
            Index into `names`, epoch, and sequence within the source, [n] each.
        """
        numbers, offsets = np.divmod(np.asarray(places, dtype=np.int64), BLOCK_PLACES)
        sources, taken = np.empty_like(offsets), np.empty_like(offsets)
        for number in np.unique(numbers).tolist():
            inside, block = numbers == number, self._schedule.block(number)
            sources[inside], taken[inside] = block.sources[offsets[inside]], block.ranks[offsets[inside]]
        epochs, positions = np.divmod(taken, np.asarray(self.num_sequences)[sources])
        sequences = np.empty_like(positions)
        for source, epoch in np.unique(np.stack([sources, epochs]), axis=1).T.tolist():
            chosen = (sources == source) & (epochs == epoch)
            keys = permutation_keys(self.seed, self.names[source], epoch)
            sequences[chosen] = permute(positions[chosen], self.num_sequences[source], keys)
        return sources, epochs, sequences

    def counts(self, num_places: int) -> dict[str, int]:
        """Returns how many of the first places belong to each source."""
        return dict(zip(self.names, self._schedule.counts(num_places), strict=True))

    def epochs(self, num_places: int) -> dict[str, float]:
        """Returns how often each source has been read after that many places."""
        sizes = dict(zip(self.names, self.num_sequences, strict=True))
        return {name: count / sizes[name] for name, count in self.counts(num_places).items()}

    def check(self, num_places: int, max_epochs: Mapping[str, float | None], *, sequence_length: int) -> None:
        """Refuses a run that would read a source more often than it may.

        Args:
            num_places: Sequences the run takes from the stream.
            max_epochs: Limit by source name; `None`, or no entry, sets none.
            sequence_length: Tokens in one sequence, to say how many are missing.

        Raises:
            PlanError: Names every source that is too small, and by how many tokens.
        """
        short = []
        for (name, count), size in zip(self.counts(num_places).items(), self.num_sequences, strict=True):
            limit = max_epochs.get(name)
            if limit is None:
                continue
            allowed = math.floor(limit * size + 1e-9)
            if count > allowed:
                short.append(
                    f"source {name!r} is too small by {(count - allowed) * sequence_length:,} tokens: its share is "
                    f"{count * sequence_length:,}, and {limit:g} epochs over {size * sequence_length:,} tokens allow "
                    f"{allowed * sequence_length:,}"
                )
        if short:
            raise PlanError("; ".join(short) + "; lower its weight or pretrain.tokens, or raise its max_epochs")
