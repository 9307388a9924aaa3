"""Lines of a file that may be compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from lemur.errors import RecipeError

_CHUNK_BYTES = 2**20


def lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a plain, gzip (`.gz`) or Zstandard (`.zst`) file, without their newline.

    Raises:
        RecipeError: The file is not of the format that its name says.
        EOFError: A compressed file breaks off or is damaged; the lines before that have been yielded.
    """
    chunks = {".gz": _gzip_chunks, ".zst": _zstandard_chunks}.get(path.suffix, _plain_chunks)(path)
    pieces: list[bytes] = []
    for chunk in chunks:
        head, *rest = chunk.split(b"\n")
        pieces.append(head)
        if rest:
            yield b"".join(pieces)
            yield from rest[:-1]
            pieces = [rest[-1]]
    if last := b"".join(pieces):
        yield last


def _plain_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _gzip_chunks(path: Path) -> Iterator[bytes]:
    _check_magic(path, b"\x1f\x8b", "gzip")
    with gzip.open(path, "rb") as file:
        try:
            while chunk := file.read1(_CHUNK_BYTES):
                yield chunk
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise EOFError(f"gzip stream is damaged or breaks off: {error}") from error


def _zstandard_chunks(path: Path) -> Iterator[bytes]:
    import zstandard

    _check_magic(path, b"\x28\xb5\x2f\xfd", "Zstandard")
    # The library's own reader takes a file that breaks off for one that ends, so frames are followed here.
    frame = zstandard.ZstdDecompressor().decompressobj()
    with path.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            while data:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise EOFError(f"Zstandard stream is damaged: {error}") from error
                data = frame.unused_data
    if not frame.eof:
        raise EOFError("Zstandard stream breaks off")


def _check_magic(path: Path, magic: bytes, name: str) -> None:
    with path.open("rb") as file:
        if file.read(len(magic)) != magic:
            raise RecipeError(f"{path} is no {name} file; rename it, or leave it out with `exclude`")
