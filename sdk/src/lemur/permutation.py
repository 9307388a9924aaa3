"""The order of a source's sequences in an epoch: a keyed permutation, computed and never stored."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_NUM_ROUNDS = 6
_MASK = 2**64 - 1


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


def permute_one(position: int, size: int, keys: tuple[int, ...]) -> int:
    """Maps one position as `permute` does, without an array."""
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
