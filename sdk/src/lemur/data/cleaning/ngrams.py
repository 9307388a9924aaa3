"""Words and their n-grams, as bytes and hashes: what near-duplicates and contamination are both judged by.

Case, punctuation and white space do not count: ASCII letters are lower-cased; ASCII punctuation, control characters,
the no-break space and the typographic punctuation U+2000 to U+203F separate words, and so does a backslash with an n, r
or t behind it, as in a string within a program or a JSON file. Every other byte of UTF-8 belongs to a word.

No Python object is made for a word: texts of a quarter of a megabyte together become one array, in which each word is
followed by a space, and an n-gram is a stretch of it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 262_144
"""Text that is turned into words at once: enough that NumPy's calls cost little, and small enough for the cache."""
_SPACE = 32
_BASE = 0x9E3779B97F4A7C15
"""Base of the polynomial hash: any odd number has an inverse modulo 2**64; this one is the golden ratio's."""
_INVERSE = pow(_BASE, -1, 2**64)
_TO_WORDS = bytes(
    byte | 0x20 * (65 <= byte <= 90) if byte >= 128 or chr(byte).isalnum() or chr(byte) == "\\" else _SPACE
    for byte in range(256)
)
"""Lower-case letters, and spaces for what separates words but the backslash, which needs a second look."""
_SEPARATOR = re.compile(b"[^0-9A-Za-z\x80-\xff]")

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class Words:
    """The words of some texts, one after another.

    Args:
        texts: UTF-8 each.

    Attributes:
        letters: Every word followed by a space, uint8 [num_letters].
        ends: Where the space after each word stands in `letters`, [num_words].
        offsets: The first word of each text, and the number of words, [num_texts + 1].
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        letters = _separated(b"\0".join(texts) + b"\0")
        is_letter = letters != _SPACE
        kept = is_letter.copy()
        kept[1:] |= is_letter[:-1]
        # Each text has at least the byte that ends it, so no two texts begin at one place.
        begins = np.cumsum([0] + [len(text) + 1 for text in texts[:-1]])
        sizes = np.add.reduceat(kept.view(np.uint8), begins, dtype=np.int64)
        self.letters: npt.NDArray[np.uint8] = letters[kept]
        self.ends: Positions = np.flatnonzero(self.letters == _SPACE)
        self.offsets: Positions = np.searchsorted(self.ends, np.concatenate([[0], np.cumsum(sizes)]))

    def hashes(self, num_words: int) -> Hashes:
        """Returns a hash of every stretch of so many words, those that reach from one text into the next included.

        The hash is that of Rabin and Karp, a polynomial in the bytes, here modulo 2**64: a stretch's is the
        difference of two running sums, so that every length costs the same. Different stretches that share a hash
        are not expected, nor excluded.

        Returns:
            [max(0, all words - num_words + 1)].
        """
        count = max(0, len(self.ends) - num_words + 1)
        return self.stretch_hashes(slice(count), slice(num_words - 1, num_words - 1 + count))

    def stretch_hashes(self, firsts: slice | Positions, lasts: slice | Positions) -> Hashes:
        """Returns the hashes of some stretches, as `hashes` does, by their first and last words."""
        sums = self._sums[1:][lasts] - self._sums[firsts]
        return sums * _powers(_INVERSE, len(self.letters))[self.begins[firsts]]

    def is_within(self, num_words: int) -> npt.NDArray[np.bool_]:
        """Says which stretches of so many words do not reach from one text into the next, as `hashes` orders them."""
        within = np.ones(max(0, len(self.ends) - num_words + 1), dtype=np.bool_)
        crossing = self.offsets[1:-1, None] - np.arange(1, num_words)
        within[crossing[(crossing >= 0) & (crossing < len(within))]] = False
        return within

    @property
    def num_texts(self) -> int:
        """How many texts the words are from."""
        return len(self.offsets) - 1

    def texts_of(self, words: Positions) -> Positions:
        """Returns the text that each word belongs to, [n]."""
        return np.searchsorted(self.offsets, words, side="right") - 1

    def num_telling(self, firsts: Positions, counts: Positions) -> Positions:
        """Returns how many different words of two letters or more each of some stretches has.

        Args:
            firsts: First word of each stretch, [n].
            counts: How many words it has, [n].
        """
        names = self.hashes(1)
        # A word stands for the first time in a stretch where the one before it that is the same stands before that.
        order = np.argsort(names, kind="stable")
        previous = np.full(len(names), -1)
        again = np.flatnonzero(names[order[1:]] == names[order[:-1]])
        previous[order[again + 1]] = order[again]
        is_telling = (self.ends - self.begins > 1) & (self.letters[self.begins] > ord("9"))
        found = np.zeros(len(firsts), dtype=np.int64)
        for offset in range(int(counts.max(initial=0))):
            words = np.minimum(firsts + offset, len(names) - 1)
            found += is_telling[words] & (previous[words] < firsts) & (offset < counts)
        return found

    def end_of(self, text: int) -> int:
        """Returns where the letters of a text that has words end."""
        return int(self.ends[self.offsets[text + 1] - 1]) + 1

    def stretch(self, first: int, num_words: int) -> bytes:
        """Returns some words in a row, with a space after each."""
        return self.letters[self.begins[first] : self.ends[first + num_words - 1] + 1].tobytes()

    @functools.cached_property
    def begins(self) -> Positions:
        """Where each word begins in `letters`, [num_words]."""
        begins = np.zeros_like(self.ends)
        begins[1:] = self.ends[:-1] + 1
        return begins

    @functools.cached_property
    def _sums(self) -> Hashes:
        """Running sums up to the end of each word, and 0 before the first, [num_words + 1]."""
        terms = self.letters * _powers(_BASE, len(self.letters))
        return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, out=terms)[self.ends]])


def blocks(texts: Sequence[str], *, overlap_words: int) -> Iterator[tuple[int, Words]]:
    """Turns texts into words, a block at a time.

    Texts stand in blocks together; one longer than a block is spread over several, each beginning with the words that
    the one before ended with.

    Args:
        texts: Any number of them.
        overlap_words: Words that are repeated: one fewer than the longest n-gram that is looked for.

    Yields:
        Number of the block's first text, and the words. The last text of a block may go on in the next one.
    """
    waiting: list[bytes] = []
    size = 0
    for number, text in enumerate(texts):
        encoded = text.encode()
        if waiting and size + len(encoded) > BLOCK_BYTES:
            yield number - len(waiting), Words(waiting)
            waiting, size = [], 0
        if len(encoded) > 2 * BLOCK_BYTES:
            for words in _long_text(encoded, overlap_words):
                yield number, words
        else:
            waiting.append(encoded)
            size += len(encoded)
    if waiting:
        yield len(texts) - len(waiting), Words(waiting)


def _long_text(text: bytes, overlap_words: int) -> Iterator[Words]:
    repeated, begin = b"", 0
    while begin < len(text):
        end = _boundary(text, begin + BLOCK_BYTES)
        words = Words([repeated + text[begin:end]])
        yield words
        first = max(0, len(words.ends) - overlap_words)
        repeated = words.stretch(first, len(words.ends) - first) if overlap_words and len(words.ends) else b""
        begin = end


def _boundary(text: bytes, place: int) -> int:
    """Returns where a word ends next, or the end; what goes on for a whole block is cut between two characters."""
    found = _SEPARATOR.search(text, place, place + BLOCK_BYTES)
    if found:
        return found.start()
    end = place + BLOCK_BYTES
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return min(end, len(text))


def _separated(text: bytes) -> npt.NDArray[np.uint8]:
    """Returns the text with lower-case letters, and spaces where words are separated."""
    lowered = text.translate(_TO_WORDS)
    for escape in (rb"\n", rb"\r", rb"\t", b"\\"):
        lowered = lowered.replace(escape, b" " * len(escape))
    letters = np.frombuffer(bytearray(lowered), dtype=np.uint8)
    if b"\xe2\x80" in text:
        lead = np.flatnonzero((letters[:-2] == 0xE2) & (letters[1:-1] == 0x80))
        letters[(lead[:, None] + np.arange(3)).ravel()] = _SPACE
    if b"\xc2\xa0" in text:
        lead = np.flatnonzero((letters[:-1] == 0xC2) & (letters[1:] == 0xA0))
        letters[(lead[:, None] + np.arange(2)).ravel()] = _SPACE
    return letters


def _powers(base: int, count: int) -> Hashes:
    """Returns the powers of a number modulo 2**64, from the zeroth on."""
    return _rounded_powers(base, 1 << max(20, (count - 1).bit_length()))[:count]


@functools.lru_cache(maxsize=4)
def _rounded_powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, out=powers)
