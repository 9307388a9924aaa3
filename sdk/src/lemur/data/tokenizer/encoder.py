"""Raw text to token ids, at the speed of the fast engine and with the ids of the reference.

Two libraries do the work: `fastokens` is many times as fast, `tokenizers` is what the model will be used with. Both
read one definition (`lemur.data.tokenizer.definition`), and `lemur.data.tokenizer.encoder_check` compares them before
a run trusts the fast one. Nothing here needs transformers, so that a process which encodes stays small.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lemur.data.tokenizer.definition import (
    as_json,
    largest_id,
    plain_text_definition,
    read_tokenizer,
    without_metaspace,
)
from lemur.dataset.layout import token_dtype
from lemur.errors import RecipeError

EngineName = Literal["fastokens", "tokenizers"]
"""Library that encodes; which one it is shows in the time taken, never in the ids."""
_NUM_SHOWN_CHARACTERS = 60


class Encoded(NamedTuple):
    """The tokens of some documents."""

    tokens: npt.NDArray[Any]
    """Ids of all documents one after another, each document's end-of-text token included, [tokens], little-endian
    `<u2` or `<u4`."""
    ends: npt.NDArray[np.int64]
    """Where each document ends in `tokens` (exclusive), [documents]."""


class Engine(Protocol):
    """A library that encodes, holding one tokenizer."""

    name: EngineName

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Returns the documents' ids as the library gives them, each followed by the end-of-text token."""


class FastokensEngine:
    """The fast engine.

    Args:
        definition: A tokenizer as `plain_text_definition` returns it.

    Raises:
        ValueError: The library does not know a part of the definition.
    """

    name: EngineName = "fastokens"

    def __init__(self, definition: dict[str, Any]) -> None:
        from fastokens import Tokenizer

        self._tokenizer = Tokenizer.from_json_str(as_json(without_metaspace(definition)))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Returns the documents' ids, each followed by the end-of-text token, `<u4`."""
        ids, offsets = self._tokenizer.encode_batch_flat(texts, add_special_tokens=True, split_special_tokens=True)
        return Encoded(np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<i8")[1:])


class TokenizersEngine:
    """The reference, which encodes with every kind of tokenizer.

    Args:
        definition: A tokenizer as `plain_text_definition` returns it.
    """

    name: EngineName = "tokenizers"

    def __init__(self, definition: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(as_json(definition))
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Returns the documents' ids, each followed by the end-of-text token, `<u4`."""
        documents = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=True)]
        ends = np.cumsum([len(ids) for ids in documents], dtype=np.int64)
        num_tokens = int(ends[-1]) if documents else 0
        return Encoded(np.fromiter(itertools.chain.from_iterable(documents), "<u4", num_tokens), ends)


_ENGINES: dict[EngineName, type[FastokensEngine] | type[TokenizersEngine]] = {
    "fastokens": FastokensEngine,
    "tokenizers": TokenizersEngine,
}


class Encoder:
    """Turns documents into the ids of their tokens, in the type in which they are stored.

    Args:
        engine: The library that encodes.
        end_of_text_id: Token put after each document, and found nowhere else.
        vocab_size: Entries of the tokenizer, the added ones included; every id is below it.
    """

    def __init__(self, engine: Engine, *, end_of_text_id: int, vocab_size: int) -> None:
        self._engine = engine
        self.end_of_text_id, self.vocab_size = end_of_text_id, vocab_size
        self.dtype = np.dtype(token_dtype(vocab_size))
        self.engine = f"{engine.name} {importlib.metadata.version(engine.name)}"

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Returns the documents' tokens, each document followed by the end-of-text token.

        Args:
            texts: The documents, as a list.

        Raises:
            RecipeError: A document cannot be encoded, for one because it holds half of a surrogate pair, or its text
                gives the end-of-text token.
        """
        try:
            ids, ends = self._engine.encode(texts)
        except (TypeError, ValueError):
            self._refuse_unencodable(texts)
            raise
        tokens = ids.astype(self.dtype, copy=False)
        found = np.flatnonzero(tokens == self.end_of_text_id) + 1
        if not np.array_equal(found, ends):
            raise self._cannot_separate(texts, found, ends)
        return Encoded(tokens, ends)

    def _refuse_unencodable(self, texts: Sequence[str]) -> None:
        for row, text in enumerate(texts):
            where = f"document {row:,} of {len(texts):,} encoded together, which begins {shown(text)},"
            try:
                text.encode()
                self._engine.encode([text])
            except UnicodeEncodeError as error:
                raise RecipeError(
                    f"{where} has half of a surrogate pair at character {error.start:,} and is no Unicode text; mend "
                    "it, or leave it out"
                ) from None
            except ValueError as error:
                raise RecipeError(
                    f"{where} cannot be encoded by {self.engine}: {error}; leave it out, or choose another "
                    "model.tokenizer"
                ) from error

    def _cannot_separate(
        self, texts: Sequence[str], found: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
    ) -> RecipeError:
        """Says in which document the end-of-text token stands within the text; `found` is where it stands at all."""
        row = int(np.searchsorted(ends, np.setdiff1d(found, ends)[0]))
        return RecipeError(
            f"the tokenizer turns text into its end-of-text token {self.end_of_text_id} (document {row:,} of "
            f"{len(texts):,} encoded together, which begins {shown(texts[row])}), so that documents cannot be told "
            "apart; choose another model.tokenizer, or one whose end-of-text token (eos_token) no text gives"
        )


def open_encoder(folder: Path, engine: EngineName, *, end_of_text_id: int, vocab_size: int) -> Encoder:
    """Opens the tokenizer of a folder; nothing but its `tokenizer.json` is read.

    Args:
        folder: Where the tokenizer is saved.
        engine: What `check_encoder` chose at the start of the run.
        end_of_text_id: Token put after each document.
        vocab_size: Entries of the tokenizer.

    Raises:
        RecipeError: The tokenizer has an id that is not below `vocab_size`.
    """
    tokenizer = read_tokenizer(folder)
    largest = largest_id(tokenizer)
    if largest >= vocab_size:
        raise RecipeError(
            f"the tokenizer in {folder} has the id {largest:,}, and model.tokenizer.vocab_size says {vocab_size:,}; "
            f"write {largest + 1}"
        )
    definition = plain_text_definition(tokenizer, end_of_text_id)
    return Encoder(_ENGINES[engine](definition), end_of_text_id=end_of_text_id, vocab_size=vocab_size)


def limit_threads(num_threads: int) -> None:
    """Lets both engines use so many threads, in this process and in those it starts from now on.

    Each engine asks once, when it first encodes several texts; after that the call changes nothing.
    """
    os.environ["FASTOKENS_BPE_THREADS"] = str(num_threads)
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if num_threads > 1 else "false"


def shown(text: str) -> str:
    """Returns a text's first characters as a message shows them."""
    return repr(text[:_NUM_SHOWN_CHARACTERS]) + ("…" if len(text) > _NUM_SHOWN_CHARACTERS else "")
