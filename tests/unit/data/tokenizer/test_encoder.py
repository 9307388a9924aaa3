"""Encoding: the same ids whichever library gives them, text that stays text, and the check that chooses."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import KINDS, TEXTS, add_token, definition, end_id, joining_end, save
from tokenizers import Tokenizer, decoders

from lemur.data.tokenizer.encoder import Encoder, EngineName, open_encoder
from lemur.errors import RecipeError

ENGINES: list[EngineName] = ["fastokens", "tokenizers"]
PIECES = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<s>", "<unk>", "<0x0A>", "<|", "|>", "▁", "▁▁"),
    *(" ", "  ", "    ", "\n", "\r\n", "\t", "\0", "\x85", "\u200b", "\u00a0", "\ufeff", "\u0301", "e\u0301", "é"),
    *("the", " the", "value", "return", "'s", "'LL", "123", "٣", "東京", "👩‍👩‍👧", "ﬁ", "İ", "\u017f", "_", "!!", "."),
]


def plain_text() -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"])
    return st.one_of(
        st.text(characters),
        st.lists(st.one_of(st.sampled_from(PIECES), st.text(characters, max_size=3)), max_size=20).map("".join),
    )


def opened(content: dict[str, Any], engine: EngineName, *, end_of_text_id: int | None = None) -> Encoder:
    end = end_id(content) if end_of_text_id is None else end_of_text_id
    with tempfile.TemporaryDirectory() as folder:
        return open_encoder(save(content, Path(folder)), engine, end_of_text_id=end, vocab_size=1000)


@functools.cache
def both(kind: str) -> list[Encoder]:
    return [opened(definition(kind), engine) for engine in ENGINES]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(plain_text(), max_size=6))
def test_the_ids_are_the_same_whichever_library_gives_them(kind: str, texts: list[str]) -> None:
    fast, reference = (encoder.encode(texts) for encoder in both(kind))

    np.testing.assert_array_equal(fast.tokens, reference.tokens)
    np.testing.assert_array_equal(fast.ends, reference.ends)
    assert fast.tokens.dtype == reference.tokens.dtype == np.dtype("<u2")
    assert fast.ends.dtype == reference.ends.dtype == np.int64


@pytest.mark.parametrize("kind", ["bytes", "llama", "llama first"])
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(plain_text(), min_size=1, max_size=4))
def test_a_document_is_encoded_alike_alone_and_among_others(engine: EngineName, kind: str, texts: list[str]) -> None:
    encoder = both(kind)[ENGINES.index(engine)]

    together = encoder.encode(texts)

    alone = [encoder.encode([text]).tokens for text in texts]
    np.testing.assert_array_equal(together.tokens, np.concatenate(alone))
    assert together.ends.tolist() == np.cumsum([len(tokens) for tokens in alone]).tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_documents_end_with_the_end_of_text_token_and_decode_to_themselves(engine: EngineName) -> None:
    content = definition("bytes")
    texts = [*TEXTS, "", *PIECES]

    tokens, ends = opened(content, engine).encode(texts)

    assert tokens[ends - 1].tolist() == [end_id(content)] * len(texts)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.ByteLevel()
    starts = [0, *ends[:-1]]
    decoded = [tokenizer.decode(tokens[start : end - 1].tolist()) for start, end in zip(starts, ends, strict=True)]
    assert decoded == texts


@pytest.mark.parametrize("engine", ENGINES)
def test_no_documents_are_no_tokens(engine: EngineName) -> None:
    tokens, ends = both("bytes")[ENGINES.index(engine)].encode([])

    assert (len(tokens), len(ends), tokens.dtype.str) == (0, 0, "<u2")


@pytest.mark.parametrize("engine", ENGINES)
def test_ids_take_four_bytes_where_two_are_too_few(tmp_path: Path, engine: EngineName) -> None:
    content = definition("bytes")
    folder = save(content, tmp_path)
    narrow, wide = (
        open_encoder(folder, engine, end_of_text_id=end_id(content), vocab_size=size) for size in (2**16, 2**16 + 1)
    )

    assert (narrow.dtype.str, wide.dtype.str) == ("<u2", "<u4")
    assert wide.encode(TEXTS).tokens.dtype.str == "<u4"
    assert wide.encode(TEXTS).tokens.tolist() == narrow.encode(TEXTS).tokens.tolist()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["bytes", "llama", "llama first"])
def test_text_that_spells_a_special_token_never_becomes_it(kind: str, engine: EngineName) -> None:
    content = definition(kind)
    # Added as some chat models add theirs: not marked as special.
    turn_end = add_token(content, "<|turn_end|>", normalized=True)
    spelt = [token["content"] for token in content["added_tokens"]]
    special = {token["id"] for token in content["added_tokens"]}
    texts = [form.format(token) for token in spelt for form in ("{0}", "{0}{0}", " {0} ", "a{0}b", "\n{0}\n{0}")]
    encoder = opened(content, engine)

    tokens, ends = encoder.encode([*texts, "".join(texts)])

    assert turn_end in special
    assert set(np.delete(tokens, ends - 1).tolist()) & special == set()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_of_text_token_that_is_not_marked_special_is_not_found_in_text_either(engine: EngineName) -> None:
    content = definition("bytes")
    end = add_token(content, "[END]")

    tokens, ends = opened(content, engine, end_of_text_id=end).encode(["a[END]b", "[END]"])

    assert (np.flatnonzero(tokens == end) + 1).tolist() == ends.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_added_token_for_ordinary_text_is_found(engine: EngineName) -> None:
    content = definition("bytes")
    indent = add_token(content, "        ")

    tokens, _ = opened(content, engine).encode(["if:\n        go"])

    assert indent in tokens


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_cut_padded_or_left_to_chance(engine: EngineName) -> None:
    content = definition("llama")
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<unk>",
    }  # fmt: skip
    content["model"]["dropout"] = 0.5

    encoded = opened(content, engine).encode(TEXTS)

    assert encoded.tokens.tolist() == both("llama")[0].encode(TEXTS).tokens.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_half_of_a_surrogate_pair_is_refused_by_name(engine: EngineName) -> None:
    encoder = both("bytes")[ENGINES.index(engine)]

    with pytest.raises(RecipeError, match=r"document 1 of 3 .*begins 'broken .*surrogate pair at character 7"):
        encoder.encode(["fine", "broken \ud800", "fine"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_document_whose_text_gives_the_end_of_text_token_is_named(engine: EngineName) -> None:
    encoder = opened(joining_end(), engine)

    assert encoder.encode(["a", "sa"]).tokens.tolist() == [9, 7, 3, 9, 7]
    with pytest.raises(RecipeError, match=r"end-of-text token 7 \(document 2 of 3 .*begins 'sa</s>a'\)"):
        encoder.encode(["a", "", "sa</s>a"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tokenizer_with_more_ids_than_stated_is_refused(tmp_path: Path, engine: EngineName) -> None:
    content = definition("bytes")
    number = add_token(content, "<extra>", special=True)

    with pytest.raises(RecipeError, match=rf"has the id {number}, and model\.tokenizer\.vocab_size .*{number + 1}"):
        open_encoder(save(content, tmp_path), engine, end_of_text_id=0, vocab_size=number)


def test_a_document_that_the_tokenizers_pattern_cannot_match_is_named() -> None:
    content = definition("bytes")
    # Matching this takes time exponential in the number of words.
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"(\w+\s?)+$|\S+|\s+"}
    encoder = opened(content, "fastokens")

    with pytest.raises(RecipeError, match=r"document 1 of 3 .*begins 'value value .*cannot be encoded by fastokens"):
        encoder.encode(["the value", "value " * 30 + "!", "the value"])


def test_a_process_that_encodes_is_small_and_has_one_thread(tmp_path: Path) -> None:
    content = definition("bytes")
    program = f"""
import sys
from pathlib import Path
from lemur.data.tokenizer.encoder import limit_threads, open_encoder

def num_threads():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("Threads"))

before = num_threads()
limit_threads(1)
for engine in ("fastokens", "tokenizers"):
    encoder = open_encoder(Path(sys.argv[1]), engine, end_of_text_id={end_id(content)}, vocab_size=1000)
    encoder.encode(["some text " * 1000] * 64)
    print(encoder.engine, num_threads() - before, {{"torch", "transformers"}} & set(sys.modules))
    print("tokenizers" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(save(content, tmp_path))]

    finished = subprocess.run(command, capture_output=True, text=True, check=True)

    lines = finished.stdout.splitlines()
    assert [line.split(maxsplit=2)[::2] for line in lines[::2]] == [[name, "0 set()"] for name in ENGINES]
    assert lines[1::2] == ["False", "True"]
