"""Lines of a file that may be compressed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lemur.data.reading.source_files import cannot_be_read
from lemur.errors import RecipeError

LONGEST_LINE_BYTES = 64 * 2**20
"""A longer line is cut off there, so that a file without lines does not fill the memory."""
_FORMATS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
"""Name and first bytes of a format, by a file's ending."""
_BUFFER_BYTES = 2**18


def lines(path: Path, name: str | None = None) -> Iterator[bytes]:
    """Yields the lines of a plain, gzip (`.gz`) or Zstandard (`.zst`) file, without their newline.

    Args:
        path: The file; its ending says how it is compressed.
        name: What messages call it; `None` for the path.

    Raises:
        RecipeError: The file cannot be opened, or is not of the format that its name says.
        EOFError: It breaks off or is damaged; the lines before the last few hundred kilobytes have been yielded.
    """
    with _opened(path, name or str(path)) as file:
        try:
            while line := file.readline(LONGEST_LINE_BYTES):
                piece = line
                while not piece.endswith(b"\n") and (piece := file.readline(LONGEST_LINE_BYTES)):
                    pass
                yield line.removesuffix(b"\n")
        except OSError as error:
            raise EOFError(f"damaged or breaks off: {error}") from error


def _opened(path: Path, name: str) -> BinaryIO:
    codec, magic = _FORMATS.get(path.suffix, ("", b""))
    try:
        plain = path.open("rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise cannot_be_read(name, error) from error
    if not codec:
        return plain
    with plain:
        # Zstandard allows frames that hold no data, with sixteen magic numbers, before the first that does.
        start = plain.read(4)
        skippable = codec == "zstd" and start[1:] == b"\x2a\x4d\x18" and start[0] >> 4 == 5
        if not start.startswith(magic) and not skippable:
            raise RecipeError(f"{name} is no {codec} file; rename it, or leave it out with `exclude`")
    import pyarrow

    # Arrow reads files of many members or frames, says when one breaks off, and holds only a piece of what is in it.
    stream = pyarrow.input_stream(str(path), compression=codec)
    return io.BufferedReader(stream, _BUFFER_BYTES)
