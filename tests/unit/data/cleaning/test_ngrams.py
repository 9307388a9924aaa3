"""Words and n-grams: what counts as the same, and that blocks do not show."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemur.data.cleaning import ngrams
from lemur.data.cleaning.ngrams import Words, blocks

TEXT = st.lists(st.text(alphabet="anNZ9_-.\\\n\0é漢\u2019\xa0", max_size=12), max_size=20).map(" ".join)
TEXTS = st.lists(TEXT, min_size=1, max_size=5)


def words_of(text: str) -> list[str]:
    """Returns the words as they are meant, by other means than the code."""
    spaced = re.sub(
        r"\\[nrtNRT]|[\x00-\x7f\xa0\u2000-\u203f]", lambda found: found[0] if found[0].isalnum() else " ", text
    )
    return re.sub("[A-Z]", lambda found: found[0].lower(), spaced).split(" ")


def ngrams_of(text: str, num_words: int) -> list[str]:
    words = list(filter(None, words_of(text)))
    return [" ".join(words[begin : begin + num_words]) for begin in range(len(words) - num_words + 1)]


def hash_of(ngram: str) -> int:
    return int(Words([ngram.encode()]).hashes(len(ngram.split(" ")))[0])


def test_case_punctuation_and_white_space_do_not_count() -> None:
    def letters(text: str) -> str:
        return Words([text.encode()]).letters.tobytes().decode()

    assert letters("Hello, World!\n\tfoo_bar(x)") == "hello world foo bar x "
    assert letters("Janet\u2019s \u201cducks\u201d\u2014lay\xa016") == letters("janet's 'ducks' - lay 16")
    assert letters("ÉCOLE 漢字。naïve") == "École 漢字。naïve "
    assert letters(r"print('one\ntwo\r\n\t \\Three\')") == "print one two hree "
    assert letters(" ...\0") == ""


@given(TEXTS, st.integers(1, 4))
def test_stretches_have_equal_hashes_where_their_words_are_equal(texts: list[str], num_words: int) -> None:
    words = Words([text.encode() for text in texts])
    expected = [ngram for text in texts for ngram in ngrams_of(text, num_words)]

    found = words.hashes(num_words)[words.is_within(num_words)].tolist()

    assert found == [hash_of(ngram) for ngram in expected]
    assert len(set(found)) == len(set(expected))
    assert np.diff(words.offsets).tolist() == [len(ngrams_of(text, 1)) for text in texts]


@given(texts=TEXTS, num_words=st.integers(1, 4), block_bytes=st.integers(40, 60))
def test_the_size_of_a_block_changes_no_ngram(texts: list[str], num_words: int, block_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "BLOCK_BYTES", block_bytes)
        found: list[list[int]] = [[] for _ in texts]
        for first, words in blocks([f"x {text} y" for text in texts], overlap_words=num_words - 1):
            chosen = np.flatnonzero(words.is_within(num_words))
            hashes = words.hashes(num_words)[chosen].tolist()
            for text, value in zip(words.texts_of(chosen).tolist(), hashes, strict=True):
                found[first + text].append(value)

    assert found == [[hash_of(ngram) for ngram in ngrams_of(f"x {text} y", num_words)] for text in texts]


def test_a_text_without_any_space_is_cut_rather_than_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "BLOCK_BYTES", 1000)

    sizes = [len(words.letters) for _, words in blocks(["f" * 100_000], overlap_words=2)]

    assert max(sizes) < 10_000
    assert sum(sizes) > 100_000


def test_words_that_tell_nothing_are_not_counted() -> None:
    words = Words([b"1 2 3 a b c the the 4th cat 1a sat"])

    counts = words.num_telling(np.array([0, 0, 6, 7]), np.array([6, 12, 2, 5]))

    assert counts.tolist() == [0, 3, 1, 3]
