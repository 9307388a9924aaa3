"""The check that chooses the engine: it finds every difference, names the first, and costs little."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizers import KINDS, TEXTS, add_token, definition, end_id, joining_end, llama, save

from lemur.data.reading.documents import Document
from lemur.data.tokenizer import encoder_check
from lemur.data.tokenizer.encoder import Encoded, FastokensEngine, open_encoder
from lemur.data.tokenizer.encoder_check import EncoderChoice, check_encoder
from lemur.errors import RecipeError


def documents(*texts: str) -> list[Document]:
    return [
        Document(text, f"some.jsonl:{row}", len(text.encode()), hashlib.sha256(text.encode()).digest())
        for row, text in enumerate(texts, start=1)
    ]


def choose(content: dict[str, Any], folder: Path, *texts: str) -> EncoderChoice:
    return check_encoder(save(content, folder), documents(*(texts or TEXTS)), end_of_text_id=end_id(content))


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_takes_the_fast_library_for_both_kinds_of_tokenizer(tmp_path: Path, kind: str) -> None:
    choice = choose(definition(kind), tmp_path)

    assert choice.engine == "fastokens"
    assert "the same ids as tokenizers" in choice.reason


def test_the_check_falls_back_where_the_fast_library_knows_a_part_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    choice = choose(definition("bytes") | {"normalizer": {"type": "NFKC"}}, tmp_path)

    assert choice.engine == "tokenizers"
    assert "fastokens cannot load this tokenizer (ValueError: normalizer error: unsupported" in choice.reason
    assert f"encoded with tokenizers, which is slower, since {choice.reason}" in capfd.readouterr().err


def test_the_check_finds_that_a_vocabulary_without_some_letters_is_encoded_differently(tmp_path: Path) -> None:
    # Where `<` has no entry, the fast library takes the text `<0x0A>` for the byte of that name.
    choice = choose(llama(""), tmp_path)

    assert choice.engine == "tokenizers"
    assert "encodes hostile text 'bytes spelt out' differently" in choice.reason


def test_the_check_finds_that_an_added_token_is_followed_by_something_else(tmp_path: Path) -> None:
    content = definition("llama first")
    # With `first` the reference puts no space after an added token, which the fast definition does not say.
    add_token(content, "<tool>")

    choice = choose(content, tmp_path)

    assert choice.engine == "tokenizers"
    assert "encodes the added token '<tool>' in text differently" in choice.reason


class _Faulty(FastokensEngine):
    """The fast library with a fault."""

    fault: Callable[[list[str], Encoded], Encoded]

    def encode(self, texts: Sequence[str]) -> Encoded:
        return type(self).fault(list(texts), super().encode(texts))


def plant(monkeypatch: pytest.MonkeyPatch, fault: Callable[[list[str], Encoded], Encoded]) -> None:
    monkeypatch.setattr(_Faulty, "fault", staticmethod(fault), raising=False)
    monkeypatch.setattr(encoder_check, "FastokensEngine", _Faulty)


def test_the_check_names_the_first_differing_document_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_on_planted(texts: list[str], encoded: Encoded) -> Encoded:
        tokens = encoded.tokens.copy()
        if texts[0].startswith("planted"):
            tokens[2] = 499
        return Encoded(tokens, encoded.ends)

    plant(monkeypatch, wrong_on_planted)
    reference = open_encoder(save(definition("bytes"), tmp_path), "tokenizers", end_of_text_id=0, vocab_size=1000)
    right = reference.encode(["planted text"]).tokens[2]

    choice = choose(definition("bytes"), tmp_path, "fine", "planted text", "planted more")

    assert choice.engine == "tokenizers"
    assert choice.reason == (
        f"fastokens encodes document some.jsonl:2 differently ('planted text': token 2 is 499 instead of {right})"
    )


def test_the_check_finds_documents_out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_first(texts: list[str], encoded: Encoded) -> Encoded:
        parts = np.split(encoded.tokens, encoded.ends[:-1])[::-1]
        return Encoded(np.concatenate(parts), np.cumsum([len(part) for part in parts]))

    plant(monkeypatch, last_first)

    choice = choose(definition("bytes"), tmp_path)

    assert choice.engine == "tokenizers"
    assert "encodes document some.jsonl:1 among others differently" in choice.reason


def test_the_check_survives_a_panic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    def panics_on_emoji(texts: list[str], encoded: Encoded) -> Encoded:
        if "👩‍👩‍👧‍👦" in texts[0]:
            raise panic("index out of bounds")
        return encoded

    plant(monkeypatch, panics_on_emoji)

    choice = choose(definition("bytes"), tmp_path)

    assert choice.engine == "tokenizers"
    assert "cannot encode hostile text 'emoji with joiners'" in choice.reason
    assert "panic: index out of bounds" in choice.reason


def test_the_check_finds_that_half_a_pair_is_let_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lenient(FastokensEngine):
        def encode(self, texts: Sequence[str]) -> Encoded:
            return super().encode([text.encode(errors="replace").decode() for text in texts])

    monkeypatch.setattr(encoder_check, "FastokensEngine", Lenient)

    assert "half of a surrogate pair" in choose(definition("bytes"), tmp_path).reason


def test_a_tokenizer_that_finds_its_special_tokens_in_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"text that spells its special token '</s>' becomes that token \(7\)"):
        choose(joining_end(), tmp_path)


def test_the_check_is_bounded_however_large_the_sample(tmp_path: Path) -> None:
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(len(taken))
            yield documents("some text with words, " * 5000)[0]

    content = definition("bytes")
    choice = check_encoder(save(content, tmp_path), endless(), end_of_text_id=end_id(content))

    assert choice.engine == "fastokens"
    assert len(taken) == -(-encoder_check.COMPARED_BYTES // (22 * 5000))
