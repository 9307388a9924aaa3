"""A corpus from what the machine has: the sources and documentation of the installed packages and of Python itself."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import re
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

TEXT_SUFFIXES = (".py", ".md", ".rst", ".txt")
_SAMPLE_BYTES = 750
"""What the tokenizer is learned from for each of its entries: more takes longer and changes little."""
_SMALLEST_BYTES, _LARGEST_BYTES = 200, 300_000
_WORD = re.compile(r"[A-Za-z]{6,}")
_CHANGED_WORDS = 8
"""In every repetition one word of so many is written another way."""


class Corpus(NamedTuple):
    """Files of one format."""

    files: tuple[Path, ...]
    """The files."""
    num_bytes: int
    """Text in them, in UTF-8."""

    def first(self, num_files: int) -> Corpus:
        """Returns a part of the corpus; its size is in proportion."""
        return Corpus(self.files[:num_files], self.num_bytes * num_files // len(self.files))


def make_corpus(folder: Path, num_bytes: int, num_files: int) -> Corpus:
    """Writes a corpus as JSONL files `{"text", "path"}`, unless it is there already.

    Documents stand in an order that has nothing to do with their places. Where the machine has less text than is
    asked for, it is repeated, each time with other words changed, so that no cache knows all of it.

    Args:
        folder: Where the files go.
        num_bytes: Text in all files together.
        num_files: Into how many files it is split.
    """
    paths = _documents()
    key = hashlib.sha256(json.dumps([num_bytes, num_files, [str(path) for path in paths]]).encode()).hexdigest()
    marker = folder / "corpus.json"
    files = tuple(folder / f"{number:05d}.jsonl" for number in range(num_files))
    if not marker.exists() or json.loads(marker.read_text())["key"] != key:
        folder.mkdir(parents=True, exist_ok=True)
        shares = [paths[number::num_files] or paths for number in range(num_files)]
        with _pool() as pool:
            sizes = list(pool.map(partial(_write, num_bytes // num_files), files, shares))
        marker.write_text(json.dumps({"key": key, "num_bytes": sum(sizes)}))
    return Corpus(files, json.loads(marker.read_text())["num_bytes"])


def make_zst(corpus: Corpus, folder: Path) -> Corpus:
    """Writes the corpus as `.jsonl.zst`, level 3."""
    return _converted(corpus, folder, ".jsonl.zst", _write_zst)


def make_parquet(corpus: Corpus, folder: Path) -> Corpus:
    """Writes the corpus as Parquet, Zstandard inside, 2,000 rows a group."""
    return _converted(corpus, folder, ".parquet", _write_parquet)


def make_tokenizer(folder: Path, vocab_size: int) -> Path:
    """Learns a byte-level BPE from a sample of what the machine has, unless it is there already."""
    if not (folder / "tokenizer.json").exists():
        sample = make_corpus(folder.with_name("sample"), _SAMPLE_BYTES * vocab_size, 1)
        with _pool() as pool:
            pool.submit(_train_tokenizer, sample, folder, vocab_size).result()
    return folder


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))


@functools.cache
def _documents() -> list[Path]:
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    found = {
        path
        for root in roots
        for path in root.rglob("*")
        if path.suffix in TEXT_SUFFIXES
        and path.is_file()
        and (root == roots[1] or "site-packages" not in path.parts)
        and _SMALLEST_BYTES <= path.stat().st_size <= _LARGEST_BYTES
    }
    return sorted(found, key=lambda path: hashlib.sha256(str(path).encode()).digest())


def _write(num_bytes: int, target: Path, paths: Sequence[Path]) -> int:
    written = repetition = 0
    with target.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            words = _Words(repetition)
            before = written
            for path in paths:
                try:
                    text = path.read_bytes().decode()
                except UnicodeDecodeError:
                    continue
                if repetition:
                    text = _WORD.sub(words.written, text)
                file.write(json.dumps({"text": text, "path": f"{path}#{repetition}"}, ensure_ascii=False) + "\n")
                written += len(text.encode())
                if written >= num_bytes:
                    break
            if written == before:
                raise ValueError(f"{len(paths)} documents hold no UTF-8 text")
            repetition += 1
    return written


class _Words(dict[str, str]):
    """How each word is written in one repetition: some with two letters exchanged."""

    def __init__(self, repetition: int) -> None:
        self._repetition = repetition

    def written(self, match: re.Match[str]) -> str:
        """Returns how the word that was found is written."""
        return self[match[0]]

    def __missing__(self, word: str) -> str:
        chance, place = divmod(zlib.crc32(f"{self._repetition} {word}".encode()), _CHANGED_WORDS)
        place = 1 + chance % (len(word) - 1) if place == 0 else 0
        self[word] = word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :] if place else word
        return self[word]


def _converted(corpus: Corpus, folder: Path, suffix: str, write: object) -> Corpus:
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / (path.name.removesuffix(".jsonl") + suffix) for path in corpus.files)
    missing = [(source, target) for source, target in zip(corpus.files, files, strict=True) if not target.exists()]
    if missing:
        with _pool() as pool:
            list(pool.map(write, *zip(*missing, strict=True)))  # type: ignore[arg-type]
    return Corpus(files, corpus.num_bytes)


def _write_zst(source: Path, target: Path) -> None:
    import zstandard

    partial_path = target.with_suffix(".partial")
    with source.open("rb") as read, partial_path.open("wb") as written:
        zstandard.ZstdCompressor(level=3).copy_stream(read, written)
    partial_path.replace(target)


def _write_parquet(source: Path, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.open("rb") as file:
        table = pa.Table.from_pylist([json.loads(line) for line in file])
    partial_path = target.with_suffix(".partial")
    pq.write_table(table, partial_path, compression="zstd", row_group_size=2000)
    partial_path.replace(target)


def _train_tokenizer(sample: Corpus, folder: Path, vocab_size: int) -> None:
    from lemur.data.tokenizer.making import train_tokenizer
    from lemur.recipe import TrainedTokenizer

    section = TrainedTokenizer(kind="train", vocab_size=vocab_size, sample_bytes=sample.num_bytes)
    train_tokenizer(section, _texts(sample), folder)


def _texts(corpus: Corpus) -> Iterator[str]:
    for path in corpus.files:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)["text"]
