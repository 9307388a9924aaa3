"""Arrays that grow on disk: `.npy` files written row by row, so that memory does not grow with them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt


class Column:
    """A `.npy` file that rows are appended to.

    Args:
        path: The file.
        dtype: NumPy's name of the values.
        width: Values in a row; `None` for one, so that the array has one axis.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int | None = None) -> None:
        self._dtype, self._row_shape = np.dtype(dtype), () if width is None else (width,)
        self.num_rows = 0
        self._file = path.open("w+b")
        self._write_header()

    def append(self, rows: npt.NDArray[np.generic]) -> None:
        """Appends rows, [n] or [n, width]."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self.num_rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A header leaves room for the first axis to grow, so that it can be written again over itself.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self._dtype)
        shape = (self.num_rows, *self._row_shape)
        np.lib.format.write_array_header_1_0(self._file, {"descr": description, "fortran_order": False, "shape": shape})
