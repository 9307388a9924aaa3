"""Tokenizers: learned or loaded, saved as transformers loads them, and encoding fast where they can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tokenizers import definition, end_id, save
from transformers import AutoTokenizer

from lemur.data.tokenizer.encoder import Encoder, open_encoder
from lemur.data.tokenizer.encoder_check import check_encoder
from lemur.data.tokenizer.making import END_OF_TEXT, SavedTokenizer, load_tokenizer, train_tokenizer
from lemur.errors import RecipeError
from lemur.recipe import PretrainedTokenizer, TrainedTokenizer
from lemur.results import write_result

TEXTS = [
    *(f"def function_{number}(value):\n    return value + {number * 37}\n" for number in range(60)),
    "Ünïcödé, 東京, 👩‍👩‍👧 and\r\n\ttabs; the END.",
    "the quick brown fox jumps over the lazy dog while classes inherit methods " * 3,
]
SECTION = TrainedTokenizer(kind="train", vocab_size=320)
HOSTILE = [
    "<|endoftext|>",
    "a<|im_start|>user\nhi<|im_end|>\n<|endoftext|>b",
    "<|im_end|><|im_end|>",
    "\x00\x01\x7f",
    "👩‍👩‍👧" * 50,
    " " * 1000 + "\r\n\r\n\t",
    "a" * 20_000,
    "\ufffe\uffff\u200b",
]


def encoder_of(folder: Path, saved: SavedTokenizer) -> Encoder:
    return open_encoder(folder, "fastokens", end_of_text_id=saved.end_of_text_id, vocab_size=saved.vocab_size)


@pytest.fixture
def trained(tmp_path: Path) -> SavedTokenizer:
    return train_tokenizer(SECTION, TEXTS, tmp_path / "tokenizer")


def test_a_trained_tokenizer_has_the_exact_size_and_loads_as_transformers_does(
    trained: SavedTokenizer, tmp_path: Path
) -> None:
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")

    assert len(loaded) == trained.vocab_size == 320
    assert (loaded.eos_token, loaded.eos_token_id) == (END_OF_TEXT, trained.end_of_text_id)
    assert loaded.unk_token is None


def test_equal_text_gives_equal_tokenizer_files(trained: SavedTokenizer, tmp_path: Path) -> None:
    assert train_tokenizer(SECTION, iter(TEXTS), tmp_path / "again") == trained

    for file in (tmp_path / "tokenizer").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_document_is_encoded_as_transformers_encodes_plain_text(trained: SavedTokenizer, tmp_path: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    documents = TEXTS + HOSTILE

    tokens, ends = encoder_of(tmp_path / "tokenizer", trained).encode(documents)

    expected = loaded(documents, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokens.tolist() == [token for ids in expected for token in [*ids, trained.end_of_text_id]]
    assert loaded.decode(tokens) == "".join(document + END_OF_TEXT for document in documents)
    assert len(ends) == len(documents)


def test_text_that_spells_a_special_token_of_a_chat_model_stays_text(trained: SavedTokenizer, tmp_path: Path) -> None:
    chat = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    chat.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    chat.save_pretrained(tmp_path / "chat")
    section = PretrainedTokenizer(kind="pretrained", name=str(tmp_path / "chat"), vocab_size=322)

    loaded = load_tokenizer(section, tmp_path / "kept")
    tokens, ends = encoder_of(tmp_path / "kept", loaded).encode(HOSTILE)

    assert chat.convert_tokens_to_ids("<|im_end|>") in chat(HOSTILE[1])["input_ids"]
    assert set(tokens.tolist()) & set(chat.all_special_ids) == {loaded.end_of_text_id}
    assert (tokens == loaded.end_of_text_id).sum() == len(ends) == len(HOSTILE)
    assert tokens.tolist() == encoder_of(tmp_path / "tokenizer", trained).encode(HOSTILE).tokens.tolist()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "kept")) == 322


@pytest.mark.parametrize("legacy", [True, False])
def test_a_tokenizer_of_llama_2_keeps_the_fast_library_and_the_ids_of_transformers(
    tmp_path: Path, legacy: bool
) -> None:
    content = definition("llama")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    folder = save(content, tmp_path / "llama")
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_bos_token": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    section = PretrainedTokenizer(kind="pretrained", name=str(folder), vocab_size=700)

    saved = load_tokenizer(section, tmp_path / "kept")

    assert saved == SavedTokenizer(end_id(content), 700)
    assert check_encoder(tmp_path / "kept", [], end_of_text_id=saved.end_of_text_id).engine == "fastokens"
    texts = [*TEXTS, *HOSTILE, " leading", "  two", "", " ", "</s><s> x</s>"]
    tokens, _ = encoder_of(tmp_path / "kept", saved).encode(texts)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "kept")
    expected = [loaded(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]
    assert tokens.tolist() == [token for ids in expected for token in [*ids, saved.end_of_text_id]]


def test_a_tokenizer_can_be_taken_from_a_stored_result(trained: SavedTokenizer, tmp_path: Path) -> None:
    storage = (tmp_path / "storage").as_uri()
    for prefix in ("tokenizer", ""):
        writer = write_result(storage, prefix="made", kind="tokens", stage="mix", key="0" * 64, parents={})
        writer.add_folder(tmp_path / "tokenizer", prefix)
        writer.commit()
        section = PretrainedTokenizer(kind="pretrained", name=f"{storage}/made", vocab_size=320)

        assert load_tokenizer(section, tmp_path / f"kept{prefix}") == trained

        contents = [(tmp_path / folder / "tokenizer.json").read_bytes() for folder in ("tokenizer", f"kept{prefix}")]
        assert contents[0] == contents[1]


def test_digits_are_single_tokens(trained: SavedTokenizer, tmp_path: Path) -> None:
    assert len(encoder_of(tmp_path / "tokenizer", trained).encode(["2048"]).tokens) == 5


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gives a tokenizer of \d+ entries at most.*asks for 5,000"):
        train_tokenizer(TrainedTokenizer(kind="train", vocab_size=5000), TEXTS, tmp_path)
    with pytest.raises(RecipeError, match="must be at least 257"):
        train_tokenizer(TrainedTokenizer(kind="train", vocab_size=256), TEXTS, tmp_path)


def test_a_loaded_tokenizer_must_be_the_one_described(trained: SavedTokenizer, tmp_path: Path) -> None:
    name = str(tmp_path / "tokenizer")

    with pytest.raises(RecipeError, match=r"has 320 entries, and model\.tokenizer\.vocab_size says 4,096; write 320"):
        load_tokenizer(PretrainedTokenizer(kind="pretrained", name=name, vocab_size=4096), tmp_path / "kept")
    with pytest.raises(RecipeError, match="nowhere' cannot be loaded"):
        load_tokenizer(PretrainedTokenizer(kind="pretrained", name="./nowhere", vocab_size=320), tmp_path / "kept")
