"""Keys and values of the rows that are being answered, in buffers that grow seldom.

transformers' `DynamicCache` copies everything it holds for each new token. Here a token is written in place,
and rows join and leave between tokens. All rows end at the same column; shorter ones begin later, and an
attention mask hides the columns before them.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_SPARE_COLUMNS = 64


class BufferedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one decoder layer, each of shape (rows, heads, columns, head size)."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_columns = 0
        self._keys = self._values = torch.empty(0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Takes device, type and sizes from the first keys and values."""
        self._keys, self._values = (self._empty(states) for states in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends columns and returns all there are, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.num_columns, self.num_columns + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            capacity = end + max(_SPARE_COLUMNS, end // 2)
            self._keys, self._values = (
                self._moved(states, 0, start, capacity) for states in (self._keys, self._values)
            )
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self.num_columns = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def select(self, rows: torch.Tensor, num_dropped: int) -> None:
        """Keeps some rows, in the given order and as often as named, without their first columns."""
        end = self.num_columns
        kept = end - num_dropped
        self._keys, self._values = (
            self._moved(states[rows], num_dropped, end, kept + _SPARE_COLUMNS) for states in (self._keys, self._values)
        )
        self.num_columns = kept

    def join(self, other: BufferedLayer) -> None:
        """Puts the rows of another cache below these; the narrower of the two gets empty columns in front."""
        width = max(self.num_columns, other.num_columns)
        layers = (self, other)
        self._keys, self._values = (
            torch.cat([_widened(states, layer.num_columns, width) for states, layer in zip(pair, layers, strict=True)])
            for pair in ((self._keys, other._keys), (self._values, other._values))
        )
        self.num_columns = width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns how many columns a mask covers, and the first of them."""
        return self.num_columns + query_length, 0

    def get_seq_length(self) -> int:
        """Returns the number of columns."""
        return self.num_columns

    def get_max_length(self) -> int:
        """Returns -1: there is no limit."""
        return -1

    @staticmethod
    def _empty(states: torch.Tensor) -> torch.Tensor:
        rows, heads, columns, size = states.shape
        return states.new_zeros(rows, heads, columns + _SPARE_COLUMNS, size)

    @staticmethod
    def _moved(states: torch.Tensor, start: int, end: int, capacity: int) -> torch.Tensor:
        rows, heads, _, size = states.shape
        moved = states.new_zeros(rows, heads, capacity, size)
        moved[:, :, : end - start] = states[:, :, start:end]
        return moved


def _widened(states: torch.Tensor, num_columns: int, width: int) -> torch.Tensor:
    rows, heads, _, size = states.shape
    widened = states.new_zeros(rows, heads, width + _SPARE_COLUMNS, size)
    widened[:, :, width - num_columns : width] = states[:, :, :num_columns]
    return widened


class KeyValueCache(Cache):
    """One `BufferedLayer` for each decoder layer."""

    layers: list[BufferedLayer]  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=BufferedLayer)

    def select(self, rows: torch.Tensor, num_dropped: int) -> None:
        """Keeps some rows, in the given order and as often as named, without their first columns."""
        for layer in self.layers:
            layer.select(rows, num_dropped)

    def join(self, other: KeyValueCache) -> None:
        """Puts the rows of another cache below these."""
        for layer, added in zip(self.layers, other.layers, strict=True):
            layer.join(added)
