"""The tokenizer: learned from the run's own text or taken from an existing model, and saved for all who use it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lemur.errors import RecipeError
from lemur.progress import task
from lemur.recipe import PretrainedTokenizer, TrainedTokenizer
from lemur.results import fetch, read_manifest
from lemur.storage import open_storage

END_OF_TEXT = "<|endoftext|>"
"""Token that ends a document, in a tokenizer that this project trains."""
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words, single digits, punctuation and white space, which no token spans: the pattern of Qwen2's tokenizer."""


class SavedTokenizer(NamedTuple):
    """What is to be known of a tokenizer that has been saved."""

    end_of_text_id: int
    """Token put after each document."""
    vocab_size: int
    """Entries, the added ones included; every id is below it."""


def train_tokenizer(section: TrainedTokenizer, texts: Iterable[str], folder: Path) -> SavedTokenizer:
    """Learns a byte-level BPE without an unknown token; equal texts give an equal tokenizer.

    Args:
        section: Its size.
        texts: What it learns from.
        folder: Where it is saved, as `transformers` loads it.

    Raises:
        RecipeError: The text is too little or too plain for so many entries, or the entries are too few for bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if section.vocab_size <= len(alphabet):
        raise RecipeError(
            f"model.tokenizer.vocab_size {section.vocab_size} must be at least {len(alphabet) + 1}: one entry for "
            "each byte and one for the end of a text"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    with task("train tokenizer", total=section.sample_bytes, unit="bytes") as bar:
        tokenizer.train_from_iterator(_counted(texts, bar), trainer)
    if tokenizer.get_vocab_size() < section.vocab_size:
        raise RecipeError(
            f"the text gives a tokenizer of {tokenizer.get_vocab_size():,} entries at most, and "
            f"model.tokenizer.vocab_size asks for {section.vocab_size:,}; lower it, or give more text or sample_bytes"
        )
    wrapped: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)  # type: ignore[no-untyped-call]
    wrapped.save_pretrained(folder)
    return SavedTokenizer(wrapped.eos_token_id, section.vocab_size)


def load_tokenizer(section: PretrainedTokenizer, folder: Path) -> SavedTokenizer:
    """Takes over the tokenizer of an existing model.

    Args:
        section: Which one: a repository of the hub, a folder, or a stored result that holds a tokenizer.
        folder: Where it is saved again.

    Raises:
        RecipeError: It cannot be loaded, has another size than stated, or lacks what is needed here.
    """
    with tempfile.TemporaryDirectory(prefix="lemur-tokenizer-") as scratch:
        place = _stored_tokenizer(section.name, Path(scratch)) if "://" in section.name else section.name
        try:
            loaded: Any = _tokenizer_class(Path(place)).from_pretrained(place, revision=section.revision or "main")
        except (OSError, ValueError) as error:
            raise RecipeError(f"model.tokenizer.name {section.name!r} cannot be loaded: {error}") from error
    num_entries = 1 + max(loaded.get_vocab().values())
    if num_entries != section.vocab_size:
        raise RecipeError(
            f"tokenizer {section.name!r} has {num_entries:,} entries, and model.tokenizer.vocab_size says "
            f"{section.vocab_size:,}; write {num_entries}"
        )
    if not loaded.is_fast or loaded.eos_token_id is None:
        raise RecipeError(
            f"tokenizer {section.name!r} cannot be used: it needs a tokenizer.json and an end-of-text token (eos_token)"
        )
    loaded.save_pretrained(folder)
    return SavedTokenizer(loaded.eos_token_id, section.vocab_size)


def _tokenizer_class(folder: Path) -> Any:
    """Returns what loads a tokenizer; where its folder says that it is of the general kind, without importing torch."""
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_bytes()).get("tokenizer_class") if path.is_file() else None
    if named in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def tokenizer_fingerprint(section: TrainedTokenizer | PretrainedTokenizer) -> str:
    """Returns what a tokenizer depends on beyond its section: the content of a local or stored one."""
    if isinstance(section, TrainedTokenizer):
        return "trained"
    if "://" in section.name:
        return read_manifest(section.name).digest
    path = Path(section.name) / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "hub"


def _stored_tokenizer(uri: str, scratch: Path) -> Path:
    receipt = read_manifest(uri).receipt(open_storage(uri).uri)
    names = {stored.name for stored in read_manifest(uri).objects}
    inside = any(name.startswith("tokenizer/") for name in names)
    wanted = ["tokenizer"] if inside else sorted(name for name in names if "/" not in name and name.endswith(".json"))
    folder = fetch(receipt, scratch, wanted)
    return folder / "tokenizer" if inside else folder


def _counted(texts: Iterable[str], bar: Any) -> Iterator[str]:
    for text in texts:
        bar.advance(len(text.encode()))
        yield text
