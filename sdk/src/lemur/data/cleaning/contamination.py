"""Documents that hold a part of a benchmark: so many words in a row that one of its texts holds too.

A text of a benchmark counts with each of its stretches of `ngram_words` words. One that is shorter, but has at least
eight, counts as a whole; what is shorter still could stand anywhere. Where no text of a record is long enough, as with
a short question and its choices, the record's texts count one after another, in their order, in the opposite one, and
with the letters A, B, C before the choices.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lemur.data.cleaning.benchmark_texts import BenchmarkRecord, benchmark_records
from lemur.data.cleaning.ngrams import Words, blocks
from lemur.data.cleaning.stretches import StretchColumns, Stretches, stretch_columns

WHOLE_TEXT_WORDS = 8
"""A text of fewer words cannot be told from ordinary language, and is not looked for."""
MIN_TELLING_WORDS = 4
"""Different words of two letters or more that a stretch must have. Numbers and single letters in a row, such as
`1 2 3 4 5 6 7 8`, stand in many a program; where a text has nothing else, one such word is enough."""
_RECORDS_AT_ONCE = 1024


class Match(NamedTuple):
    """What a document shares with a benchmark."""

    benchmark: str
    """Name of the benchmark."""
    words: str
    """The words that both hold, in lower case and without punctuation."""


class ContaminationIndex:
    """What the benchmarks hold, arranged so that documents are looked through quickly.

    Args:
        summary: What is known of the benchmarks: `ngram_words`, and by name `num_records` and `num_too_short`.
        letters: The benchmarks' words as `Words.letters`, uint8 [num_letters].
        stretches: The stretches that are looked for, by the number of words they are found by.
    """

    def __init__(
        self, summary: Mapping[str, Any], letters: npt.NDArray[np.uint8], stretches: Mapping[int, Stretches]
    ) -> None:
        self._summary = dict(summary)
        self.ngram_words: int = summary["ngram_words"]
        self.num_records: dict[str, int] = summary["num_records"]
        """Records of each benchmark."""
        self.num_too_short: dict[str, int] = summary["num_too_short"]
        """How many of them have too few words to be looked for."""
        self._names = list(self.num_records)
        self._letters = letters
        self._stretches = stretches

    @classmethod
    def build(cls, benchmarks: Mapping[str, str], *, ngram_words: int) -> ContaminationIndex:
        """Reads benchmarks.

        Args:
            benchmarks: File or folder by name.
            ngram_words: Words in a row that must be shared.

        Raises:
            RecipeError: A benchmark is missing, empty or cannot be read.
        """
        builder = _Builder(ngram_words)
        for name, root in benchmarks.items():
            builder.add(name, benchmark_records(name, root))
        return builder.index()

    def find(self, text: str) -> Match | None:
        """Returns what a document shares with a benchmark, if it does."""
        return self.find_many([text])[0]

    def find_many(self, texts: Sequence[str]) -> list[Match | None]:
        """Looks through documents; many together take less time than one by one.

        Returns:
            For each document its first n-gram that a benchmark holds, or else the first of the shorter texts.
        """
        found: list[Match | None] = [None] * len(texts)
        for first, words in blocks(texts, overlap_words=self.ngram_words - 1):
            for num_words, stretches in self._stretches.items():
                places, entries = stretches.look_up(words.hashes(num_words))
                texts_of = words.texts_of(places)
                for place, entry, text in zip(places.tolist(), entries.tolist(), texts_of.tolist(), strict=True):
                    if found[first + text] is None:
                        found[first + text] = self._compare(words, place, words.end_of(text), stretches, entry)
        return found

    def save(self, path: Path) -> None:
        """Writes the index to a file (`.npz`), the same bytes for the same benchmarks."""
        summary = np.frombuffer(json.dumps(self._summary).encode(), dtype=np.uint8)
        arrays: dict[str, npt.NDArray[Any]] = {"summary": summary, "letters": self._letters}
        for num_words, stretches in self._stretches.items():
            arrays |= {f"{name}-{num_words}": array for name, array in stretches.arrays().items()}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> ContaminationIndex:
        """Reads an index that was saved."""
        with np.load(path) as arrays:
            summary = json.loads(arrays["summary"].tobytes())
            lengths = [int(name.removeprefix("hashes-")) for name in arrays.files if name.startswith("hashes-")]
            stretches = {
                length: Stretches(*(arrays[f"{name}-{length}"] for name in Stretches.names)) for length in lengths
            }
            return cls(summary, arrays["letters"], stretches)

    def _compare(self, words: Words, word: int, end: int, stretches: Stretches, entry: int) -> Match | None:
        """Returns the match at a word of a text that ends there, if the words are the same and not only their hash."""
        begin, place, size = words.begins[word], stretches.begins[entry], stretches.sizes[entry]
        shared = words.letters[begin : begin + size].tobytes()
        if begin + size > end or shared != self._letters[place : place + size].tobytes():
            return None
        return Match(self._names[stretches.owners[entry]], shared.decode(errors="replace").rstrip())


class _Builder:
    """Collects the stretches of benchmarks."""

    def __init__(self, ngram_words: int) -> None:
        self._ngram_words = ngram_words
        self._whole_words = min(WHOLE_TEXT_WORDS, ngram_words)
        self._num_records: dict[str, int] = {}
        self._num_too_short: dict[str, int] = {}
        self._letters: list[npt.NDArray[np.uint8]] = []
        self._num_letters = 0
        self._parts: dict[int, list[StretchColumns]] = {ngram_words: [], self._whole_words: []}

    def add(self, name: str, records: Iterator[BenchmarkRecord]) -> None:
        """Adds a benchmark."""
        self._num_records[name] = self._num_too_short[name] = 0
        while batch := list(itertools.islice(records, _RECORDS_AT_ONCE)):
            numbers, texts = self._texts_that_count(batch)
            unknown = self._add_texts(texts, [self._ngram_words, self._whole_words], MIN_TELLING_WORDS)
            rest = self._add_texts([texts[text] for text in unknown], [self._ngram_words], 1)
            unknown_texts = np.isin(np.arange(len(texts)), unknown[rest])
            self._num_records[name] += len(batch)
            self._num_too_short[name] += len(batch) - len(np.unique(numbers[~unknown_texts]))

    def index(self) -> ContaminationIndex:
        """Returns the index of all that was added."""
        summary = {
            "ngram_words": self._ngram_words,
            "num_records": self._num_records,
            "num_too_short": self._num_too_short,
        }
        stretches = {num_words: Stretches.of_columns(parts) for num_words, parts in self._parts.items() if parts}
        letters = np.concatenate([np.empty(0, dtype=np.uint8), *self._letters])
        return ContaminationIndex(summary, letters, stretches)

    def _add_texts(self, texts: Sequence[str], lengths: list[int], min_telling: int) -> npt.NDArray[np.int64]:
        """Adds the stretches of texts, and returns the numbers of the texts that have none."""
        is_known = np.zeros(len(texts), dtype=np.bool_)
        for first, words in blocks(texts, overlap_words=self._ngram_words - 1):
            for length in set(lengths):
                columns, found = stretch_columns(words, length, ngram_words=self._ngram_words, min_telling=min_telling)
                is_known[first + found] = True
                owners = columns.owners + np.uint16(len(self._num_records) - 1)
                self._parts[length].append(columns._replace(begins=columns.begins + self._num_letters, owners=owners))
            self._letters.append(words.letters)
            self._num_letters += len(words.letters)
        return np.flatnonzero(~is_known)

    def _texts_that_count(self, records: Sequence[BenchmarkRecord]) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Returns the texts that are looked through, and the record of each: joined ones where none is long enough."""
        num_words = iter(_count_words([text for record in records for text in record.texts]))
        numbers = list[int]()
        texts = list[str]()
        for number, record in enumerate(records):
            texts.extend(record.texts)
            if max(itertools.islice(num_words, len(record.texts))) < self._ngram_words:
                texts.extend(filter(None, [" ".join(record.texts), " ".join(record.texts[::-1]), record.lettered]))
            numbers.extend([number] * (len(texts) - len(numbers)))
        return np.array(numbers, dtype=np.int64), texts


def _count_words(texts: Sequence[str]) -> list[int]:
    counts: list[int] = np.diff(Words([text.encode() for text in texts]).offsets).tolist()
    return counts
