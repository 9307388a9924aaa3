"""Which sequence of which source stands at place i of the training stream: pure functions, no state.

Three steps lead from a place to a sequence. The *schedule* says which source the place belongs to, such that
every prefix of the stream holds each source within one sequence of its share. Counting that source's places
before i gives the *epoch* and the position in it. A keyed *permutation*, computed and never stored, turns the
position into a sequence. So a run can stop anywhere and go on with any number of processes.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.errors import PlanError

if TYPE_CHECKING:
    from lemur.recipe import DataSection

Integers = npt.NDArray[np.int64]

MAX_PERIOD = 2**18
"""Longest period of a schedule. Longer ones round the shares less and take longer to compute (here 0.4 s)."""
_EXACT = 1e-15
"""Rounding of a share below which only floating point is to blame."""
_NUM_ROUNDS = 6
_MASK = 2**64 - 1


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

    The shares are rounded to multiples of 1 / `period`. The period is the shortest of at most `MAX_PERIOD` places
    that holds the shares exactly, as it does wherever the weights are small whole numbers or short decimals; where
    there is none, it is the one that rounds them least. `rounding_error` says by how much, at most 2**-18. With k
    sources and n places, a source's count differs from n times its rounded share by at most 1 - 1 / (2k - 2), for
    every n (Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980), and so from its requested
    share by less than one sequence while n < 1 / ((2k - 2) * `rounding_error`); with exact shares that is any n.

    Args:
        sources: Name, weight and number of sequences of each source.
        seed: Seed of the order within each epoch.

    Raises:
        PlanError: A source has no sequence, or a weight is too small to show in a period.
    """

    def __init__(self, sources: Sequence[tuple[str, float, int]], seed: int) -> None:
        self.names = tuple(name for name, _, _ in sources)
        self.num_sequences = tuple(count for _, _, count in sources)
        self.seed = seed
        for name, _, count in sources:
            if count < 1:
                raise PlanError(f"source {name!r} holds no complete sequence; give it more data or leave it out")
        total = math.fsum(weight for _, weight, _ in sources)
        requested = tuple(weight / total for _, weight, _ in sources)
        self._per_period, self.rounding_error = _round_shares(requested, self.names)
        self.period = sum(self._per_period)
        self.shares = tuple(count / self.period for count in self._per_period)
        self._schedule = _schedule(self._per_period)
        self._rank = _ranks(self._schedule)

    def locate(self, place: int) -> Location:
        """Returns what stands at a place of the stream, counted from 0; there is no last place."""
        period, offset = divmod(place, self.period)
        source = int(self._schedule[offset])
        taken = period * self._per_period[source] + int(self._rank[offset])
        epoch, position = divmod(taken, self.num_sequences[source])
        keys = permutation_keys(self.seed, self.names[source], epoch)
        return Location(self.names[source], epoch, _permute_one(position, self.num_sequences[source], keys))

    def locate_many(self, places: npt.ArrayLike) -> tuple[Integers, Integers, Integers]:
        """Locates many places at once.

        Args:
            places: Places of the stream, [n].

        Returns:
            Index into `names`, epoch, and sequence within the source, [n] each.
        """
        periods, offsets = np.divmod(np.asarray(places, dtype=np.int64), self.period)
        sources = self._schedule[offsets].astype(np.int64)
        taken = periods * np.asarray(self._per_period)[sources] + self._rank[offsets]
        epochs, positions = np.divmod(taken, np.asarray(self.num_sequences)[sources])
        sequences = np.empty_like(positions)
        for source, epoch in np.unique(np.stack([sources, epochs]), axis=1).T.tolist():
            chosen = (sources == source) & (epochs == epoch)
            keys = permutation_keys(self.seed, self.names[source], epoch)
            sequences[chosen] = permute(positions[chosen], self.num_sequences[source], keys)
        return sources, epochs, sequences

    def counts(self, num_places: int) -> dict[str, int]:
        """Returns how many of the first places belong to each source."""
        periods, rest = divmod(num_places, self.period)
        partial = np.bincount(self._schedule[:rest], minlength=len(self.names)).tolist()
        counts = zip(self.names, self._per_period, partial, strict=True)
        return {name: periods * per_period + extra for name, per_period, extra in counts}

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


def _round_shares(requested: tuple[float, ...], names: tuple[str, ...]) -> tuple[tuple[int, ...], float]:
    """Returns how many places of a period each source gets, and the largest error of a share."""
    periods = np.arange(1, MAX_PERIOD + 1, dtype=np.float64)
    error, total, least = np.zeros(MAX_PERIOD), np.zeros(MAX_PERIOD), np.full(MAX_PERIOD, np.inf)
    for share in requested:
        places = np.rint(periods * share)
        np.maximum(error, np.abs(places / periods - share), out=error)
        np.minimum(least, places, out=least)
        total += places
    error[(total != periods) | (least < 1)] = np.inf
    exact = np.flatnonzero(error <= _EXACT)
    best = int(exact[0] if exact.size else np.argmin(error))
    if not np.isfinite(error[best]):
        smallest = min(range(len(names)), key=lambda index: requested[index])
        raise PlanError(
            f"source {names[smallest]!r} has a share of {requested[smallest]:.3g}, less than one sequence in "
            f"{MAX_PERIOD:,}; raise its weight or leave it out"
        )
    return tuple(round((best + 1) * share) for share in requested), float(error[best])


def _schedule(per_period: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """Returns the source of each place of a period, by Tijdeman's algorithm.

    Place n (from 1) goes to a source whose count lags its share of n by at least 1 / (2k - 2), and among those to
    the one that would first lag by more than 1 - 1 / (2k - 2) if it were passed over.
    """
    period, slack = sum(per_period), max(2 * len(per_period) - 2, 1)
    openings, deadlines, owners = [], [], []
    for source, count in enumerate(per_period):
        taken = np.arange(count, dtype=np.int64)
        openings.append(-(-(taken * slack + 1) * period // (count * slack)))
        deadlines.append(((taken + 1) * slack - 1) * period // (count * slack))
        owners.append(np.full(count, source))
    if len(per_period) == 1:
        return np.zeros(1, dtype=np.uint16)
    opening, deadline, owner = (np.concatenate(part) for part in (openings, deadlines, owners))
    order = np.argsort(opening, kind="stable")
    waiting = list(zip(opening[order].tolist(), deadline[order].tolist(), owner[order].tolist(), strict=True))
    schedule, ready, next_waiting = [], list[tuple[int, int]](), 0
    for place in range(1, period + 1):
        while next_waiting < period and waiting[next_waiting][0] <= place:
            heapq.heappush(ready, waiting[next_waiting][1:])
            next_waiting += 1
        schedule.append(heapq.heappop(ready)[1])
    return np.array(schedule, dtype=np.uint16)


def _ranks(schedule: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    """Returns for each place how many earlier places of the period have the same source."""
    order = np.argsort(schedule, kind="stable")
    ends = np.cumsum(np.bincount(schedule))
    starts = np.concatenate([[0], ends[:-1]])
    ranks = np.empty(len(schedule), dtype=np.int32)
    ranks[order] = np.arange(len(schedule)) - np.repeat(starts, np.diff(ends, prepend=0))
    return ranks


@functools.lru_cache(maxsize=4096)
def permutation_keys(seed: int, source: str, epoch: int) -> tuple[int, ...]:
    """Returns the round keys of a source's order in an epoch, from a SHA-512 over what names them."""
    digest = hashlib.sha512(f"{seed}/{epoch}/{source}".encode()).digest()
    return tuple(int.from_bytes(digest[8 * index : 8 * index + 8], "little") for index in range(_NUM_ROUNDS))


def permute(positions: Integers, size: int, keys: tuple[int, ...]) -> Integers:
    """Maps positions one to one onto [0, size), in an order that the keys decide.

    A Feistel network permutes the smallest power of two that holds `size`; a value that falls outside goes round
    again until it is inside (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        positions: Values in [0, size), [n].
        size: How many values there are.
        keys: From `permutation_keys`.

    Returns:
        Their images, [n].
    """
    values: npt.NDArray[np.uint64] = _feistel(positions.astype(np.uint64), size, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], size, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _permute_one(position: int, size: int, keys: tuple[int, ...]) -> int:
    value: int = _feistel(position, size, keys)
    while value >= size:
        value = _feistel(value, size, keys)
    return value


def _feistel(value: Any, size: int, keys: tuple[int, ...]) -> Any:
    """Permutes [0, 2**bits); the same arithmetic serves Python's integers and arrays of uint64."""
    bits = max(2, (size - 1).bit_length())
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    low, high = value & low_mask, value >> low_bits
    for index, key in enumerate(keys):
        if index % 2:
            high = high ^ (_mix(low, key) & high_mask)
        else:
            low = low ^ (_mix(high, key) & low_mask)
    return (high << low_bits) | low


def _mix(value: Any, key: int) -> Any:
    """Scrambles 64 bits with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = value ^ key
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
