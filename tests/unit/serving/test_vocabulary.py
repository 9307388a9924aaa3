"""Tokens as bytes, and where they begin in a text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import make_tokenizer

from lemur.errors import ServingError
from lemur.serving.vocabulary import TextBuilder, Vocabulary

VOCABULARY = Vocabulary(make_tokenizer())
TEXTS = st.text(max_size=60) | st.sampled_from(
    ["<|im_start|>a\n🦊 <|im_end|>", " \u2028é\u0301", "\N{REPLACEMENT CHARACTER}"]
)


@settings(deadline=None)
@given(TEXTS.filter(lambda text: text.isprintable() or "\n" in text))
def test_tokens_put_together_are_the_text_and_begin_where_they_say(text: str) -> None:
    prompt = VOCABULARY.read_text(text, with_offsets=True)
    pieces = [VOCABULARY.piece(token_id) for token_id in prompt.token_ids]
    assert b"".join(pieces) == text.encode()
    assert VOCABULARY.text(prompt.token_ids) == text
    reached = 0
    for piece, offset in zip(pieces, prompt.offsets, strict=True):
        assert offset == len(text.encode()[:reached].decode(errors="ignore"))
        reached += len(piece)


@given(st.lists(st.binary(max_size=5), max_size=12))
def test_any_bytes_make_the_text_that_python_makes_of_them(pieces: list[bytes]) -> None:
    builder = TextBuilder()
    built = "".join(builder.add(piece)[0] for piece in pieces) + builder.end()
    assert built == b"".join(pieces).decode(errors="replace")
    assert builder.num_characters == len(built)


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=8))
def test_offsets_stay_within_the_text_and_never_go_back_even_in_broken_text(pieces: list[bytes]) -> None:
    builder = TextBuilder()
    offsets = [builder.add(piece)[1] for piece in pieces]
    builder.end()
    assert offsets == sorted(offsets)
    assert offsets[0] == 0
    assert offsets[-1] < builder.num_characters


def test_a_token_that_is_no_whole_character_is_named_by_its_bytes() -> None:
    token_ids = VOCABULARY.read_text("漢").token_ids
    assert [VOCABULARY.name(token_id) for token_id in token_ids] == ["bytes:\\xe6", "bytes:\\xbc", "bytes:\\xa2"]


def test_an_id_beyond_the_tokenizer_stands_for_nothing() -> None:
    assert VOCABULARY.piece(10_000_000) == b""


def sentencepiece_like() -> Vocabulary:
    """A tokenizer as Llama 2 has one: spaces as low lines, unknown characters as bytes, a token at the start."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    space = "\N{LOWER ONE EIGHTH BLOCK}"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), space, "a", "b", "ab", f"{space}ab"]
    backend = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            [("a", "b"), (space, "ab")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"))


def test_a_sentencepiece_tokenizer_gives_bytes_and_offsets_of_the_text_as_sent() -> None:
    vocabulary = sentencepiece_like()
    prompt = vocabulary.read_text("ab ab🦊b", with_offsets=True)
    names = [vocabulary.name(token_id) for token_id in prompt.token_ids]
    assert names[:3] == ["<s>", " ab", " ab"]
    assert vocabulary.text(prompt.token_ids[3:]) == "🦊b"
    assert prompt.offsets[:3] == [0, 0, 2]
    assert prompt.offsets[-1] == 6


def test_a_tokenizer_that_drops_spaces_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ServingError, match="WordPiece"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend))
